"""What the suites declare: the shapes of HaloNet as published, axes through one point, and no empty group."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "suites"))

import bench_layer
import bench_operator
import problems

from halobench import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem
from halobench.cases.case import Case
from halobench.cases.options import TIERS, Options
from halobench.cases.workload import Slot
from halobench.models import catalogue

SUITES = (bench_operator, bench_layer)
GROUPS = {"side", "block", "halo", "grid", "positions", "stages"}

# Vaswani et al. 2021, table 2: image side, block, halo, r_v; H1 and H2 have the stages of H0.
PAPER = {
    "H0": (256, 8, 3, 1),
    "H3": (320, 10, 3, 1),
    "H4": (384, 12, 2, 1),
    "H5": (448, 14, 2, 2.5),
    "H6": (512, 8, 4, 3),
    "H7": (600, 10, 3, 4),
}
SIDES = {
    "H0": [64, 32, 16, 8],
    "H3": [80, 40, 20, 10],
    "H4": [96, 48, 24, 12],
    "H5": [112, 56, 28, 14],
    "H6": [128, 64, 32, 16],
    "H7": [150, 75, 38, 19],
}
VALUE_DIMS = {
    "H0": [16, 16, 32, 64],
    "H3": [16, 16, 32, 64],
    "H4": [16, 16, 32, 64],
    "H5": [40, 40, 80, 160],
    "H6": [48, 48, 96, 192],
    "H7": [64, 64, 128, 256],
}


def options(tier, device="cuda", **changes):
    chosen = {"dtype": "bfloat16" if device == "cuda" else "float32", "batch": None, **changes}
    return Options(tier, tuple(backends.names()), device, **chosen)


@pytest.mark.parametrize("network", PAPER)
def test_stages_are_those_of_the_paper(network):
    _, block, halo, _ = PAPER[network]
    stages = dict(problems.stages(options("full")))
    found = [stages[f"{network} stage {number}"] for number in (1, 2, 3, 4)]
    assert [stage.height for stage in found] == [stage.width for stage in found] == SIDES[network]
    assert {stage.geometry for stage in found} == {Geometry(block, halo)}
    assert [stage.heads for stage in found] == [4, 8, 8, 8]
    assert [stage.key_dim for stage in found] == [16, 16, 32, 64]
    assert [stage.value_dim for stage in found] == VALUE_DIMS[network]
    assert all(stage.relative for stage in found)


def test_every_network_is_there():
    assert {label.partition(" ")[0] for label, _ in problems.stages(options("full"))} == set(PAPER)
    assert {label for label, _ in problems.stages(options("smoke"))} == {f"H0 stage {number}" for number in range(1, 5)}
    assert {name.upper(): tuple(vars(network).values()) for name, network in problems.NETWORKS.items()} == PAPER


def test_the_networks_agree_with_the_models():
    """The shapes measured by themselves are those that the models have."""
    for name, network in problems.NETWORKS.items():
        model = catalogue.entry(f"halonet_{name}")
        recipe = model.recipe
        found = (model.image_size, recipe.block, recipe.halo, recipe.value_ratio)
        assert found == tuple(vars(network).values())


def test_the_reference_point():
    assert problems.reference(options("default")) == Problem(
        Geometry(8, 3), 64, 64, batch=64, heads=4, key_dim=16, value_dim=16, relative=True, dtype="bfloat16"
    )
    assert problems.reference(options("full")) == problems.reference(options("default"))
    smoke = problems.reference(options("smoke", "cpu"))
    assert (smoke.height, smoke.batch, smoke.dtype) == (32, 1, "float32")


@pytest.mark.parametrize("tier", TIERS)
def test_all_axes_go_through_the_reference_point(tier):
    point = problems.reference(options(tier))
    (entry,) = [entry for entry in problems.entries(options(tier)) if entry.is_reference]
    assert entry.problem == point
    assert "grid" in entry.groups


@pytest.mark.parametrize("tier", TIERS)
def test_an_axis_changes_one_thing(tier):
    point = problems.reference(options(tier))
    for entry in problems.entries(options(tier)):
        for group, free in (("block", {"block"}), ("halo", {"halo"}), ("grid", {"block", "halo"})):
            if group in entry.groups:
                changed = {
                    n for n in ("block", "halo") if getattr(entry.problem.geometry, n) != getattr(point.geometry, n)
                }
                assert changed <= free
                assert dataclasses.replace(entry.problem, geometry=point.geometry) == point
        if "side" in entry.groups:
            side = entry.problem.height
            assert dataclasses.replace(point, height=side, width=side) == entry.problem
        if "positions" in entry.groups:
            assert dataclasses.replace(point, relative=False) == entry.problem


@pytest.mark.parametrize("tier", TIERS)
def test_no_group_is_empty_and_no_problem_twice(tier):
    entries = problems.entries(options(tier))
    assert {group for entry in entries for group in entry.groups} == GROUPS
    assert len({entry.problem for entry in entries}) == len(entries)
    for group in GROUPS - {"positions"}:
        assert sum(group in entry.groups for entry in entries) > 1, group


def test_tiers_grow():
    counts = [len(problems.entries(options(tier))) for tier in ("smoke", "default", "full")]
    assert counts == sorted(set(counts))


def test_batch_and_dtype_are_the_users():
    for suite in SUITES:
        for case in suite.cases(options("smoke", batch=3, dtype="float16")):
            assert (case.problem.batch, case.problem.dtype) == (3, "float16")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("tier", TIERS)
def test_every_backend_takes_part_in_every_suite(suite, tier):
    """At the reference point at least, and in both directions."""
    groups = {"side"} if suite is bench_layer else {"side", "block", "halo"}
    cases = [case for case in suite.cases(options(tier)) if groups <= set(case.groups)]
    for direction in ("forward", "training"):
        assert {case.backend for case in cases if case.direction == direction} == set(backends.names())


def test_only_the_chosen_backends():
    chosen = Options("smoke", ("conv", "sdpa"), "cpu", "float32")
    for suite in SUITES:
        assert {case.backend for case in suite.cases(chosen)} == {"conv", "sdpa"}


def test_each_backend_gets_a_border_it_knows():
    for suite in SUITES:
        for case in suite.cases(options("smoke")):
            expected = "zero" if case.backend == "timm_halo" else "masked"
            assert case.problem.geometry.border == expected


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_are_unique_and_rows_are_json(tier, device):
    """One name, one case: over all suites, so that a journal and a comparison can tell them apart."""
    cases = [case for suite in SUITES for case in suite.cases(options(tier, device))]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names) > 50
    for case in cases:
        row = case.row()
        assert json.loads(json.dumps(row)) == row
        assert all(isinstance(case, Case) for case in cases)


def test_layers_wrap_the_problems_of_the_operator():
    """A slot's operator is one that the operator suite measures."""
    measured = {case.problem for case in bench_operator.cases(options("full"))}
    for case in bench_layer.cases(options("full")):
        assert isinstance(case.task, Slot)
        assert case.task.layer.positions == "split"
        assert case.problem in measured

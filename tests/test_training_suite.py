"""What the training suite declares: the published pairs, their rivals beside them, and nothing twice."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "suites"))

import bench_training
import slots

from halobench import Unsupported, backends, models
from halobench.cases.network import Network, NetworkCase
from halobench.cases.options import TIERS, Options
from halobench.figures import published
from halobench.measure import networks
from halobench.models.norm.deferred import FusedBatchNormAct2d
from halobench.train.workload import COMPILE_MODES

GROUPS = {"pairs", "hybrids", "transfer", "components", "side", "grid", "inference", "accelerate", "modes", "memory"}


def options(tier, names=None, **changes):
    device = "cpu" if tier == "smoke" else "cuda"
    chosen = {"dtype": "bfloat16" if device == "cuda" else "float32", "batch": None, **changes}
    return Options(tier, tuple(names or backends.names()), device, **chosen)


def cases(tier, names=None, **changes):
    return list(bench_training.cases(options(tier, names, **changes)))


@pytest.mark.parametrize("tier", TIERS)
def test_names_are_unique_and_rows_are_json(tier):
    found = cases(tier)
    assert len({case.name for case in found}) == len(found) > 10
    for case in found:
        row = case.row()
        assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize("tier", TIERS)
def test_rivals_share_batch_dtype_and_mode(tier):
    """What is compared differs in the network alone; both at their published sizes."""
    paired = [case for case in cases(tier) if case.rival is not None and "components" not in case.groups]
    assert paired
    for case in paired:
        own, rival = case.network, case.rival
        assert (own.batch, own.dtype) == (rival.batch, rival.dtype)
        assert (own.compiled, own.captured) == (rival.compiled, rival.captured)
        if {"pairs", "hybrids"} & set(case.groups) and tier != "smoke":
            assert own.side == models.entry(own.model).image_size
            assert rival.side == models.entry(rival.model).image_size


@pytest.mark.parametrize(("tier", "numbers"), [("default", range(3)), ("full", range(8))])
def test_the_pairs_of_the_tiers(tier, numbers):
    """Each HaloNet meets the EfficientNet of its number, which has a row of its own before: eager as timm wrote it,
    compiled at its best.
    """
    pairs = [case for case in cases(tier) if "pairs" in case.groups]
    for compiled in (False, True):
        of = [case for case in pairs if case.network.compiled == compiled]
        rivals = {case.network.model: case.rival.model for case in of if case.rival and case.network.backend}
        best = "fused_" if compiled else ""
        assert rivals == {f"halonet_h{number}": f"{best}efficientnet_b{number}" for number in numbers}
        order = [case.network for case in cases(tier)]
        for case in of:
            if case.rival:
                assert order.index(case.rival) < order.index(case.network)
        assert "timm_halonet_h1" in {case.network.model for case in of}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_rival_at_its_best_is_taken_in_turn_with_itself_as_timm_wrote_it(device):
    """Every EfficientNet that is measured compiled; it is a rival only where its normalisation is at work."""
    found = list(bench_training.cases(replace(options("full"), device=device)))
    fused = {case.network: case for case in found if case.network.model.startswith("fused_")}
    usual = [case.network for case in found if case.direction == "training" and case.network.compile_mode is None]
    written = {network for network in usual if network.compiled and network.model.startswith("efficient")}
    assert {case.rival for case in fused.values()} == written
    assert len(written) == 8
    for network, case in fused.items():
        assert set(case.groups) <= {"accelerate", "modes"}
        assert replace(network, model=network.model.removeprefix("fused_"), compile_mode=None) == case.rival
        assert models.entry(network.model).image_size == models.entry(case.rival.model).image_size
    rivals = {case.rival for case in found} & set(fused)
    best = {network for network in fused if network.compile_mode == bench_training.BEST_MODE}
    assert rivals == (best if device == "cuda" else set())


def test_models_with_fused_normalisation_are_those_that_they_are_named_after():
    for name in (name for name in models.names() if name.startswith("fused_")):
        ours, theirs = models.entry(name), models.entry(name.removeprefix("fused_"))
        assert ours == replace(theirs, name=name, recipe=replace(theirs.recipe, fused=True))
    with torch.device("meta"):
        ours, theirs = models.create("fused_efficientnet_mini"), models.create("efficientnet_mini")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert sum(isinstance(module, FusedBatchNormAct2d) for module in ours.modules()) == 21


@pytest.mark.parametrize(
    ("changes", "direction", "device"),
    [
        ({}, "training", "cpu"),
        ({"compiled": False}, "training", "cuda"),
        ({"captured": True, "compiled": False}, "training", "cuda"),
        ({}, "forward", "cuda"),
    ],
)
def test_where_fused_normalisation_is_not_at_work_nothing_is_measured_twice(changes, direction, device):
    """As a case and as a rival, before anything is built."""
    best = Network("fused_efficientnet_mini", 64, 2, "float32", **{"compiled": True, **changes})
    own = replace(best, model="resnet_mini")
    for network, rival in ((best, None), (own, best)):
        case = NetworkCase("training", network, direction, device, rival=rival)
        with pytest.raises(Unsupported, match="serves compiled training steps on a GPU"):
            networks.measure(case, None, None, None)


def test_cases_of_one_scope_follow_one_another():
    """So that a rival is prepared once and no compiled code is dropped in between."""
    scopes = [case.scope for case in cases("default")]
    changes = sum(one != other for one, other in pairwise(scopes))
    assert changes == len(set(scopes)) - 1


def test_no_group_is_empty():
    assert {group for case in cases("full") for group in case.groups} == GROUPS
    assert {group for case in cases("default") for group in case.groups} == {"pairs", "accelerate"}
    assert {group for case in cases("smoke") for group in case.groups} == GROUPS - {
        "transfer",
        "components",
        "modes",
        "memory",
    }


def test_the_figures_know_what_the_suite_measures():
    full = cases("full")
    hybrids = {case.network.model for case in full if "hybrids" in case.groups}
    assert hybrids == set(published.HYBRIDS)
    transfer = {case.network.model for case in full if "transfer" in case.groups and case.rival}
    assert transfer == set(published.TRANSFER)
    labels = {case.label for case in full if "components" in case.groups and case.rival}
    assert labels == set(published.COMPONENTS[1:])


def test_only_attention_with_the_networks_border_takes_part():
    """A few backends unless the user names some; one that cannot be imported takes part, to say why."""
    few = {case.network.backend for case in cases("default")} - {None}
    assert few == set(slots.BACKENDS) & set(backends.names())
    named = {case.network.backend for case in cases("default", ["flex", "conv", "timm_halo", "naive_unfold"])}
    assert named == {None, "flex", "naive_unfold"}


def test_the_user_chooses_the_batch_else_it_shrinks_in_the_full_tier():
    assert {case.network.batch for case in cases("default")} == {128}
    assert {case.network.batch for case in cases("full", batch=8)} == {8}
    assert {case.shrink for case in cases("full")} == {True}
    assert {case.shrink for case in [*cases("full", batch=8), *cases("default")]} == {False}


def test_inference_is_measured_at_batch_1_and_large():
    inference = [case for case in cases("full") if "inference" in case.groups]
    assert {case.network.batch for case in inference} == {1, 128}
    assert {case.direction for case in inference} == {"forward"}


@pytest.mark.parametrize(("tier", "device"), [("full", "cuda"), ("smoke", "cuda"), ("full", "cpu"), ("smoke", "cpu")])
def test_axes_components_and_inference_are_captured_on_a_gpu_and_nothing_else_is(tier, device):
    """Launched, their small points would show the host, and to compile each takes a minute."""
    found = list(bench_training.cases(replace(options(tier), device=device)))
    asking = {"side", "grid", "components", "inference"}
    for case in found:
        network = case.network
        asks = bool(asking & set(case.groups)) and network.magnitude is None and not network.compiled
        assert case.network.captured == (asks and device == "cuda")
        assert case.rival is None or case.rival.captured == case.network.captured
        assert not (case.network.captured and case.network.compiled)
        assert ("captured" in case.name) == case.network.captured == case.row()["network"]["captured"]
        if case.network.captured:
            assert asking >= set(case.groups)
    assert {"side", "grid"} <= {group for case in found for group in case.groups}


def test_inference_is_also_measured_as_it_is_deployed_each_pair_in_turn():
    """Compiled with folded normalisation, both sides, at the batches of the eager ones."""
    inference = [case for case in cases("full", ["fused_cuda"]) if "inference" in case.groups]
    eager = [case for case in inference if case.network.captured and not case.network.model.startswith("timm")]
    folded = [case for case in inference if case.network.compile_mode == "folded"]
    as_eager = [replace(one.network, compiled=False, captured=True, compile_mode=None) for one in folded]
    assert as_eager == [case.network for case in eager]
    assert len(folded) == 2 * 2 * 8
    for case in folded:
        own = case.network.model
        rival = case.rival and (case.rival.model, case.rival.compile_mode)
        paired = own.startswith("halonet_h")
        assert rival == ((own.replace("halonet_h", "efficientnet_b"), "folded") if paired else None)


def test_every_mode_of_the_compiler_is_tried_for_the_rivals():
    """As timm wrote them and fused, which is at work on channels-last maps only; folding is for inference."""
    steps = [mode for mode, one in COMPILE_MODES.items() if mode and not one.folds]
    assert sorted(bench_training.MODES) == sorted(steps)
    assert bench_training.BEST_MODE in {None, *steps}
    found = [case for case in cases("full") if "modes" in case.groups]
    for number in (0, 1):
        written = f"efficientnet_b{number}"
        tried = {(case.network.model, case.network.compile_mode) for case in found if number_of(case) == number}
        fused = {mode for mode in (None, *steps) if COMPILE_MODES[mode].layout is torch.channels_last}
        assert tried == {(written, mode) for mode in (None, *steps)} | {(f"fused_{written}", mode) for mode in fused}
    for case in found:
        assert case.rival is None or (case.rival.compile_mode, case.rival.model[-2:]) == (None, case.network.model[-2:])
        assert case.row()["network"]["compile_mode"] == case.network.compile_mode
        assert case.network.compile_mode is None or case.name.endswith(f"-compiled-{case.network.compile_mode}")


def test_a_step_that_keeps_less_is_taken_in_turn_with_the_same_that_keeps_all():
    found = [case for case in cases("full", ["fused", "fused_cuda"]) if "memory" in case.groups]
    assert [(case.network.model, case.network.backend) for case in found] == [
        (f"halonet_h{number}", backend) for number in (0, 1) for backend in ("fused", "fused_cuda")
    ]
    pairs = [case.network for case in cases("full", ["fused", "fused_cuda"]) if "pairs" in case.groups]
    for case in found:
        assert case.rival in pairs
        assert case.network == replace(case.rival, overrides=(("recompute_projections", True),))


def number_of(case):
    return int(case.network.model[-1])


def test_a_rival_in_another_mode_is_named_in_the_rows(monkeypatch):
    monkeypatch.setattr(bench_training, "BEST_MODE", "autotuned")
    found = [case for case in cases("default", ["fused_cuda"]) if case.network.model == "halonet_h1"]
    rows = {(case.row()["rival"], case.row()["rival_compile_mode"]) for case in found}
    assert rows == {("efficientnet_b1", None), ("fused_efficientnet_b1", "autotuned")}
    best = [case for case in cases("default") if case.network.model == "fused_efficientnet_b1"]
    assert [case.network.compile_mode for case in best] == ["autotuned"]
    assert [case.rival.compile_mode for case in best] == [None]


def test_components_add_what_they_say():
    lines = {line.label: line for line in bench_training.COMPONENTS}
    assert lines["SE"].halonet == (("squeeze_excitation", "all"),)
    last = lines["LS, SE, SiLU, RA"]
    assert (last.resnet, last.label_smoothing, last.magnitude) == ("seresnet50", 0.1, 10)
    for line in bench_training.COMPONENTS:
        models.create("halonet_50", num_classes=1, depths=(1, 1, 1, 1), **dict(line.halonet))
        models.create(line.resnet, num_classes=1, **dict(line.resnet_overrides))

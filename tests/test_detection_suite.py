"""What the detection suite declares, how a detector is measured, and how that stands beside what was published."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "suites"))

import bench_detection
from matplotlib.figure import Figure

from halobench import Unsupported, backends, models, plot
from halobench.attention.compilation import INDUCTOR_OPTIONS
from halobench.cases.network import Network, NetworkCase
from halobench.cases.options import TIERS, Options
from halobench.figures import detection as figures
from halobench.figures.selection import network_selections
from halobench.figures.style import look
from halobench.machine.clock import clock_for
from halobench.measure import conformance, networks, parts
from halobench.measure.engine import Incorrect, Settings
from halobench.measure.latency import LEAST, Effort
from halobench.measure.rivals import Rivals
from halobench.pages import detection as pages
from halobench.records.schema import checked_row
from halobench.records.table import read
from halobench.train import detection
from tests import results_files

OWN = Network("maskrcnn_halonet_mini", 64, 1, "float32", "sdpa", proposals=8)
RIVAL = Network("maskrcnn_resnet_mini", 64, 1, "float32", proposals=8)
TRAINING_PARTS = ["preparation", "backbone", "pyramid", "heads", "backward", "optimizer"]


def cases(tier, names=None, **changes):
    device = "cpu" if tier == "smoke" else "cuda"
    dtype = "bfloat16" if device == "cuda" else "float32"
    return list(bench_detection.cases(Options(tier, tuple(names or backends.names()), device, dtype, **changes)))


@pytest.mark.parametrize("tier", TIERS)
def test_each_group_is_in_turn_with_resnet_50_and_no_case_stands_twice(tier):
    found = cases(tier)
    assert len({case.name for case in found}) == len(found)
    backbones = list(bench_detection.SMOKE_BACKBONES if tier == "smoke" else bench_detection.BACKBONES)
    for case in found:
        assert json.loads(json.dumps(case.row())) == case.row()
        backbone = case.network.model.removeprefix("maskrcnn_")
        assert (case.rival is None) == (backbone == backbones[0])
        if case.rival:
            same = replace(case.network, model=case.rival.model, backend=None)
            assert same == case.rival
            order = [one.network for one in found]
            assert order.index(case.rival) < order.index(case.network)
    kinds = {replace(case.network, model="", backend=None) for case in found}
    for kind in kinds:
        of = [case.network.model for case in found if replace(case.network, model="", backend=None) == kind]
        assert [name.removeprefix("maskrcnn_") for name in dict.fromkeys(of)] == backbones


def test_what_the_tiers_measure():
    def kinds(tier, group):
        return {
            (case.direction, case.network.side, case.network.batch, case.network.compiled, case.network.proposals)
            for case in cases(tier)
            if group in case.groups
        }

    assert kinds("default", "backbone") == {("forward", 1024, 1, False, None), ("forward", 1024, 32, False, None)}
    assert kinds("default", "inference") == {("forward", 1024, 1, False, 1024)}
    assert kinds("default", "steps") == {("training", 1024, 2, False, 1024), ("training", 1024, 16, False, 1024)}
    assert {kind[3:] for kind in kinds("full", "inference")} == {
        (False, 1024),
        (False, None),
        (True, 1024),
        (True, None),
    }
    assert all(case.shrink and case.energy for case in cases("default"))
    assert not any(case.shrink for case in cases("default", batch=3))
    assert len(cases("smoke")) < 10


def test_the_backends_of_the_tiers():
    def taken(*arguments):
        return {case.network.backend for case in cases(*arguments)} - {None}

    assert taken("default") == {"fused", "fused_cuda"} & set(backends.names())
    assert taken("full") > taken("default")
    assert taken("default", ["flex", "conv"]) == {"flex"}
    assert len(taken("smoke")) == 1


def measured(case, effort=0.05, *, timed=True):
    """The row of a case, measured in this process; it is JSON and fits the schema."""
    settings = Settings(case.device, effort=Effort(LEAST, 0.0, effort), timed=timed)
    row = networks.measure(case, clock_for(case.device), settings, Rivals())
    row = {**case.row(), "status": "OK", "reason": None, **row}
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    return row, checked_row(row)


def test_a_training_step_and_its_parts(monkeypatch):
    monkeypatch.setattr(networks, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(parts, "CALLS", 2)
    row, columns = measured(NetworkCase("detection", OWN, "training", "cpu", ("steps",)))
    assert list(row["parts_ms"]) == TRAINING_PARTS
    assert all(columns[f"{part}_ms"] > 0 for part in TRAINING_PARTS)
    assert columns["postprocessing_ms"] is None
    together = sum(row["parts_ms"].values())
    assert 0.3 * columns["median_ms"] < together < 3 * columns["median_ms"]
    assert row["accuracy"]["layers"] == 6
    assert (columns["proposals"], columns["batch"]) == (8, 1)
    assert row["memory"]["peak_bytes"] > row["memory"]["resident_bytes"] > 12 * row["throughput"]["parameters"]


def test_inference_in_turn_with_its_rival():
    case = NetworkCase("detection", OWN, "forward", "cpu", ("inference",), rival=RIVAL)
    row, columns = measured(case)
    assert list(row["parts_ms"]) == [*TRAINING_PARTS[:4], "postprocessing"]
    assert (row["paired"]["rival"], columns["backward_ms"]) == ("maskrcnn_resnet_mini", None)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("direction", ["training", "forward"])
def test_a_detector_on_a_gpu(direction, compiled):
    """In bfloat16, by the Triton kernels, with windows of 38 pixels."""
    own = replace(OWN, side=128, dtype="bfloat16", backend="fused", proposals=64, compiled=compiled)
    own = replace(own, overrides=(("block", 32), ("halo", 3)))
    row, columns = measured(NetworkCase("detection", own, direction, "cuda", rival=replace(own, overrides=())))
    assert len(row["parts_ms"]) == (6 if direction == "training" else 5)
    assert sum(row["parts_ms"].values()) > 0.3 * columns["median_ms"]
    assert not columns["replayed"]


def test_the_backbone_alone_gives_its_maps():
    alone = Network("halonet_mini", 64, 2, "float32", "sdpa", overrides=bench_detection.FEATURES)
    row, columns = measured(NetworkCase("detection", alone, "forward", "cpu", ("backbone",)))
    assert columns["parameters"] < sum(one.numel() for one in models.create("halonet_mini").parameters())
    assert (row["parts_ms"], columns["backbone_ms"]) == (None, None)


def test_a_wrong_backend_is_not_timed(monkeypatch):
    """The layers of the backbone are held against the oracle, at the sizes that they have in the detector."""
    checked = []

    def fault(_backend, slot, *_):
        checked.append((slot.height, slot.width))
        return "output is off"

    monkeypatch.setattr(conformance.asked_again, "fault", fault)
    wrong = replace(OWN, side=96)
    with pytest.raises(Incorrect, match="layer of 24 x 24 pixels, block 4, halo 2, stride 1: output is off"):
        measured(NetworkCase("detection", wrong, "forward", "cpu"))
    assert checked == [(24, 24)]


def test_what_is_fixed_does_not_depend_on_the_weights():
    """The heads get as many regions, with as many objects among them, whatever the network has learned."""
    counts = []
    for model_seed in (0, 1):
        torch.manual_seed(model_seed)
        model = models.create("maskrcnn_convnet_mini")
        step, _ = detection.training_step(model, replace(RIVAL, proposals=16), "cpu")
        model.roi_heads.box_head.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
        model.roi_heads.mask_head.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
        assert step().isfinite()
        assert step().isfinite()
    assert counts == [8, 2] * 4  # half of 16 are sampled, a quarter of which may be objects


def test_detections_are_fixed_for_inference():
    model = models.create("maskrcnn_convnet_mini")
    call, _ = detection.inference(model, replace(RIVAL, proposals=40), "cpu")
    sizes = []
    model.roi_heads.box_head.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    outcome = call()
    assert (outcome[:4].tolist(), sizes) == ([0.5] * 4, [40, 4])
    assert len(outcome) == 4 + 256  # and the coarsest map of 64 x 64 pixels


def test_targets_are_the_same_each_time_and_masks_fill_their_boxes():
    targets, again = (detection.fixed_targets(replace(RIVAL, batch=2, side=96), "cpu") for _ in range(2))
    for one, other in zip(targets, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
        for (left, top, right, bottom), mask in zip(one["boxes"].tolist(), one["masks"], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            assert mask.sum() == pytest.approx(torch.pi / 4 * (right - left) * (bottom - top), rel=0.2, abs=3)
            assert (rows.min() + 1 > top, rows.max() < bottom) == (True, True)
            assert (columns.min() + 1 > left, columns.max() < right) == (True, True)
    assert not torch.equal(targets[0]["boxes"], targets[1]["boxes"])


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_only_the_backbone_is_compiled(direction, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **how: compiled.append((module, how)))
    model = models.create("maskrcnn_convnet_mini")
    bind = detection.training_step if direction == "training" else detection.inference
    bind(model, replace(RIVAL, compiled=True), "cpu")
    assert compiled == [(model.backbone.body, {"dynamic": False, "options": INDUCTOR_OPTIONS})]
    assert not networks.replays(replace(RIVAL, compiled=True), "cuda")
    assert networks.replays(replace(RIVAL, model="resnet_mini", compiled=True), "cuda")


def test_a_compile_mode_is_refused():
    model = models.create("maskrcnn_convnet_mini")
    with pytest.raises(Unsupported, match="detectors have no compile mode, got 'autotuned'"):
        detection.inference(model, replace(RIVAL, compiled=True, compile_mode="autotuned"), "cpu")


def rows():
    """What the default tier leaves behind, with parts in its training steps."""
    found = []
    for case in cases("default"):
        network, rival = case.network, case.rival
        same = {"direction": case.direction, "groups": list(case.groups), "suite": "detection", "case": case.name}
        same |= {"side": network.side, "batch": network.batch, "captured": network.captured, "label": case.label}
        same["rival"] = rival and rival.model
        arguments = (network.model, network.backend)
        if network.backend == "fused_cuda" and "b32" in network.model:
            found.append(results_files.failed_network("UNSUPPORTED", "windows of 38", *arguments, **same))
        else:
            found.append(results_files.network_row(*arguments, **same))
            if case.direction == "training":
                found[-1]["parts_ms"] = dict.fromkeys(TRAINING_PARTS, 7.0)
        found[-1]["network"]["proposals"] = network.proposals
    return found


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "h100.json"
    (one,) = network_selections(read(results_files.write(path, rows(), gpu=results_files.H100)))
    return one


def test_figures_stand_beside_the_published_table(selection):
    with look():
        named = plot.named_figures([], [selection], None)
        drawn = {name.partition("-detection-")[2]: figure for name, figure in named if "-detection-" in name}
    assert {name for name, figure in drawn.items() if isinstance(figure, Figure)} == set(drawn)
    assert list(drawn) == ["backbone", "inference", "steps", "parts"]
    small, large = drawn["backbone"].axes
    assert [label.get_text().replace("\n", " ") for label in small.get_xticklabels()] == [
        one.label for name, one in figures.TABLE.items() if name != "resnet50"
    ]
    assert (small.get_title(), large.get_title()) == tuple(
        f"eager, replayed as a CUDA graph, batch {batch}" for batch in (1, 32)
    )
    heights = {round(bar.get_height(), 3) for bar in small.patches}
    assert heights > {round(ms / 409, 3) for ms in (446, 540, 613, 740, 799)}
    steps = {round(bar.get_height(), 3) for bar in drawn["steps"].axes[0].patches}
    assert steps > {round(hours / 14.6, 3) for hours in (15.2, 15.8, 16.5, 17.9, 18.4)}
    assert "fused_cuda: UNSUPPORTED" in {text.get_text() for text in small.texts}
    (axes,) = drawn["parts"].axes
    assert [container.get_label() for container in axes.containers] == TRAINING_PARTS
    assert {round(bar.get_width(), 3) for bar in axes.containers[0]} == {3.5, round(7 / 16, 3)}


def test_nothing_is_drawn_of_other_suites(tmp_path):
    (one,) = network_selections(read(results_files.write(tmp_path / "other.json", results_files.pair_rows())))
    assert list(figures.draw(one)) == []
    assert pages.ratios([one]) == "*Nothing of it is among the published results yet.*"


def test_the_table_has_a_line_a_backbone_and_backend(selection):
    head, _, *lines = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in pages.ratios([selection]).splitlines()[:9]
    )
    assert [line[0] for line in lines] == [
        "R50 + SE",
        "R50 + SE + LA (8), `fused`",
        "R50 + SE + LA (8), `fused_cuda`",
        "R50 + SE + LA (32), `fused`",
        "R101 + SE",
        "R101 + SE + LA (8), `fused`",
        "R101 + SE + LA (8), `fused_cuda`",
    ]
    speed, time = (head.index(f"published, {what}") for what in ("backbone", "training time"))
    assert [(line[speed], line[time]) for line in lines if "fused_cuda" not in line[0]] == [
        ("1.09", "1.04"),
        ("1.32", "1.08"),
        ("1.50", "1.13"),
        ("1.81", "1.23"),
        ("1.95", "1.26"),
    ]
    assert len(head) == 1 + 2 + 1 + 1 + 2 + 1

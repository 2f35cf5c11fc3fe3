"""Whole networks in the real worker: rows with a paired rival, and failures that become rows."""

import json
from dataclasses import replace

import pytest
import torch

from halobench.cases.network import Network, NetworkCase
from halobench.figures.selection import network_selections
from halobench.machine.clock import Burst, CpuClock
from halobench.measure import conformance, networks, steps
from halobench.measure.engine import Settings
from halobench.measure.latency import LEAST, Effort
from halobench.measure.rivals import Rivals
from halobench.measure.session import Session
from halobench.records import table as results
from halobench.records.schema import ResultsError, checked_row
from halobench.train import workload
from tests import forked, results_files, third_party

ATTEND = """
import torch
from halobench import formula
from halobench import Unsupported
def attend(query, key, value, relative, geometry):
"""
RIGHT = "formula.attend(query, key, value, relative, geometry)"
GRADIENT = f"    good = {RIGHT}\n    return good.detach() + (good - good.detach()) * 0.9\n"
BACKENDS = {
    "good": f"{ATTEND}    return {RIGHT}\n",
    "wrong": f"{ATTEND}    return {RIGHT} * (1 + 0.02 * torch.arange(query.shape[3])[:, None])\n",
    "wrong_gradient": ATTEND + GRADIENT,
    "nan": f"{ATTEND}    return {RIGHT} * float('nan')\n",
    "refuses": f"{ATTEND}    raise Unsupported('only on Sundays')\n",
    "greedy": f"{ATTEND}    if key.shape[0] > 5: raise MemoryError\n    return {RIGHT}\n",
    "missing": "import a_package_that_nobody_has\n",
    "uncapturable": f"""
from halobench.measure.graphs import Uncapturable
{ATTEND}    raise Uncapturable('halonet_mini cannot be captured')
""",
    # Waits for the device in the middle of a step, where the compiler cannot see it.
    "waits": f"""
import torch
@torch.compiler.disable
def wait(tensor):
    tensor.flatten()[0].item()
{ATTEND}    wait(value)
    return {RIGHT}
""",
}
RIVAL = Network("resnet_mini", 32, 2, "float32")
OWN = Network("halonet_mini", 32, 2, "float32", "good")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    third_party.install(folder, BACKENDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", third_party.python_path(folder))
        patch.syspath_prepend(folder)
        with Session(Settings("cpu", effort=Effort(LEAST, 0.0, 0.05)), timeout_s=60) as session:
            session._context = forked.Workers
            yield session


def measure(session, network, direction="training", **changes):
    """The row of a network; it is JSON and fits the schema."""
    row = session.measure(NetworkCase("training", network, direction, "cpu", ("pairs",), **changes))
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    columns = checked_row(row)
    assert (columns["median_ms"] is None) == (row["status"] != "OK")
    return row


@pytest.mark.parametrize("direction", ["training", "forward"])
def test_a_network_in_turn_with_its_rival(session, direction):
    row = measure(session, OWN, direction, rival=RIVAL)
    assert (row["status"], row["reason"]) == ("OK", None)
    paired, latency = row["paired"], row["latency"]
    assert (row["rival"], paired["rival"]) == ("resnet_mini", "resnet_mini")
    alone = measure(session, RIVAL, direction)
    assert (paired["rival_side"], paired["rival_peak_bytes"]) == (RIVAL.side, alone["memory"]["peak_bytes"])
    assert len(paired["rival_samples_ms"]) == len(row["samples_ms"]) >= LEAST
    ratios = sorted(own / other for own, other in zip(row["samples_ms"], paired["rival_samples_ms"], strict=True))
    interval = [ratios[0], paired["ratio_low"], paired["ratio"], paired["ratio_high"], ratios[-1]]
    interval = [round(ratio, 9) for ratio in interval]  # means of equal numbers differ in their last digit
    assert interval == sorted(interval)
    assert row["throughput"]["images_per_s"] == pytest.approx(2e3 / latency["median_ms"])
    assert row["memory"]["peak_bytes"] > row["memory"]["resident_bytes"] > 4 * row["throughput"]["parameters"]
    assert row["accuracy"]["layers"] == 6
    assert 0 < row["accuracy"]["worst_share_of_budget"] <= 1


def test_a_network_alone(session):
    row = measure(session, RIVAL)
    assert (row["status"], row["paired"], row["accuracy"], row["backend"]) == ("OK", None, None, "none")


FAILURES = {
    "wrong": ("INCORRECT", "layer of 8 x 8 pixels, block 4, halo 2, stride 1: output is off by"),
    "nan": ("INCORRECT", "output is not finite"),
    "refuses": ("UNSUPPORTED", "only on Sundays"),
    "missing": ("MISSING", "needs the package a_package_that_nobody_has"),
    "greedy": ("OOM", "MemoryError"),
}


@pytest.mark.parametrize("backend", FAILURES)
def test_a_failure_is_a_row(session, backend):
    status, said = FAILURES[backend]
    row = measure(session, replace(OWN, backend=backend, batch=8), rival=replace(RIVAL, batch=8))
    assert row["status"] == status
    assert said in row["reason"]


def test_a_process_whose_capture_failed_is_replaced(session):
    """Whatever state the failed capture left, the next case has nothing to do with it."""
    measure(session, RIVAL)
    worker = session._process
    row = measure(session, replace(OWN, backend="uncapturable"))
    assert (row["status"], row["reason"]) == ("CRASHED", "halonet_mini cannot be captured")
    assert not worker.is_alive()
    assert measure(session, RIVAL)["status"] == "OK"


def test_a_wrong_gradient_fails_in_training_only(session):
    wrong = replace(OWN, backend="wrong_gradient")
    assert measure(session, wrong, "forward")["status"] == "OK"
    row = measure(session, wrong)
    assert row["status"] == "INCORRECT"
    assert "pixels is off by" in row["reason"]


def test_the_batch_shrinks_until_it_fits_and_the_rival_follows(session):
    """On request only: otherwise it is an OOM."""
    greedy = replace(OWN, backend="greedy", batch=16)
    row = measure(session, greedy, rival=replace(RIVAL, batch=16), shrink=True)
    assert (row["status"], row["throughput"]["batch"], row["network"]["batch"]) == ("OK", 4, 16)
    assert row["paired"]["rival"] == "resnet_mini"


def test_float16_training_is_refused_with_the_reason(session):
    row = measure(session, replace(OWN, dtype="float16"))
    assert row["status"] == "UNSUPPORTED"
    assert "loss scaling" in row["reason"]


def test_without_times_a_network_is_only_checked():
    settings = Settings("cpu", timed=False)
    case = NetworkCase("training", replace(OWN, backend="sdpa"), "training", "cpu")
    fields = networks.measure(case, CpuClock(), settings, Rivals())
    assert set(fields) == {"accuracy", "seconds"}


def test_a_rival_is_prepared_once(monkeypatch):
    made = []
    prepare = networks.Contestant.prepare

    def count(*arguments):
        made.append(arguments[0].model)
        return prepare(*arguments)

    monkeypatch.setattr(networks.Contestant, "prepare", count)
    rivals, settings = Rivals(), Settings("cpu", effort=Effort(LEAST, 0.0, 0.02))
    own = replace(OWN, backend="sdpa")
    cases = [NetworkCase("training", RIVAL, "training", "cpu")]
    cases += [NetworkCase("training", own, "training", "cpu", rival=RIVAL)] * 2
    for case in cases:
        networks.measure(case, CpuClock(), settings, rivals)
    assert made == ["resnet_mini", "halonet_mini", "halonet_mini"]
    assert {case.scope for case in cases} == {RIVAL}


class Turns:
    """A clock whose stretches last as long as their calls say, and which notes the order."""

    def __init__(self):
        self.taken = []

    def stretch(self, call, count):
        self.taken.append((call(), count))
        return Burst([call() * 1.0], [0.0])


def test_rivals_take_turns_in_both_orders():
    clock = Turns()
    first, second = steps.alternate([lambda: 3, lambda: 2], clock, Effort(LEAST, 0.0, 0.01, noise=1.0))
    rounds = [duration for duration, _ in clock.taken[2:]]  # two to find out how long they are
    assert rounds[:8] == [3, 2, 2, 3, 3, 2, 2, 3]
    assert (set(first.device_ms), set(second.device_ms)) == ({3.0}, {2.0})
    assert len(first.device_ms) == len(second.device_ms) == LEAST


def test_a_stretch_is_as_long_as_the_effort_asks():
    clock = Turns()
    steps.alternate([lambda: 4], clock, Effort(LEAST, 0.0, 0.1, noise=1.0))
    assert clock.taken[-1] == (4, 5)  # a fifth of 100 ms
    steps.alternate([lambda: 4], clock, Effort(LEAST, 0.0, 0.1, noise=1.0), single=True)
    assert clock.taken[-1] == (4, 1)


def test_label_smoothing_and_randaugment_reach_the_step():
    """They change the loss; RandAugment changes it from step to step."""

    def losses(**changes):
        network = replace(RIVAL, batch=4, **changes)
        model = workload.network_model(network, "cpu")
        call, _ = workload.training_step(model, network, "cpu")
        torch.manual_seed(0)
        return [float(call()) for _ in range(2)]

    plain = losses()
    assert losses(label_smoothing=0.5) != plain
    assert losses(magnitude=20) != plain
    assert losses() == plain


def test_a_network_for_inference_tells_images_apart():
    """In bfloat16, too: its statistics are those of its own maps, and no branch is multiplied with zeros."""
    network = Network("halonet_mini", 64, 2, "bfloat16", "strided_gather")
    model = workload.network_model(network, "cpu")
    momenta = {norm.momentum for norm in batch_norms(model)}
    assert any(not norm.weight.any() for norm in batch_norms(model))
    call, _ = workload.inference(model, network, "cpu")
    first, second = call().float()
    assert (first - second).std() > 0.1 * first.std()
    for norm in batch_norms(model):
        assert norm.weight.any()
        assert (norm.running_var != 1).all()
    assert {norm.momentum for norm in batch_norms(model)} == momenta


def batch_norms(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_the_layers_that_are_checked_are_those_of_the_network():
    network = Network("halonet_h0", 256, 2, "float32", "strided_gather")
    slots = conformance.distinct_layers(network)
    sides = [(slot.height, slot.layer.channels, slot.layer.geometry.stride) for slot in slots]
    assert sides == [
        (64, 64, 1), (64, 128, 2), (32, 128, 1), (32, 256, 2), (16, 256, 1), (16, 512, 2), (8, 512, 1),
    ]  # fmt: skip
    blocks = conformance.distinct_layers(replace(network, overrides=(("block", 4), ("convolution_stages", (1, 2)))))
    assert [slot.layer.geometry.block for slot in blocks] == [4] * 4


def test_rows_of_networks_are_a_table_of_their_own(tmp_path):
    rows = [results_files.row(), results_files.network_row("halonet_h1", "sdpa", rival="efficientnet_b1")]
    read = results.read(results_files.write(tmp_path / "mine.json", rows, gpu=results_files.H100))
    assert (len(read.table), len(read.networks)) == (1, 1)
    assert read.networks["model"].tolist() == ["halonet_h1"]
    assert read.networks["ratio"].notna().all()
    assert read.networks["replayed"].tolist() == read.networks["captured"].tolist() == [False]
    assert len(read.samples_ms) == 2


def test_a_file_from_before_there_were_captured_networks_is_read(tmp_path):
    old = results_files.network_row("halonet_h1", "sdpa")
    del old["network"]["captured"]
    path = results_files.write(tmp_path / "old.json", [old], gpu=results_files.H100)
    (selection,) = network_selections(results.read(path))
    assert selection.table["captured"].isna().all()
    assert selection.table["mode"].tolist() == ["eager"]


def test_an_impossible_network_row_is_refused():
    row = results_files.network_row("halonet_h1", "sdpa")
    row["network"]["side"] = -1
    with pytest.raises(ResultsError, match=r"network\.side must be an integer of at least 0, .*got -1"):
        checked_row(row)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [{}, {"compiled": True}, {"captured": True}], ids=str)
def test_a_network_on_a_gpu(mode):
    """With clock, energy where the step is long enough, memory of the allocator, and the rival in turn."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    own = Network("halonet_mini", 64, 256, "bfloat16", "sdpa", **mode)
    rival = Network("resnet_mini", 64, 256, "bfloat16", **mode)
    with Session(Settings("cuda"), timeout_s=180) as session:
        row = session.measure(NetworkCase("training", own, "training", "cuda", rival=rival, energy=True))
    assert (row["status"], row["reason"]) == ("OK", None)
    assert row["paired"]["ratio"] > 0
    assert row["memory"]["peak_bytes"] > row["memory"]["resident_bytes"] + own.batch * 3 * 64 * 64 * 2
    assert checked_row(row)["images_per_s"] > 0
    assert row["latency"]["replayed"] is bool(mode)
    if own.compiled:
        assert row["throughput"]["first_step_s"] > 10 * row["latency"]["median_ms"] / 1e3


@pytest.mark.gpu
@pytest.mark.fault
def test_a_call_that_waits_for_the_device_cannot_be_captured(tmp_path, monkeypatch):
    """It is a row with the reason, and another network is measured after it."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    third_party.install(tmp_path, BACKENDS)
    monkeypatch.setenv("PYTHONPATH", third_party.python_path(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    waits = Network("halonet_mini", 64, 8, "bfloat16", "waits", compiled=True)
    with Session(Settings("cuda", effort=Effort(LEAST, 0.0, 0.02)), timeout_s=180) as session:
        row = session.measure(NetworkCase("training", waits, "forward", "cuda"))
        assert row["status"] == "CRASHED"
        assert "halonet_mini cannot be captured as a CUDA graph" in row["reason"]
        eager = session.measure(NetworkCase("training", replace(waits, compiled=False), "forward", "cuda"))
        assert (eager["status"], eager["reason"]) == ("OK", None)
        convolutions = Network("convnet_mini", 64, 8, "bfloat16", compiled=True)
        after = session.measure(NetworkCase("training", convolutions, "forward", "cuda"))
    assert (after["status"], after["reason"], after["latency"]["replayed"]) == ("OK", None, True)

"""Backends that are right when they are checked and wrong when they are timed: a reason, and no time."""

import ctypes
import re
import threading
import time
from dataclasses import replace
from math import inf, nan

import pytest
import torch

from halobench import Geometry, LayerSpec, Problem, backends, formula
from halobench.attention.layer import HaloAttention
from halobench.attention.problem import Unsupported
from halobench.cases import accuracy, asked_again
from halobench.cases.bands import BAND_BYTES, surrounded, trespassed
from halobench.cases.case import Case
from halobench.cases.network import Network, NetworkCase
from halobench.cases.sketch import GROUPS, sketch
from halobench.cases.workload import Slot, bind
from halobench.machine.clock import CpuClock
from halobench.measure import conformance, engine, latency, networks, steps
from halobench.measure.engine import Incorrect, Settings, Stopwatch
from halobench.measure.latency import LEAST, Effort
from halobench.measure.placement import Placement
from halobench.measure.rivals import Rivals
from tests.test_conformance import COMPILES

PROBLEM = Problem(Geometry(4, 1), 8, 8, batch=5, heads=2)
SLOT = Slot(LayerSpec(16, 2, 8, 8, Geometry(4, 1)), 8, 8, 5)
SETTINGS = Settings("cpu", effort=Effort(LEAST, 0.0, 0.02))
BEFORE = 3  # calls of a case until it is timed: the check, the warm-up, and the first that is looked at for memory


class Kept(torch.autograd.Function):
    """The identity, whose gradient is that of the first time."""

    @staticmethod
    def forward(ctx, output, kept):
        ctx.kept = kept
        return output.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.kept.setdefault("gradient", gradient), None


class Cheat:
    """A backend's ``attend`` with a fault; ``calls`` counts, ``kept`` is what it remembers."""

    def __init__(self, fault):
        self.fault, self.calls, self.kept = fault, 0, {}

    def __call__(self, query, key, value, relative, geometry):
        self.calls += 1
        return self.fault(self, formula.attend(query, key, value, relative, geometry), query, key)

    def keeps(self, output, query, key):
        return self.kept.setdefault((query.data_ptr(), key.data_ptr(), query.shape), output)

    def keeps_by_version(self, output, query, key):
        return self.kept.setdefault((query.data_ptr(), query._version, key._version), output)

    def keeps_from_the_timing_on(self, output, query, _):
        return output if self.calls <= BEFORE else self.kept.setdefault(query.data_ptr(), output)

    def keeps_a_gradient(self, output, *_):
        return Kept.apply(output, self.kept)

    def leaves_work_behind(self, output, *_):
        if self.calls == 1:
            return output
        late = torch.zeros_like(output)
        threading.Thread(target=lambda: (time.sleep(0.02), late.copy_(output))).start()
        return late

    def errs_in_the_middle(self, output, *_):
        return torch.cat([output[:2], output[1:2], output[3:]])

    def spills(self, output, _, key):
        ctypes.memset(key.data_ptr() + key.nbytes, 0, 16)
        return output

    def spills_before(self, output, query, _):
        ctypes.memset(query.data_ptr() - 8, 0, 8)
        return output

    def tires(self, output, *_):
        return output * (1.0 if self.calls <= BEFORE else nan)

    def is_honest(self, output, *_):
        return output


OTHERS = "asked again, with other values in the same memory: "
SAID = {
    Cheat.keeps: rf"{OTHERS}output of image \d is off by 1\.\d, allowed .*",
    Cheat.keeps_by_version: rf"{OTHERS}output of image \d is off by 1\.\d, allowed .*",
    Cheat.keeps_from_the_timing_on: rf"{OTHERS}output of image \d is off by 1\.\d, allowed .*",
    Cheat.leaves_work_behind: rf"{OTHERS}output of image \d is off by .*",
    Cheat.errs_in_the_middle: rf"{OTHERS}output of image 2 is off by .*",
    Cheat.spills: "the call wrote beside its input key",
    Cheat.spills_before: "the call wrote beside its input query",
    Cheat.tires: rf"{OTHERS}output of image 0 is not finite",
}
SAID_IN_TRAINING = {
    Cheat.keeps_a_gradient: rf"{OTHERS}query of image \d is off by 1\.\d, allowed .*; columns is off by .*",
    Cheat.errs_in_the_middle: rf"{OTHERS}query of image [12] is off by .*",
    Cheat.spills: "the call wrote beside its input key",
    Cheat.tires: rf"{OTHERS}query of image 0 is not finite; .*",
}
FAULTS = [(cheat, "forward", said) for cheat, said in SAID.items()]
FAULTS += [(cheat, "training", said) for cheat, said in SAID_IN_TRAINING.items()]


def planted(monkeypatch, attend):
    """Every backend's name stands for one that computes ``attend``."""
    plain = backends.load("strided_gather")
    backend = replace(plain, attend=attend, build=lambda layer: HaloAttention(layer, attend=attend))
    monkeypatch.setattr(backends, "load", lambda _: backend)


def measured(monkeypatch, fault, direction, settings=SETTINGS):
    """The fields of a case of a backend with this fault."""
    planted(monkeypatch, Cheat(fault))
    case = Case("operator", "planted", PROBLEM, direction, "cpu", counted=False)
    return engine.measure(case, CpuClock(), settings)


@pytest.mark.fault
@pytest.mark.parametrize(("fault", "direction", "said"), FAULTS, ids=lambda each: getattr(each, "__name__", ""))
def test_no_time_for_a_wrong_answer(monkeypatch, fault, direction, said):
    with pytest.raises(Incorrect) as caught:
        measured(monkeypatch, fault, direction)
    assert re.fullmatch(said, str(caught.value)), caught.value


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_a_time_for_a_right_one(monkeypatch, direction):
    fields = measured(monkeypatch, Cheat.is_honest, direction)
    assert len(fields["samples_ms"]) >= LEAST
    seconds = fields["seconds"]
    assert set(seconds) == {"warmup", "measured", "checks", "harness"}
    assert 0 < seconds["checks"] < seconds["harness"]


@pytest.mark.fault
def test_it_is_asked_again_where_nothing_is_timed(monkeypatch):
    with pytest.raises(Incorrect, match=OTHERS):
        measured(monkeypatch, Cheat.keeps, "forward", Settings("cpu", timed=False))


@pytest.mark.fault
def test_what_was_sampled_is_asked_and_not_the_call_behind_it(monkeypatch):
    """As of a graph that only returns what was computed when it was captured."""

    class Stale(Placement):
        def move(self):
            output = super().move()()
            self.call = lambda: output
            return self.call

    monkeypatch.setattr(engine, "Placement", Stale)
    monkeypatch.setattr(latency, "LONG_MS", inf)
    with pytest.raises(Incorrect, match=OTHERS):
        measured(monkeypatch, Cheat.is_honest, "forward", Settings("cpu", effort=Effort(LEAST, 0.0, 0.02, places=2)))


TASKS = {
    "operator": PROBLEM,
    "one image": replace(PROBLEM, batch=1, height=7, width=5, relative=False),
    "one key": replace(PROBLEM, geometry=Geometry(1, 0)),  # most gradients are exactly zero
    "stride": replace(PROBLEM, geometry=Geometry(4, 1, stride=2)),
    "uneven": replace(PROBLEM, geometry=Geometry(3, 1, stride=2)),
    "layer": SLOT,
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("name", [name for name in backends.names() if name not in COMPILES])
def test_right_backends_pass(name, task):
    """All of them, also where gradients cancel, in single and half precision."""
    backend = backends.load(name)
    for dtype in ("float32", "bfloat16"):
        typed = replace(task, dtype=dtype)
        part = typed.layer if isinstance(typed, Slot) else typed
        part = replace(part, geometry=replace(part.geometry, border=backend.borders[0]))
        typed = replace(typed, layer=part) if isinstance(typed, Slot) else part
        workload = bind(backend, typed, "cpu")
        try:
            first = accuracy.judge(accuracy.ask(workload, "training"), backend, typed, workload, "cpu")
        except Unsupported as refusal:
            pytest.skip(str(refusal))
        call = workload.call("training")
        assert asked_again.fault(backend, typed, "training", workload, call, first.budgets) is None


@pytest.mark.parametrize("task", [PROBLEM, SLOT], ids=["operator", "layer"])
def test_the_truth_does_not_depend_on_how_many_images_are_taken_at_a_time(monkeypatch, task):
    reference = accuracy.Reference(backends.load("strided_gather"))
    at_once = asked_again.truth(reference, task, "cpu")
    monkeypatch.setattr(asked_again, "SCORES", 1)
    one_by_one = asked_again.truth.__wrapped__(reference, task, "cpu")
    assert at_once.sketches.keys() == one_by_one.sketches.keys()
    for name, images in at_once.sketches.items():
        torch.testing.assert_close(one_by_one.sketches[name], images, rtol=1e-5, atol=1e-4)
        assert one_by_one.extents[name] == pytest.approx(at_once.extents[name])


def test_only_the_values_tell_that_they_are_others():
    workload, other = (bind(backends.load("strided_gather"), SLOT, "cpu", seed) for seed in (0, 2))
    workload.relocate()
    tensors = {**workload.tensors, "cotangent": workload.cotangent}
    before = {name: (tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()}
    asked_again.exchange(workload, other)
    assert {name: (tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()} == before
    assert all(tensor.equal(other.tensors[name]) for name, tensor in workload.tensors.items())
    assert workload.cotangent.equal(other.cotangent)


@pytest.mark.fault
@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize(("factor", "said"), [(nan, "halonet_mini is not finite"), (2.0, "layer of .*: asked again, ")])
def test_a_network_whose_backend_goes_wrong_while_it_is_timed(monkeypatch, factor, said, direction):
    now = [1.0]
    planted(monkeypatch, lambda *arguments: formula.attend(*arguments) * now[0])

    def alternate(calls, *arguments, **options):
        now[0] = factor
        return steps_before(calls, *arguments, **options)

    steps_before = steps.alternate
    monkeypatch.setattr(steps, "alternate", alternate)
    conformance.checked.cache_clear()
    case = NetworkCase("training", Network("halonet_mini", 32, 2, "float32", "planted"), direction, "cpu")
    with pytest.raises(Incorrect, match=said):
        networks.measure(case, CpuClock(), SETTINGS, Rivals())
    conformance.checked.cache_clear()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("direction", "said"), [("forward", "same for other images"), ("training", "left its parameters as they were")]
)
def test_a_step_that_does_nothing(direction, said):
    """As the replay of a graph in which the work is missing."""
    images = torch.ones(2, 3)
    idle = networks.Contestant(
        Network("halonet_mini", 32, 2, "float32"), torch.nn.Linear(3, 4), lambda: torch.ones(2), lambda: iter([images]),
        0, None, 0.0,
    )  # fmt: skip
    with pytest.raises(Incorrect, match=said):
        idle.ask_again(direction)


def test_a_phase_inside_another_counts_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: now[0])
    stopwatch = Stopwatch(started=0.0)
    with stopwatch.phase("checks"):
        now[0] += 1.0
        with stopwatch.phase("measured"):
            now[0] += 2.0
        now[0] += 4.0
    now[0] += 8.0
    assert stopwatch.total() == {"warmup": 0.0, "measured": 2.0, "checks": 5.0, "harness": 13.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3), (4, 2, 8, 8, 16), (3, 1, 33, 31, 7), (1, GROUPS)])
def test_a_sketch_estimates_the_distance(shape, dtype, device):
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(shape, generator=generator).to(device, dtype)
    other = one + (0.01 * torch.randn(shape, generator=generator)).to(device, dtype)
    estimate = (sketch(one) - sketch(other)).norm(dim=1)
    exact = (one.double() - other.double()).flatten(1).norm(dim=1)
    assert (estimate / exact).max() < asked_again.MARGIN / 1.5
    assert (estimate / exact).min() > 0.5


def test_one_element_shows_in_a_sketch_wherever_it_is():
    one = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for place in (0, 126, 127, -1):
        other = one.clone()
        other[1].view(-1)[place] += 0.5
        estimate = (sketch(one) - sketch(other)).norm(dim=1)
        torch.testing.assert_close(estimate, torch.tensor([0.0, 0.5], dtype=torch.float64), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("task", [PROBLEM, replace(PROBLEM, batch=0), SLOT], ids=["operator", "empty", "layer"])
def test_inputs_lie_between_bands_as_they_lay_without(task, device):
    """Layout, alignment and values are as before, and none is a view."""
    workload = bind(backends.load("strided_gather"), task, device)
    tensors = {**workload.tensors, "cotangent": workload.cotangent}
    before = {name: (tensor.detach().clone(), tensor.stride()) for name, tensor in tensors.items()}
    workload.relocate()
    for name, tensor in tensors.items():
        assert tensor.equal(before[name][0])
        assert tensor.stride() == before[name][1]
        assert tensor.numel() == 0 or tensor.data_ptr() % (512 if device == "cuda" else 64) == 0
        assert surrounded(tensor)._base is None
    assert trespassed(tensors) is None


@pytest.mark.parametrize("offset", [-BAND_BYTES, -1, 0, BAND_BYTES - 1])
def test_a_byte_beside_is_found(offset, device):
    tensor = surrounded(torch.ones(3, 5, dtype=torch.bfloat16, device=device))
    memory = torch.empty(0, dtype=torch.uint8, device=device).set_(tensor.untyped_storage())
    tensor.mul_(2)
    assert trespassed({"this": tensor}) is None
    memory[BAND_BYTES + offset + (tensor.nbytes if offset >= 0 else 0)] = 0
    assert trespassed({"other": surrounded(tensor), "this": tensor}) == "this"

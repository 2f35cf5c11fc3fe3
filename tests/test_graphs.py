"""Calls replayed as CUDA graphs: what is captured and when, on any machine; that a replay is the call, on a GPU."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from halobench.attention.problem import Unsupported
from halobench.cases.network import Network, NetworkCase
from halobench.machine.clock import CpuClock, clock_for
from halobench.measure import graphs, memory, networks
from halobench.measure.engine import Incorrect, Settings
from halobench.measure.latency import LEAST, Effort
from halobench.measure.rivals import Rivals
from halobench.train import workload

EAGER = Network("resnet_mini", 32, 2, "float32")
COMPILED, CAPTURED = replace(EAGER, compiled=True), replace(EAGER, captured=True)
SETTINGS = Settings("cpu", effort=Effort(LEAST, 0.0, 0.02))


@pytest.fixture
def captured(monkeypatch):
    """What happens in which order, with a capture that needs no GPU; compiling is left out."""
    order = []

    def capture(call, name):
        order.append(f"capture {name}")

        def replay():
            order.append("replay")
            call()

        return graphs.Replay(call, SimpleNamespace(replay=replay), torch.ones(()))

    def peak_bytes(call, device):
        assert not isinstance(call, graphs.Replay)
        order.append("peak")
        return 17

    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setattr(networks, "replays", lambda network, _: network.compiled or network.captured)
    monkeypatch.setattr(graphs, "side_stream", nullcontext)
    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(memory, "peak_bytes", peak_bytes)
    return order


@pytest.mark.parametrize("network", [COMPILED, CAPTURED], ids=lambda network: network.name)
def test_a_step_is_captured_after_its_memory_was_measured(captured, network):
    """A replay allocates nothing; its row has the memory of the step that the graph was made of."""
    case = NetworkCase("training", network, "training", "cpu")
    fields = networks.measure(case, CpuClock(), SETTINGS, Rivals())
    assert captured[:2] == ["peak", "capture resnet_mini"]
    assert set(captured[2:]) == {"replay"}
    assert len(captured[2:]) >= networks.WARM_UP_STEPS + LEAST
    assert fields["latency"]["replayed"] is True
    assert fields["memory"]["peak_bytes"] == 17 + fields["memory"]["resident_bytes"]


def test_what_is_eager_is_not_captured(captured):
    case = NetworkCase("training", EAGER, "training", "cpu")
    fields = networks.measure(case, CpuClock(), SETTINGS, Rivals())
    assert captured == ["peak"]
    assert fields["latency"]["replayed"] is False


def test_a_replay_whose_outcome_is_not_finite_is_incorrect(captured, monkeypatch):
    """Whatever the call itself computed before."""
    replay = graphs.Replay(
        lambda: None, SimpleNamespace(replay=lambda: captured.append("replay")), torch.tensor(torch.nan)
    )
    monkeypatch.setattr(graphs, "capture", lambda *_: replay)
    with pytest.raises(Incorrect, match="the loss of resnet_mini is not finite"):
        networks.Contestant.prepare(COMPILED, "training", "cpu", CpuClock())
    assert captured[-1] == "replay"


def test_a_replay_keeps_what_its_graph_refers_to(captured):
    """Images, targets and momentum are in nobody's hands but the call's."""
    own = networks.Contestant.prepare(COMPILED, "training", "cpu", CpuClock())
    assert own.replayed
    step = own.call.call
    assert step.func.optimizer.state
    assert [tensor.shape[0] for tensor in step.args] == [COMPILED.batch] * 2


@pytest.mark.parametrize("network", [COMPILED, CAPTURED], ids=lambda network: network.name)
def test_what_is_replayed(network):
    assert networks.replays(network, "cuda")
    assert networks.replays(network, "cuda:0")
    assert not networks.replays(network, "cpu")
    assert not networks.replays(EAGER, "cuda")
    assert not networks.replays(replace(network, magnitude=10), "cpu")
    with pytest.raises(Unsupported, match=r"RandAugment draws anew .* got magnitude 10"):
        networks.replays(replace(network, magnitude=10), "cuda")


def test_what_asks_for_a_capture_on_a_cpu_is_launched_and_uncompiled(monkeypatch):
    """Its row is that of the eager network, but for its name."""
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    own = networks.Contestant.prepare(CAPTURED, "training", "cpu", CpuClock())
    eager = networks.Contestant.prepare(EAGER, "training", "cpu", CpuClock())
    assert not own.replayed
    assert own.call().equal(eager.call())


FULL, WAITS = torch.OutOfMemoryError("out of memory"), RuntimeError("not permitted\n  while capturing")
BROKEN = RuntimeError("an earlier error")
CAPTURES = {
    "what the call said, not what the end of the capture says": (WAITS, BROKEN, "RuntimeError: not permitted while"),
    "what the call said": (WAITS, None, "RuntimeError: not permitted while capturing"),
    "what the end said": (None, BROKEN, "RuntimeError: an earlier error"),
    "memory, in a process that is stuck": (FULL, BROKEN, "OutOfMemoryError: out of memory"),
}


def attempt(monkeypatch, fault, end):
    """A capture in which the call and the end of the capture raise these, on a machine without a GPU."""

    @contextmanager
    def graph(*_, **__):
        yield
        if end is not None:
            raise end

    def call():
        if fault is not None:
            raise fault
        return torch.ones(())

    monkeypatch.setattr(graphs, "stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return graphs.capture(call, "a network")


@pytest.mark.parametrize("said", CAPTURES)
def test_a_capture_that_fails_says_why(monkeypatch, said):
    fault, end, reason = CAPTURES[said]
    with pytest.raises(graphs.Uncapturable, match=f"^a network cannot be captured as a CUDA graph: {reason}"):
        attempt(monkeypatch, fault, end)


def test_memory_that_runs_out_in_a_capture_is_no_broken_capture(monkeypatch):
    """The batch may be halved then."""
    with pytest.raises(torch.OutOfMemoryError):
        attempt(monkeypatch, FULL, None)


def test_a_capture_that_succeeds(monkeypatch):
    replay = attempt(monkeypatch, None, None)
    assert replay.call() == replay.output == 1


REPLAYED = [
    Network("halonet_mini", 64, 32, "bfloat16", "sdpa", compiled=True, overrides=(("stochastic_depth", 0.5),)),
    Network("halonet_mini", 64, 32, "bfloat16", "fused", compiled=True),
    Network("halonet_h0", 256, 8, "bfloat16", "fused_cuda", compiled=True),
    Network("convnet_mini", 64, 32, "bfloat16", compiled=True),
    Network("efficientnet_mini", 64, 32, "bfloat16", compiled=True),
    Network("halonet_mini", 64, 32, "bfloat16", "strided_gather", captured=True),
    Network("halonet_mini", 64, 32, "bfloat16", "sdpa", captured=True, overrides=(("stochastic_depth", 0.5),)),
    Network("halonet_mini", 64, 32, "bfloat16", "fused", captured=True),
    Network("halonet_h0", 256, 8, "bfloat16", "fused_cuda", captured=True),
    Network("efficientnet_mini", 64, 32, "bfloat16", captured=True),
    Network("resnet_mini", 64, 32, "bfloat16", captured=True),
]


def bytes_on_gpu():
    """What tensors use, and what the allocator has taken from the device for them, as a worker leaves a scope."""
    torch.compiler.reset()
    memory.release()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()


@pytest.fixture
def clean_gpu():
    """A GPU with a compiler that knows nothing yet, as in a worker at the start of a scope."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    bytes_on_gpu()
    yield
    bytes_on_gpu()


def taken_from(step, tensors, start, seed):
    """The losses and the parameters of four steps from the same start, each step's update included."""
    with torch.no_grad():
        for tensor, saved in zip(tensors, start, strict=True):
            tensor.copy_(saved)
    torch.cuda.manual_seed(seed)  # stochastic depth draws from it
    losses, updates, trained = [], [], [tensor for tensor in tensors if tensor.requires_grad]
    for _ in range(4):
        before = [tensor.detach().clone() for tensor in trained]
        losses.append(float(step()))
        changes = [(tensor.detach() - was).flatten() for tensor, was in zip(trained, before, strict=True)]
        updates.append(torch.cat(changes))
    return torch.tensor(losses), torch.stack(updates)


@pytest.mark.gpu
@pytest.mark.usefixtures("clean_gpu")
@pytest.mark.parametrize("network", REPLAYED, ids=lambda network: f"{network.name}-{network.backend}")
def test_a_replayed_step_trains_as_the_step_does(network):
    """From the same state and seed: the same losses and updates, but for the order in which atomics add up."""
    with graphs.side_stream():
        step, tensors_of = workload.training_step(workload.network_model(network, "cuda"), network, "cuda")
        for _ in range(3):
            step()
        tensors = list({id(tensor): tensor for tensor in tensors_of()}.values())
        start = [tensor.detach().clone() for tensor in tensors]
        losses, updates = taken_from(step, tensors, start, 3)
        replay = graphs.capture(step, network.model)
    replayed_losses, replayed_updates = taken_from(replay, tensors, start, 3)
    assert len(set(losses.tolist())) == 4
    torch.testing.assert_close(replayed_losses, losses, rtol=1e-2, atol=0.0)
    for replayed, update in zip(replayed_updates, updates, strict=True):
        assert update.norm() > 0
        assert (replayed - update).norm() < 0.05 * update.norm()


@pytest.mark.gpu
@pytest.mark.usefixtures("clean_gpu")
@pytest.mark.parametrize("network", REPLAYED, ids=lambda network: f"{network.name}-{network.backend}")
def test_replayed_inference_is_inference(network):
    own = networks.Contestant.prepare(network, "forward", "cuda", clock_for("cuda"))
    expected = own.call.call()
    own.call.output.zero_()
    torch.testing.assert_close(own.call(), expected)
    assert expected.abs().max() > 0


@pytest.mark.gpu
@pytest.mark.usefixtures("clean_gpu")
def test_the_peak_of_a_replayed_step_is_that_of_the_step():
    network = Network("halonet_mini", 64, 64, "bfloat16", "sdpa", compiled=True)
    own = networks.Contestant.prepare(network, "training", "cuda", clock_for("cuda"))
    step, _ = workload.training_step(workload.network_model(network, "cuda"), network, "cuda")
    for _ in range(4):
        step()
    assert own.peak_bytes == pytest.approx(memory.peak_bytes(step, "cuda"), rel=1e-3)
    assert memory.peak_bytes(own.call, "cuda") < own.peak_bytes / 100


@pytest.mark.gpu
@pytest.mark.usefixtures("clean_gpu")
def test_a_graph_gives_its_memory_back():
    """What it holds while it is kept is what its row calls resident: no leak. Afterwards nothing is reserved for it."""
    clock, rivals = clock_for("cuda"), Rivals()
    network = Network("halonet_mini", 64, 256, "bfloat16", "sdpa", compiled=True)
    rivals.prepare(network, "training", "cuda", clock)  # leaves workspaces behind, which cuBLAS keeps for a stream
    rivals.clear()
    allocated, reserved = bytes_on_gpu()
    peak, slack = rivals.prepare(network, "training", "cuda", clock).peak_bytes, 2**24
    assert peak > 4 * slack
    assert torch.cuda.memory_allocated() - allocated < rivals.held_bytes + slack
    assert torch.cuda.memory_reserved() - reserved > peak
    memory.release()  # as after each case
    rivals.clear()
    left, still_reserved = bytes_on_gpu()
    assert left - allocated < slack
    assert still_reserved - reserved < 4 * slack

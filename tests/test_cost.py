"""Costs in closed form against counts one by one, and against other people's counters."""

import itertools
import sys
from dataclasses import replace

import pytest
import torch
from halobench.implementations import flex
from halobench.implementations.fused_cuda import launch
from torch.nn.attention import SDPBackend, sdpa_kernel

from halobench import Geometry, LayerSpec, Problem, backends
from halobench.attention.geometry import Border
from halobench.attention.problem import Direction
from halobench.cases import cost, counters
from halobench.cases.cost import Cost
from halobench.cases.workload import Slot, bind

DIRECTIONS: tuple[Direction, ...] = ("forward", "training")
TINY = {
    "partial": Problem(Geometry(3, 1), 5, 4, batch=2, heads=3, key_dim=4, value_dim=6),
    "sasa": Problem(Geometry(1, 2), 4, 3, key_dim=5, value_dim=2),
    "stride": Problem(Geometry(4, 1, stride=2), 6, 4, batch=2, key_dim=4, value_dim=8, dtype="bfloat16"),
    "global": Problem(Geometry(8, 0), 3, 4, relative=False),
    "zero": Problem(Geometry(2, 1, border="zero"), 3, 4),
}
EAGER = Problem(Geometry(4, 1), 10, 9, batch=2, heads=2, key_dim=8, value_dim=12)


@pytest.mark.parametrize("name", TINY)
def test_useful_is_a_count(name: str) -> None:
    """FLOPs, bytes and exponentials of both passes, added up query by query and tensor by tensor."""
    problem = TINY[name]
    geometry, size = problem.geometry, problem.torch_dtype.itemsize
    pairs = positions = 0
    for i, j in itertools.product(range(0, problem.height, geometry.stride), range(0, problem.width, geometry.stride)):
        top, left = i - i % geometry.block, j - j % geometry.block
        rows = [a for a in range(problem.height) if -geometry.halo <= a - top < geometry.block + geometry.halo]
        columns = [b for b in range(problem.width) if -geometry.halo <= b - left < geometry.block + geometry.halo]
        pairs += problem.batch * problem.heads * len(rows) * len(columns)
        positions += problem.batch * problem.heads * (len(rows) + len(columns)) * problem.relative
    inputs = sum(tensor.numel() for tensor in problem.inputs().tensors.values()) * size
    queries = problem.inputs().query[..., 0].numel()
    output = queries * problem.value_dim * size
    key, value = 2 * problem.key_dim, 2 * problem.value_dim

    forward = Cost(pairs * (key + value) + positions * key, inputs + output, pairs)
    backward = Cost(pairs * (3 * key + 2 * value) + positions * 3 * key, 2 * (inputs + output) + 4 * queries, pairs)
    assert cost.forward(problem) == cost.useful(problem, "forward") == forward
    assert cost.backward(problem) == backward
    assert cost.useful(problem, "training") == forward + backward + Cost(0, 4 * queries, 0)


def test_useful_by_hand() -> None:
    """Two pixels that see each other, one head of one channel, no positions, float32."""
    problem = Problem(Geometry(2, 0), 1, 2, key_dim=1, value_dim=1, relative=False)
    # Four pairs of two multiply-adds; four tensors of two numbers.
    assert cost.forward(problem) == Cost(flops=16, bytes=32, exponentials=4)
    # Five multiply-adds a pair; query, key, value, output, its gradient and the log-sum-exp in, three gradients out.
    assert cost.backward(problem) == Cost(flops=40, bytes=72, exponentials=4)


def test_published_cost_per_pixel() -> None:
    """The paper's 4 (b + 2h)^2 c FLOPs per pixel, where no window leaves the image (interior blocks)."""
    wide = Problem(Geometry(8, 3), 800, 800, heads=4, relative=False)
    per_pixel = cost.forward(wide).flops / 800**2
    assert per_pixel == pytest.approx(4 * 14**2 * 64, rel=0.01)
    assert per_pixel < 4 * 14**2 * 64


@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize("geometry", [Geometry(4, 1), Geometry(8, 3), Geometry(1, 2), Geometry(4, 1, stride=2)])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("name", ["naive_unfold", "strided_gather", "timm_halo", "lucidrains"])
def test_eager_backends_are_counted_exactly(name: str, geometry: Geometry, border: Border, relative: bool) -> None:
    """What these backends say they execute is what PyTorch's counter sees, forward and training."""
    backend = backends.load(name)
    value_dim = 8 if name == "lucidrains" else 12
    problem = Problem(replace(geometry, border=border), 16, 8, 2, 2, 8, value_dim, relative=relative)
    peer = name in ("timm_halo", "lucidrains")
    if border not in backend.borders or (peer and (geometry.stride > 1 or not relative)):
        pytest.skip(f"{name} does not do this problem")
    for direction in DIRECTIONS:
        found = cost.executed(backend, problem, direction)
        assert found is not None
        assert found.flops == counters.counted_by_torch(bind(backend, problem, "cpu"), direction)


@pytest.mark.parametrize("name", ["naive_unfold", "strided_gather", "conv"])
@pytest.mark.parametrize("positions", ["split", None])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2)])
def test_layers_are_counted_exactly(name: str, positions: str | None, kernel: int, stride: int) -> None:
    """So are the layers around them, projections and strides included, and the convolution of any kernel."""
    geometry = Geometry(4, 1, stride)
    spec = LayerSpec(20, 2, 8, 12, geometry, positions=positions, kernel=kernel)  # type: ignore[arg-type]
    slot, backend = Slot(spec, 8, 12, batch=2), backends.load(name)
    for direction in DIRECTIONS:
        found = cost.executed(backend, slot, direction)
        assert found is not None
        assert found.flops == counters.counted_by_torch(bind(backend, slot, "cpu"), direction)


@pytest.mark.parametrize("name", ["sdpa", "global_sa"])
@pytest.mark.parametrize("relative", [True, False])
def test_fused_backends_are_counted_without_fusion(name: str, relative: bool) -> None:
    """Through PyTorch's unfused attention the counter sees all products; values as wide as folded keys need no padding.

    Training without recomputation: the unfused kernel keeps its weights.
    """
    backend = backends.load(name)
    assert backend.execution is not None
    problem = Problem(Geometry(4, 1), 8, 12, batch=2, heads=2, key_dim=8, value_dim=32, relative=relative)
    with sdpa_kernel(SDPBackend.MATH):
        forward = counters.counted_by_torch(bind(backend, problem, "cpu"), "forward")
        training = counters.counted_by_torch(bind(backend, problem, "cpu"), "training")
    execution = backend.execution(problem)
    assert forward == execution.forward_flops
    assert training == 3 * execution.forward_flops
    folded = {"sdpa": 8 + 6 + 6 + 4, "global_sa": 8 + 8 + 12 + 4 if relative else 8}[name]
    scored = {"sdpa": 36 * 16 * 6, "global_sa": (8 * 12) ** 2}[name] * 4
    assert execution.backward_flops - 2 * execution.forward_flops == 2 * folded * scored


@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize(
    ("block", "halo", "stride"), [(8, 3, 1), (4, 1, 1), (5, 2, 1), (1, 3, 1), (8, 3, 2), (2, 1, 4)]
)
@pytest.mark.parametrize("side", [64, 128])
def test_flex_counts_the_tiles_of_its_mask(side: int, block: int, halo: int, stride: int, border: Border) -> None:
    """The tiles counted without a score matrix are those that ``create_block_mask`` finds."""
    order = flex.BlockMajor(Geometry(block, halo, stride, border), 20, 12)
    assert flex.visible_tiles(order, side) == flex.block_mask(order, side, "cpu").to_dense().sum()


@pytest.mark.parametrize("name", [name for name in backends.names() if name not in ("conv", "global_sa")])
def test_nothing_executes_less_than_is_useful(name: str) -> None:
    """Executed costs are never below useful ones on the same problem."""
    backend = backends.load(name)
    for case in (EAGER, replace(EAGER, relative=False), replace(EAGER, geometry=Geometry(5, 2), dtype="bfloat16")):
        for direction in DIRECTIONS:
            executed, useful = cost.executed(backend, case, direction), cost.useful(case, direction)
            assert executed is not None
            assert executed.bytes > useful.bytes
            # Backends that keep their scores take four products backward where the useful count has five.
            assert executed.flops > useful.flops * (1 if direction == "forward" else 6 / 7)
            assert executed.exponentials >= cost.useful(case, "forward").exponentials


def test_stored_tensors_are_written_and_read() -> None:
    """Twice forward and five times in training, in the problem's dtype."""
    backend = backends.load("strided_gather")
    problem = replace(EAGER, dtype="bfloat16")
    windows, pairs = 2 * 2 * 9 * 36 * (8 + 12), 2 * 2 * 9 * 16 * 36
    for direction, times in (("forward", 2), ("training", 5)):
        executed, useful = cost.executed(backend, problem, direction), cost.useful(problem, direction)  # type: ignore[arg-type]
        assert executed is not None
        assert executed.bytes - useful.bytes == times * 2 * (windows + pairs)


def test_memory_by_hand() -> None:
    """Output and stored tensors; in training their gradients and those of all inputs on top."""
    backend = backends.load("strided_gather")
    stored, output = 2 * 2 * 9 * 36 * (8 + 12) + 2 * 2 * 9 * 16 * 36, 2 * 2 * 90 * 12
    inputs = sum(tensor.numel() for tensor in EAGER.inputs().tensors.values())
    assert cost.memory_bytes(backend, EAGER, "forward") == 4 * (stored + output)
    assert cost.memory_bytes(backend, EAGER, "training") == 4 * (2 * (stored + output) + inputs)


def test_layer_by_hand() -> None:
    """A layer's map, weights, projections and output, tensor by tensor."""
    spec = LayerSpec(20, 2, 8, 12, Geometry(4, 1, stride=2), positions="sum")
    slot, backend = Slot(spec, 8, 12, batch=3), backends.load("strided_gather")
    pixels, queries, tables = 3 * 96, 3 * 24, 2 * 11 * 8
    weights, output = 20 * (16 + 16 + 24), queries * 24
    projected = queries * 16 + pixels * (16 + 24)
    useful = cost.useful(slot, "forward")
    assert useful.flops == cost.forward(slot.problem).flops + 2 * 20 * projected
    assert useful.bytes == 4 * (pixels * 20 + weights + tables + output)
    assert useful.exponentials == slot.problem.visible_pairs
    training = cost.useful(slot, "training")
    assert training.flops == cost.useful(slot.problem, "training").flops + 3 * 2 * 20 * projected
    assert training.bytes == 4 * (3 * (pixels * 20 + weights + tables) + 2 * output)
    operator, layer = cost.executed(backend, slot.problem, "forward"), cost.executed(backend, slot, "forward")
    assert operator is not None
    assert layer is not None
    assert layer.bytes - operator.bytes == 4 * (pixels * 20 + weights + projected)
    stored = (cost.memory_bytes(backend, slot.problem, "forward") or 0) // 4 - output
    assert cost.memory_bytes(backend, slot, "forward") == 4 * (output + stored + projected)
    inputs = pixels * 20 + weights + tables
    assert cost.memory_bytes(backend, slot, "training") == 4 * (2 * (output + stored + projected) + inputs)


def test_convolution_by_hand() -> None:
    """A convolution costs its taps; its weights come and go with it; it needs nothing but its output."""
    slot = Slot(LayerSpec(20, 2, 8, 12, Geometry(4, 1), kernel=5), 8, 12, batch=3)
    conv, pixels, weights = backends.load("conv"), 3 * 96, 25 * 20 * 24
    moved = 4 * (pixels * 20 + weights + pixels * 24)
    assert cost.executed(conv, slot, "forward") == Cost(2 * 25 * 20 * 24 * pixels, moved, 0)
    assert cost.memory_bytes(conv, slot, "forward") == 4 * pixels * 24


def test_unknown_stays_unknown() -> None:
    """A backend without an account has no cost, in any form."""
    for name, task in (("strided_gather", EAGER), ("conv", EAGER)):
        backend = replace(backends.load(name), execution=None, layer_execution=None)
        assert cost.executed(backend, task, "forward") is None
        assert cost.memory_bytes(backend, task, "training") is None
    silent = replace(backends.load("sdpa"), execution=None)
    assert cost.executed(silent, Slot(LayerSpec(20, 2, 8, 12, Geometry(4, 1)), 8, 12), "forward") is None


def test_torch_counter_is_blind_to_fused_attention_on_the_cpu() -> None:
    """It sees the biases computed beforehand and nothing else; with CUDA it knows the kernels."""
    problem = Problem(Geometry(4, 1), 8, 12, batch=2, heads=2, key_dim=8, value_dim=8)
    biases = 2 * 2 * 4 * 6 * 16 * 6 * 8  # two axes, a multiply-add, blocks, queries, offsets, channels
    assert counters.counted_by_torch(bind(backends.load("sdpa"), problem, "cpu"), "forward") == biases


def test_torch_counter_gives_up_on_compiled_code() -> None:
    """None, never 0, for ``torch.compile`` and FlexAttention."""
    for name in ("compiled", "flex"):
        assert counters.counted_by_torch(bind(backends.load(name), EAGER, "cpu"), "forward") is None
    torch.compiler.reset()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_counting_leaves_no_gradient_behind(direction: Direction) -> None:
    """The workload is measured afterwards."""
    workload = bind(backends.load("strided_gather"), EAGER, "cpu")
    assert counters.counted_by_torch(workload, direction)
    assert all(tensor.grad is None for tensor in workload.tensors.values())


def test_fvcore_counts_half_and_names_what_it_skips(caplog: pytest.LogCaptureFixture) -> None:
    """A multiply-add once; without the mask's arithmetic and the softmax, and silently."""
    conv = counters.counted_by_fvcore(backends.load("conv"), EAGER, "cpu")
    executed = cost.executed(backends.load("conv"), EAGER, "forward")
    assert conv is not None
    assert executed is not None
    assert (2 * conv.macs, conv.unsupported) == (executed.flops, ())
    gather = counters.counted_by_fvcore(backends.load("strided_gather"), EAGER, "cpu")
    executed = cost.executed(backends.load("strided_gather"), EAGER, "forward")
    assert gather is not None
    assert executed is not None
    assert 2 * gather.macs == pytest.approx(executed.flops, rel=0.01)
    assert "aten::softmax" in gather.unsupported
    assert not caplog.records


@pytest.mark.parametrize("name", ["compiled", "flex", "timm_halo", "lucidrains"])
def test_fvcore_gives_up_where_it_cannot_trace(name: str) -> None:
    """None, never 0."""
    backend = backends.load(name)
    problem = Problem(Geometry(4, 1, border=backend.borders[0]), 8, 8, heads=2)
    assert counters.counted_by_fvcore(backend, problem, "cpu") is None


@pytest.mark.parametrize("missing", ["fvcore", "fvcore.nn", "tabulate"])
def test_fvcore_gives_up_where_it_or_what_it_needs_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The row is measured all the same; ``None`` in ``sys.modules`` is what an import hook leaves of a package."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("fvcore", "tabulate")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert counters.counted_by_fvcore(backends.load("conv"), EAGER, "cpu") is None


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), ImportError("no"), torch.OutOfMemoryError("no")])
def test_whatever_a_counter_raises_is_no_opinion(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fvcore.nn.FlopCountAnalysis.total", fail)
    monkeypatch.setattr(counters.FlopCounterMode, "get_total_flops", fail)
    monkeypatch.setattr(counters.FlopCounterMode, "__enter__", fail)
    assert counters.counted_by_fvcore(backends.load("conv"), EAGER, "cpu") is None
    assert counters.counted_by_torch(bind(backends.load("conv"), EAGER, "cpu"), "forward") is None


def test_kernels_are_named_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backend names them: of a call with gradients, those of its backward pass, too."""
    monkeypatch.setattr(launch, "here", lambda: False)
    problem = Problem(Geometry(8, 3), 9, 8, dtype="bfloat16")
    fused_cuda = backends.load("fused_cuda")
    assert cost.kernels(fused_cuda, problem, "forward") == "forward"
    assert cost.kernels(fused_cuda, problem, "training") == "forward, query_gradient, key_gradient"
    for name in ("strided_gather", "conv", "flex"):
        assert cost.kernels(backends.load(name), problem, "training") is None

"""The fused kernels: in Triton's interpreter on the CPU, and what only a GPU can show; their tiles, by counting."""

import itertools

import pytest
import torch
from halobench.implementations.fused import tiles

from halobench import Geometry, LayerSpec, Problem, RelativeTables, Unsupported, backends, models
from halobench.attention import oracle
from halobench.cases import accuracy
from halobench.cases.workload import Slot
from tests.fused_interpreted import CHECKS
from tests.interpreter import Interpreter

FUSED = backends.load("fused")
GEOMETRIES = [
    Geometry(block, halo, stride)
    for block, halo, stride in itertools.product((1, 2, 3, 5, 8, 10, 12, 13, 14, 16, 32), (0, 1, 3, 8), (1, 2, 3, 4, 7))
]


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_interpreter(interpreter: Interpreter, check: str) -> None:
    fault = interpreter.fault("fused_interpreted", check)
    assert fault is None, fault


def test_without_a_gpu_it_says_what_it_needs() -> None:
    problem = Problem(Geometry(4, 1), 8, 8)
    assert FUSED.attend is not None
    with pytest.raises(Unsupported, match=r"fused needs a CUDA device .*TRITON_INTERPRET=1.*, got cpu"):
        FUSED.attend(*problem.inputs(), problem.geometry)


def test_shapes_are_known_without_a_device() -> None:
    """As ``torch.device("meta")`` asks for them; autocast, which knows real devices only, is left out."""
    problem = Problem(Geometry(4, 1, 2), 9, 6, heads=3, key_dim=5, value_dim=7)
    query, key, value, (rows, columns) = problem.inputs()
    given = [tensor.to("meta") for tensor in (query, key, value)]
    relative = RelativeTables(rows.to("meta"), columns.to("meta"))
    assert FUSED.attend is not None
    assert FUSED.attend(*given, relative, problem.geometry).shape == (1, 3, 5, 3, 7)


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("dims", [(8, 8), (16, 40), (64, 160), (128, 256)])
def test_tiles_are_what_the_kernels_can_take(dims: tuple[int, int], itemsize: int) -> None:
    """Powers of two where Triton wants them, spans long enough, tiles within blocks unless blocks are small or odd."""
    for geometry in GEOMETRIES:
        cut = tiles.tiling(geometry, *dims, itemsize)
        assert cut.queries in (16, 32, 64)
        assert cut.height * cut.width <= cut.queries
        for keys in (cut.walked, cut.owned):
            assert keys.rows * keys.columns in (16, 32, 64)
            for span, pixels, queries in (
                (keys.row_span, keys.rows, cut.height),
                (keys.column_span, keys.columns, cut.width),
            ):
                assert span >= max(16, pixels + (queries - 1) * geometry.stride)
                assert all(number & (number - 1) == 0 for number in (span, pixels))
        for tile in range(geometry.block):  # whatever a tile sees is held, or nothing is
            first, last = (query * geometry.stride for query in (tile * cut.height, (tile + 1) * cut.height - 1))
            rows = geometry.seen(last + 10**6 * geometry.block, 10**9).stop
            rows -= geometry.seen(first + 10**6 * geometry.block, 10**9).start
            assert cut.held_rows == 0 or (rows <= cut.held_rows and cut.held_rows % cut.walked.rows == 0)
            assert cut.held_rows == 0 or cut.held_span >= cut.held_rows + (cut.height - 1) * geometry.stride
        if geometry.block in (8, 10, 12, 14, 16, 32) and geometry.stride == 1:
            assert geometry.block % cut.height == geometry.block % cut.width == 0


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_counted_tiles_hold_every_visible_pair(geometry: Geometry) -> None:
    """Along an axis: each query meets all keys it sees, in the tiles of both walks, and the counts add up."""
    cut = tiles.tiling(geometry, 16, 16, 2)
    owned, walked, width = cut.owned.columns, cut.walked.columns, cut.width
    for own, above, below in ((1, 0, 0), (7, 0, 0), (16, 0, 0), (45, 0, 0), (16, geometry.halo, 3), (9, 1, 0)):
        size, end = above + own + below, own + below
        shift, visits = tiles.key_tiles(geometry, size, owned, width, above, below).shift, 0
        assert shift >= above
        for first in range(-shift, end, owned):
            keys = set(range(max(first, -above), min(first + owned, end)))
            seeing = {
                query // width
                for query in range(geometry.queries(own))
                if keys & set(geometry.seen(query * geometry.stride, own, above, below))
            }
            met = tiles.visited(geometry, end, first, owned, width, below)
            assert len(seeing) <= met
            visits += met
        assert tiles.key_tiles(geometry, size, owned, width, above, below).visits == visits
        number, met = tiles.scored(geometry, size, walked, width, above, below)
        assert met * walked * width >= geometry.seen_along(own, above, below)
        assert number * width >= geometry.queries(own)


def test_key_tiles_straddle_blocks_where_that_meets_fewer_queries() -> None:
    """Eight keys in the middle of two blocks of eight see two blocks, eight within one see three."""
    assert tiles.tiling(Geometry(8, 3), 16, 16, 2).owned == tiles.KeyTile(8, 8, 16, 16)
    assert tiles.key_tiles(Geometry(8, 3), 64, 8, 8).shift == 4
    assert tiles.visited(Geometry(8, 3), 64, 12, 8, 8) == 2
    assert tiles.visited(Geometry(8, 3), 64, 8, 8, 8) == 3


REFERENCE = Problem(Geometry(8, 3), 64, 64, batch=4, heads=4, dtype="bfloat16")
NETWORK_HEADS = [(16, 16), (32, 32), (64, 64), (16, 40), (32, 80), (64, 160), (16, 48), (32, 96), (64, 192), (64, 256)]


@pytest.fixture
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
class TestOnTheGpu:
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
    @pytest.mark.parametrize("dims", NETWORK_HEADS)
    @pytest.mark.parametrize("geometry", [Geometry(8, 3), Geometry(14, 2), Geometry(8, 4, 2)], ids=str)
    def test_heads_of_the_networks(
        self, geometry: Geometry, dims: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the call does not fill is NaN."""
        empty = torch.Tensor.new_empty
        monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan))
        task = Problem(geometry, 36, 28, 2, 2, *dims, dtype=dtype)
        assert accuracy.check(FUSED, task, "cuda", "training").fault is None

    @pytest.mark.parametrize(
        "block_halo", [(1, 6), (2, 1), (4, 1), (7, 2), (12, 2), (13, 3), (16, 8), (32, 8), (64, 4)]
    )
    @pytest.mark.parametrize("stride", [1, 2])
    def test_blocks_up_to_64(self, block_halo: tuple[int, int], stride: int) -> None:
        """Against the oracle, since the formula does not know all of these strides."""
        task = Problem(Geometry(*block_halo, stride), 70, 66, 1, 2, 16, 24)
        inputs = task.inputs("cuda", requires_grad=True)
        assert FUSED.attend is not None
        output, truth = (attend(*inputs, task.geometry) for attend in (FUSED.attend, oracle.attend))
        leaves = list(inputs.tensors.values())
        cotangent = torch.randn_like(output)
        found = torch.autograd.grad(output, leaves, cotangent)
        wanted = torch.autograd.grad(truth, leaves, cotangent.double())
        for one, other in zip((output, *found), (truth, *wanted), strict=True):
            assert float((one.detach().double() - other.detach()).norm() / other.detach().norm()) < 2e-6

    def test_bit_for_bit(self) -> None:
        """Two calls give the same bits, deterministic mode or not."""
        first, second = (
            torch.autograd.grad(
                FUSED.attend(*inputs, REFERENCE.geometry).float().square().sum(), list(inputs.tensors.values())
            )
            for inputs in (REFERENCE.inputs("cuda", requires_grad=True) for _ in range(2))
        )
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))

    def test_a_cuda_graph(self) -> None:
        """A captured training call, replayed on other inputs, computes for those."""
        inputs = REFERENCE.inputs("cuda", requires_grad=True)
        leaves = list(inputs.tensors.values())

        def step() -> tuple[torch.Tensor, ...]:
            output = FUSED.attend(*inputs, REFERENCE.geometry)
            return output.detach(), *torch.autograd.grad(output, leaves, output.detach())

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            step()  # another stream than the default, and the warm-up that capturing needs
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        with torch.no_grad():
            for leaf, other in zip(leaves, REFERENCE.inputs("cuda", seed=1).tensors.values(), strict=True):
                leaf.copy_(other)
        graph.replay()
        assert all(torch.equal(one, other) for one, other in zip(captured, step(), strict=True))

    def test_no_synchronisation(self) -> None:
        """Nothing in a call waits for the device, once the kernels are compiled."""
        inputs = REFERENCE.inputs("cuda", requires_grad=True)
        leaves = list(inputs.tensors.values())
        output = FUSED.attend(*inputs, REFERENCE.geometry)
        torch.autograd.grad(output, leaves, torch.ones_like(output))
        torch.cuda.set_sync_debug_mode("error")
        try:
            output = FUSED.attend(*inputs, REFERENCE.geometry)
            torch.autograd.grad(output, leaves, torch.ones_like(output))
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_a_whole_network_compiles_without_a_break(self) -> None:
        """HaloNet-H0 under autocast, forward and backward."""
        model = models.create("halonet_h0", backend="fused", num_classes=10).cuda()
        compiled = torch.compile(model, fullgraph=True)
        images = torch.randn(2, 3, 256, 256, device="cuda").to(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(images).float().square().mean()
        loss.backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
        torch.compiler.reset()

    def test_another_gpu_than_the_current_one(self) -> None:
        if torch.cuda.device_count() < 2:
            pytest.skip("one CUDA device only")
        inputs = REFERENCE.inputs("cuda:0")
        moved = [tensor.to("cuda:1") for tensor in inputs.tensors.values()]
        here = FUSED.attend(*inputs, REFERENCE.geometry)
        there = FUSED.attend(*moved[:3], RelativeTables(*moved[3:]), REFERENCE.geometry)
        assert torch.equal(here, there.to("cuda:0"))

    def test_tf32_only_where_pytorch_is_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task = Problem(Geometry(8, 3), 32, 32, 2, 2, 64, 64)
        inputs = task.inputs("cuda")
        truth = oracle.attend(*inputs, task.geometry)

        def error() -> float:
            return float((FUSED.attend(*inputs, task.geometry).double() - truth).norm() / truth.norm())

        assert error() < 1e-6
        monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
        assert 1e-5 < error() < 5e-3

    def test_memory(self) -> None:
        """Training peaks at the output, the gradients, two numbers a query, and the partial sums of the tables."""
        inputs = REFERENCE.inputs("cuda", requires_grad=True)
        leaves = list(inputs.tensors.values())
        cotangent = torch.ones_like(inputs.query)

        def step() -> None:
            torch.autograd.grad(FUSED.attend(*inputs, REFERENCE.geometry), leaves, cotangent)

        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peak = torch.cuda.max_memory_allocated() - before
        tensor = inputs.query.numel() * 2
        numbers = inputs.query.numel() // 16 * 4
        partials = 4 * torch.cuda.get_device_properties(0).multi_processor_count * 2 * 27 * 16 * 4
        assert peak <= 4 * tensor + 2 * numbers + 2 * partials + 2**16

    def test_layer(self) -> None:
        spec = LayerSpec(64, 4, 16, 16, Geometry(8, 3, 2))
        assert accuracy.check(FUSED, Slot(spec, 30, 26, 2, "bfloat16"), "cuda", "training").fault is None

"""The CUDA kernels on a CPU: their sources, compiled as C++ behind an emulated warp, against the oracle.

Every thread is a fiber there, and shared memory starts as NaN, so that what is read before it is written shows.
"""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from halobench.implementations import fused_cuda
from halobench.implementations.fused_cuda import launch, layouts, operator, packed, shapes
from halobench.implementations.fused_cuda.launch import Args
from halobench.implementations.fused_cuda.shapes import Kernel, Shape
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from halobench import Geometry, HaloAttention, LayerSpec, Problem, RelativeTables, Unsupported, backends
from halobench.attention.geometry import Border
from halobench.cases import accuracy
from halobench.cases.workload import Slot
from tests import emulator
from tests.cases import CASES

BUILD = backends.load("fused_cuda").build


@pytest.fixture
def unlaunched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls on a CPU are accepted, and launch nothing."""
    monkeypatch.setattr(launch, "demand_gpu", lambda _: None)
    monkeypatch.setattr(launch, "resident", lambda *_: 3)  # so that a CTA walks over several blocks
    monkeypatch.setattr(launch, "run", lambda *_: None)


@pytest.fixture
def emulated(kernels_folder: Path, monkeypatch: pytest.MonkeyPatch, unlaunched: None) -> None:
    """Launches run on the CPU."""
    del unlaunched

    def run(kernel: Kernel, shape: Shape, args: Args, ctas: int, device: torch.device) -> None:
        assert device.type == "cpu"
        library = emulator.library(kernel, shape, kernels_folder)
        needed = layouts.shared_bytes(shape, kernel, layouts.layout_of(shape, kernel))
        assert list((ctypes.c_int * 2).in_dll(library, "launch"))[1] == needed
        library.emulate(ctypes.byref(args), ctas)

    monkeypatch.setattr(launch, "run", run)


EMULATED = {
    "whole_blocks": ("bfloat16", "masked"),
    "partial_blocks": ("bfloat16", "zero"),
    "odd_block": ("float16", "masked"),
    "stride_2": ("float16", "zero"),
    "no_positions_partial": ("bfloat16", "masked"),
    "halo_beyond_block": ("bfloat16", "masked"),
    "sasa": ("bfloat16", "masked"),
}
DRAWN = {
    "wide": Problem(Geometry(4, 2), 7, 9, heads=2, key_dim=32, value_dim=48, dtype="bfloat16"),
    "ten": Problem(Geometry(10, 3), 13, 11, heads=1, dtype="bfloat16"),
    "twelve": Problem(Geometry(12, 2), 15, 14, heads=2, dtype="bfloat16"),
    "thirteen": Problem(Geometry(13, 1, border="zero"), 15, 14, heads=1, dtype="float16"),
    "exact": Problem(Geometry(8, 4), 9, 9, heads=1, key_dim=64, value_dim=64, dtype="bfloat16"),
    "one_block": Problem(Geometry(8, 5), 8, 7, batch=2, heads=2, key_dim=32, dtype="bfloat16"),
    "one_strided_block": Problem(Geometry(12, 2, stride=2), 11, 12, heads=2, dtype="bfloat16"),
    "two_slices": Problem(Geometry(4, 2), 7, 9, heads=2, value_dim=160, dtype="bfloat16"),
    "three_slices": Problem(Geometry(8, 3, border="zero"), 8, 9, value_dim=144, relative=False, dtype="float16"),
    "widest": Problem(Geometry(8, 4), 8, 9, heads=2, key_dim=64, value_dim=192, dtype="bfloat16"),
    "widest_strided": Problem(Geometry(8, 4, stride=2), 9, 8, heads=4, key_dim=64, value_dim=64, dtype="bfloat16"),
    "h5": Problem(Geometry(14, 2), 17, 15, heads=2, value_dim=40, dtype="bfloat16"),
    "h5_zero": Problem(Geometry(14, 2, border="zero"), 15, 17, heads=1, value_dim=40, dtype="float16"),
    "h5_wide_heads": Problem(Geometry(14, 2), 15, 16, heads=1, key_dim=32, value_dim=80, dtype="bfloat16"),
    "h5_one_block": Problem(Geometry(14, 2), 14, 13, heads=2, key_dim=64, value_dim=160, dtype="bfloat16"),
    "three_octets": Problem(Geometry(8, 5), 11, 9, heads=2, key_dim=32, value_dim=32, dtype="float16"),
    "three_octets_zero": Problem(Geometry(4, 8, border="zero"), 9, 7, heads=2, dtype="bfloat16"),
    "three_octets_strided": Problem(Geometry(6, 9, stride=2), 13, 8, heads=1, value_dim=24, dtype="bfloat16"),
    "three_octets_plain": Problem(Geometry(14, 2), 15, 16, heads=1, key_dim=64, relative=False, dtype="bfloat16"),
    "narrow_values": Problem(Geometry(8, 3), 9, 10, heads=4, value_dim=8, dtype="bfloat16"),
    "one_query_of_many_keys": Problem(Geometry(16, 0, stride=16), 17, 16, heads=1, value_dim=32, dtype="bfloat16"),
    "narrow": Problem(Geometry(8, 0), 13, 9, heads=2, value_dim=32, dtype="bfloat16"),
}
ALL = {
    name: replace(CASES[name], dtype=dtype, geometry=replace(CASES[name].geometry, border=border))
    for name, (dtype, border) in EMULATED.items()
} | DRAWN


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("case", ALL)
def test_kernels_on_a_cpu(case: str) -> None:
    """Output and all gradients within the budget of every backend."""
    problem = ALL[case]
    backend = replace(backends.load("strided_gather"), name="emulated", attend=fused_cuda.attend)
    assert accuracy.check(backend, problem, "cpu", "training").fault is None


@pytest.mark.usefixtures("emulated")
def test_tables_may_lie_anywhere() -> None:
    """Tables out of step with the kernels' copies of 16 bytes are copied first."""
    query, key, value, relative = Problem(Geometry(8, 3), 8, 8, dtype="bfloat16").inputs()
    assert relative is not None
    shifted = RelativeTables(
        *(torch.cat([table.new_zeros(1), table.flatten()])[1:].view_as(table) for table in relative)
    )
    assert shifted.rows.data_ptr() % 16
    expected, found = (fused_cuda.attend(query, key, value, tables, Geometry(8, 3)) for tables in (relative, shifted))
    assert torch.equal(expected, found)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("factor", [60, -60])
def test_logits_beyond_the_fast_path(factor: float) -> None:
    """Sums of exponentials that would overflow or vanish are computed again with their maximum."""
    inputs = Problem(Geometry(8, 3), 8, 8, dtype="bfloat16", relative=False).inputs(seed=1)
    query, key = torch.full_like(inputs.query, 8), inputs.key.abs() + 1
    output = fused_cuda.attend(query * factor, key, inputs.value, None, Geometry(8, 3))
    best = (factor * key.float().sum(-1)).flatten(2).argmax(-1)  # so steep that the best key takes it all
    expected = inputs.value.flatten(2, 3)[0, 0, best[0, 0]]
    assert torch.allclose(output[0, 0, 0, 0].float(), expected.float(), atol=1e-2)


@pytest.mark.usefixtures("emulated")
def test_parts_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many CTAs share a block, also where some of them see no key of a step, and none of any."""
    whole, shared = layouts.Layout(1, 1), layouts.Layout(1, 1, parts=7)
    for module in (layouts, operator):
        monkeypatch.setattr(module, "layout_of", lambda _, kernel: whole if kernel == "query_gradient" else shared)
    problem = Problem(Geometry(14, 2), 15, 17, heads=1, value_dim=40, dtype="bfloat16")
    backend = replace(backends.load("strided_gather"), name="emulated", attend=fused_cuda.attend)
    assert accuracy.check(backend, problem, "cpu", "training").fault is None


@pytest.mark.usefixtures("emulated")
def test_parts_compute_what_one_cta_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: no tile belongs to two parts, whose warps could decide differently to go over it again."""
    query, key, value, _ = Problem(Geometry(14, 0), 14, 14, value_dim=40, relative=False, dtype="bfloat16").inputs()
    query[..., 7, :5, :] *= 100  # in tile 6 of 13: beyond the fast path
    found = []
    for layout in (layouts.Layout(1, 2), layouts.Layout(1, 2, parts=2)):
        for module in (layouts, operator):
            monkeypatch.setattr(module, "layout_of", lambda *_, layout=layout: layout)
        shapes.shape_for.cache_clear()  # kernels are remembered by shape
        found.append(operator.forward(query, key, value, None, None, 14, 0, 1, "masked"))
    for once, again in zip(*found, strict=True):
        assert torch.equal(once, again)


def test_needs_a_gpu() -> None:
    """On a CPU the backend refuses; nothing falls back to another one."""
    problem = Problem(Geometry(8, 3), 8, 8, dtype="bfloat16")
    attend_on_gpu = backends.load("fused_cuda").attend
    assert attend_on_gpu is not None
    with pytest.raises(Unsupported, match="needs a CUDA device"):
        attend_on_gpu(*problem.inputs(), problem.geometry)


@pytest.mark.usefixtures("unlaunched")
@pytest.mark.parametrize("border", ["masked", "zero"])
def test_operator_registration(border: Border) -> None:
    """What the compiler is told of the results matches what the operator returns."""
    query, key, value, relative = Problem(Geometry(8, 3), 9, 8, heads=2, dtype="bfloat16").inputs()
    assert relative is not None
    torch.library.opcheck(
        operator.forward,
        (query, key, value, *relative, 8, 3, 1, border),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("build", [BUILD, partial(HaloAttention, attend=fused_cuda.attend)])
def test_whole_graph_compiles_on_a_cpu(build: Callable[[LayerSpec], HaloAttention]) -> None:
    """The compiler takes layers of two geometries without a graph break, forward and backward."""
    pixels = torch.randn(1, 16, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    layers = [build(LayerSpec(16, 1, 16, 16, Geometry(8, halo))).bfloat16() for halo in (0, 1)]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def both(pixels: Tensor) -> Tensor:
        return layers[1](layers[0](pixels))

    torch.testing.assert_close(both(pixels), layers[1](layers[0](pixels)))
    both(pixels).float().sum().backward()
    assert all(parameter.grad is not None for layer in layers for parameter in layer.parameters())


WHOLE = LayerSpec(24, 2, 16, 32, Geometry(8, 3))
SUMMED = LayerSpec(24, 1, 32, 16, Geometry(4, 2, border="zero"), positions="sum")
PACKED = {
    "masked": Slot(WHOLE, 9, 14, 2, "bfloat16"),
    "one block": Slot(WHOLE, 8, 7, 2, "bfloat16"),
    "two slices": Slot(replace(WHOLE, value_dim=192), 8, 9, 1, "bfloat16"),
    "zero": Slot(SUMMED, 9, 14, 2, "bfloat16"),
    "no positions": Slot(replace(WHOLE, positions=None), 9, 14, 2, "bfloat16"),
    "strided": Slot(replace(WHOLE, geometry=Geometry(8, 3, stride=2)), 9, 14, 2, "bfloat16"),
}


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("name", PACKED)
def test_packed_layer_on_a_cpu(name: str) -> None:
    """One projection for all three computes what three compute: output and all gradients of the layer."""
    backend = backends.load("fused_cuda")
    assert accuracy.check(backend, PACKED[name], "cpu", "training").fault is None


@pytest.mark.usefixtures("emulated")
def test_packed_layer_takes_biases() -> None:
    """A layer that has timm's biases, or is frozen in part, is projected like any other."""
    joint, plain = BUILD(SUMMED), HaloAttention(SUMMED, fused_cuda.attend)
    for layer in (joint, plain):
        for number, projection in enumerate((layer.query, layer.key, layer.value)):
            torch.manual_seed(number)
            projection.bias = nn.Parameter(torch.randn(projection.out_channels))
        layer.bfloat16()
    plain.load_state_dict(joint.state_dict())
    joint.key.weight.requires_grad_(False)
    pixels = torch.randn(2, 24, 9, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    outputs = [layer(pixels) for layer in (joint, plain)]
    torch.testing.assert_close(*outputs, rtol=2e-2, atol=2e-2)
    for output in outputs:
        output.float().square().sum().backward()
    for name, parameter in plain.named_parameters():
        found = joint.get_parameter(name).grad
        if name == "key.weight":
            assert found is None
        else:
            assert found is not None
            assert parameter.grad is not None
            assert (found - parameter.grad).norm() < 0.03 * parameter.grad.norm()


@pytest.mark.usefixtures("unlaunched")
@pytest.mark.parametrize("border", ["masked", "zero"])
def test_packed_operator_registration(border: Border) -> None:
    """What the compiler and the counter are told of the packed operator is what they are told of the other."""
    problem = Problem(Geometry(8, 3, border=border), 9, 8, batch=2, heads=2, value_dim=32, dtype="bfloat16")
    query, key, value, relative = problem.inputs()
    assert relative is not None
    maps = [tensor.movedim(-1, 2).flatten(1, 2) for tensor in (query, key, value)]
    joined = torch.cat(maps, 1).to(memory_format=torch.channels_last)
    arguments = (joined, *relative, 2, 16, 8, 3, border)
    torch.library.opcheck(packed.packed_forward, arguments, test_utils=("test_schema", "test_faketensor"))
    for part, tensor in zip(packed.heads_of(joined, 2, 16), (query, key, value), strict=True):
        assert torch.equal(part, tensor)
    counts = []
    for forward, inputs in (
        (packed.packed_forward, arguments),
        (operator.forward, (query, key, value, *relative, 8, 3, 1, border)),
    ):
        leaves = [one.clone().requires_grad_() if isinstance(one, Tensor) else one for one in inputs]
        with FlopCounterMode(display=False) as counter:
            forward(*leaves)[0].sum().backward()
        counts.append(counter.get_total_flops())
    executed = fused_cuda.execution(problem)
    assert counts[0] == counts[1] == executed.forward_flops + executed.backward_flops


@pytest.mark.gpu
@pytest.mark.parametrize("direction", ["forward", "training"])
def test_deterministic(direction: str) -> None:
    """Two calls agree bit for bit."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    problem = Problem(Geometry(8, 3), 40, 33, batch=3, heads=4, dtype="bfloat16")
    inputs = problem.inputs("cuda", requires_grad=True)
    backend = backends.load("fused_cuda")
    assert backend.attend is not None

    def call() -> list[Tensor]:
        assert backend.attend is not None
        output = backend.attend(*inputs, problem.geometry)
        if direction == "forward":
            return [output]
        return list(torch.autograd.grad(output.float().square().sum(), list(inputs.tensors.values())))

    for once, again in zip(call(), call(), strict=True):
        assert torch.equal(once, again)


@pytest.mark.gpu
def test_whole_graph_compiles() -> None:
    """A layer compiles without a graph break and computes the same."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    layer = backends.load("fused_cuda").build(LayerSpec(64, 4, 16, 16, Geometry(8, 3))).cuda()
    pixels = torch.randn(2, 64, 24, 17, device="cuda").to(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        eager = layer(pixels)
        compiled = torch.compile(layer, fullgraph=True)(pixels)
    torch.testing.assert_close(eager, compiled, rtol=2e-2, atol=2e-2)
    with torch.autocast("cuda", torch.bfloat16):
        torch.compile(layer, fullgraph=True)(pixels).float().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.gpu
def test_cuda_graph_replays() -> None:
    """A captured call computes what an eager one does, on new inputs."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    problem = Problem(Geometry(8, 3), 24, 24, heads=4, dtype="bfloat16")
    attend_on_gpu = backends.load("fused_cuda").attend
    assert attend_on_gpu is not None
    inputs = problem.inputs("cuda")
    attend_on_gpu(*inputs, problem.geometry)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = attend_on_gpu(*inputs, problem.geometry)
    inputs.query.copy_(torch.randn_like(inputs.query))
    graph.replay()
    assert torch.equal(output, attend_on_gpu(*inputs, problem.geometry))

"""Every backend against the truth, on every case: output and all gradients, under one tolerance rule.

A refusal is a skip that shows its reason; a wrong result or any other exception is a failure.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from halobench import Geometry, LayerSpec, Problem, RelativeTables, Unsupported, backends
from halobench.attention.geometry import Border
from halobench.attention.problem import Backend, Direction
from halobench.cases import accuracy
from halobench.cases.workload import Slot, Task
from tests.cases import CASES, REPRESENTATIVE, problem

COMPILES = ("compiled", "flex")
COMPILED_ON_CPU = {("whole_blocks", "masked"), ("partial_blocks", "zero"), ("stride_2", "masked")}
HALF = ("bfloat16", "float16")
RUNS = [
    *(("cpu", name, "float32") for name in CASES),
    *(("cpu", name, dtype) for name in REPRESENTATIVE for dtype in HALF),
    *(pytest.param("cuda", name, dtype, marks=pytest.mark.gpu) for name in CASES for dtype in (*HALF, "float32")),
]


def on_any_shape(name: str, device: str) -> AbstractContextManager[object]:
    """Where flex is not compiled: its masks and positions are the same in PyTorch's unfused reference, in no time."""
    return torch.compiler.set_stance("force_eager") if (name, device) == ("flex", "cpu") else nullcontext()  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def fresh_compiler(name: str) -> Iterator[None]:
    """Each case compiles anew: past a handful of shapes the compiler would give up."""
    yield
    if name in COMPILES:
        torch.compiler.reset()


def load(name: str) -> Backend:
    """The backend, or a skip where its package is missing."""
    try:
        return backends.load(name)
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed")


def conforms(backend: Backend, task: Task, device: str) -> None:
    """Fail where the backend is wrong in either direction, skip where it refuses."""
    directions: tuple[Direction, ...] = ("forward", "training")
    for direction in directions:
        try:
            fault = accuracy.check(backend, task, device, direction).fault
        except Unsupported as refusal:
            pytest.skip(f"{backend.name}, {direction}: {refusal}")
        assert fault is None, f"{direction}: {fault}"


@pytest.mark.parametrize("name", backends.names())
@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize(("device", "case", "dtype"), RUNS, indirect=["device"])
def test_operator(name: str, case: str, border: Border, dtype: str, device: str) -> None:
    """The operator, forward and training."""
    if name == "compiled" and device == "cpu" and ((case, border) not in COMPILED_ON_CPU or dtype in HALF):
        pytest.skip("compiled on the CPU: representative cases only; all run on the GPU")
    if name in COMPILES and device == "cuda" and dtype != "bfloat16" and case not in REPRESENTATIVE:
        pytest.skip("compiles for seconds: bfloat16 on all cases, other dtypes on representative ones")
    compiled = (case, border) in COMPILED_ON_CPU and dtype not in HALF
    with nullcontext() if compiled else on_any_shape(name, device):
        conforms(load(name), problem(case, border, dtype), device)


LAYERS = {
    "split": LayerSpec(24, 2, 16, 16, Geometry(4, 1)),
    "sum": LayerSpec(24, 2, 16, 16, Geometry(4, 1), positions="sum"),
    "none": LayerSpec(24, 2, 16, 16, Geometry(4, 1), positions=None),
    "downsampling": LayerSpec(24, 2, 16, 24, Geometry(4, 1, stride=2)),
    "wide_kernel": LayerSpec(24, 2, 16, 16, Geometry(4, 1), kernel=6),
}


@pytest.mark.parametrize("name", [name for name in backends.names() if name != "compiled"])
@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layer(name: str, layer: str, border: Border, device: str) -> None:
    """The layer around it: the output and the gradients of the map and of every weight."""
    spec = LAYERS[layer]
    spec = replace(spec, geometry=replace(spec.geometry, border=border))
    with on_any_shape(name, device):
        conforms(load(name), Slot(spec, 8, 12, batch=2), device)


def gapped(tensor: Tensor) -> Tensor:
    """The tensor in every other place of memory twice as large."""
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1)[..., 0]


def reversed_axes(tensor: Tensor) -> Tensor:
    """The tensor with its last axis outermost in memory."""
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1)


@pytest.mark.parametrize("name", [name for name in backends.names() if name not in ("compiled", "conv")])
@pytest.mark.parametrize("layout", [Tensor.contiguous, gapped, reversed_axes])
@pytest.mark.parametrize("case", ["whole_blocks", "stride_2"])
def test_any_strides(name: str, case: str, layout: Callable[[Tensor], Tensor], device: str) -> None:
    """Inputs may lie in memory as they like (those of the other tests are channels-last)."""
    backend = load(name)
    attend = backend.attend
    assert attend is not None

    def relaid(
        query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
    ) -> Tensor:
        assert relative is not None
        tables = RelativeTables(*map(layout, relative))
        return attend(layout(query), layout(key), layout(value), tables, geometry)

    border = backend.borders[0]
    with on_any_shape(name, device):
        conforms(replace(backend, attend=relaid), problem(case, border, "float32"), device)


@st.composite
def problems(draw: st.DrawFn, *, strips: bool) -> Problem:
    """Any small problem that blocks can tile, with ``strips`` also of a map that goes on beyond its queries.

    Three queries along an axis at least: where there is one, a table's gradient sums terms that all but cancel, and
    one rounding more or less decides. ``CASES`` has the smaller maps.
    """
    block, halo = draw(st.integers(1, 9)), draw(st.integers(0, 5))
    stride = draw(st.sampled_from([s for s in range(1, 5) if block % s == 0 or s % block == 0]))
    border: Border = draw(st.sampled_from(["masked", "zero"]))
    above, below, left, right = (draw(st.integers(0, halo + 2)) if strips else 0 for _ in range(4))
    return Problem(
        Geometry(block, halo, stride, border, above, below, left, right),
        height=above + stride * draw(st.integers(3, 12 // stride)) + below,
        width=left + stride * draw(st.integers(3, 12 // stride)) + right,
        batch=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 3)),
        key_dim=draw(st.sampled_from([4, 8, 16, 20])),
        value_dim=draw(st.sampled_from([4, 8, 16, 24])),
        relative=draw(st.booleans()),
    )


@pytest.mark.parametrize("name", ["flex", "global_sa", "naive_unfold", "sdpa", "strided_gather"])
@given(data=st.data(), seed=st.integers(0, 9))
def test_any_geometry(name: str, data: st.DataObject, seed: int) -> None:
    """Whatever the geometry and the sizes: output and gradients (FlexAttention on the CPU: the output)."""
    backend = load(name)
    drawn = data.draw(problems(strips=backend.strips))
    if drawn.geometry.border not in backend.borders:
        drawn = replace(drawn, geometry=replace(drawn.geometry, border=backend.borders[0]))
    direction: Direction = "forward" if name == "flex" else "training"
    with on_any_shape(name, "cpu"):
        assert accuracy.check(backend, drawn, "cpu", direction, seed).fault is None

"""The backward kernel by queries for Hopper: behind an emulated warpgroup on a CPU, and on a GPU."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from halobench.implementations import fused_cuda
from halobench.implementations.fused_cuda import layouts, operator, shapes
from halobench.implementations.fused_cuda.hopper import query_gradient
from halobench.implementations.fused_cuda.launch import Program
from halobench.implementations.fused_cuda.shapes import Shape
from torch import Tensor

from halobench import Geometry, Problem, backends
from halobench.attention.problem import Inputs
from halobench.cases import accuracy
from halobench.fuzz.judge import poisoned
from tests.emulator.on_hopper import launches, only, skip_elsewhere, watched


@pytest.fixture
def ran(kernels_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Launches run on the CPU as on Hopper; the kernels that were launched."""
    return launches(kernels_folder, monkeypatch, kernels=("hopper_query",))


WHOLE = Problem(Geometry(8, 3), 24, 16, heads=4, dtype="bfloat16")
EMULATED = {
    "whole_blocks": WHOLE,
    "partial_blocks": Problem(Geometry(8, 3), 13, 19, heads=4, dtype="float16"),
    "one_block": Problem(Geometry(8, 3), 8, 7, heads=2, key_dim=64, value_dim=64, dtype="bfloat16"),
    "zero_border": Problem(Geometry(8, 3, border="zero"), 9, 17, heads=1, dtype="float16"),
    "one_pixel": Problem(Geometry(8, 3, border="zero"), 1, 1, heads=1, dtype="float16"),
    "halo_4": Problem(Geometry(8, 4), 17, 16, heads=2, value_dim=48, dtype="bfloat16"),
    "two_slices": Problem(Geometry(8, 1), 9, 9, key_dim=48, value_dim=160, relative=False, dtype="float16"),
}


@pytest.mark.parametrize("case", EMULATED)
def test_on_a_cpu(case: str, ran: list[Program]) -> None:
    """All gradients within the budget of every backend, and nothing of what was there before."""
    backend = replace(backends.load("strided_gather"), name="emulated", attend=fused_cuda.attend)
    with poisoned():
        assert accuracy.check(backend, EMULATED[case], "cpu", "training").fault is None
    assert set(ran) == {"hopper", "hopper_query", "key_gradient"}


def differentiable(inputs: Inputs, geometry: Geometry) -> Callable[[Tensor], list[Tensor]]:
    """From the gradient of the output to those of queries, keys, values and tables, by the kernels chosen then."""
    query, key, value, relative = inputs
    assert relative is not None
    shape = geometry.block, geometry.halo, geometry.stride, geometry.border
    output, sums = operator.forward(query, key, value, *relative, *shape)

    def gradients(gradient: Tensor) -> list[Tensor]:
        with poisoned():
            return list(operator.backward(gradient, query, key, value, *relative, output, sums, *shape))

    return gradients


def test_leaves_what_the_other_kernel_leaves(ran: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass by keys computes the same from it, bit for bit, with logits in the hundreds; what is computed here is
    close."""
    query, key, value, relative = replace(WHOLE, height=13, width=19).inputs(seed=1)
    gradients = differentiable(Inputs(60 * query, key, value, relative), WHOLE.geometry)
    gradient = torch.randn_like(value)
    found = gradients(gradient)
    only(monkeypatch, "hopper")
    expected = gradients(gradient)
    assert ran == ["hopper", "hopper_query", "key_gradient", "query_gradient", "key_gradient"]
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[2], expected[2])
    for one, other in zip(found, expected, strict=True):
        assert (one - other).double().norm() < 5e-3 * other.double().norm()


@pytest.mark.usefixtures("ran")
def test_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN and infinities reach the blocks that see them, and no others, though blocks share shared memory."""
    inputs = replace(WHOLE, width=24, batch=2).inputs()
    # They lie in a whole window, where one of the next image, at the map's side, has padding in the same memory.
    inputs.key[0, 2, 16, 7], inputs.value[0, 1, 16, 7] = torch.inf, torch.nan
    gradients, gradient = differentiable(inputs, WHOLE.geometry), torch.randn_like(inputs.value)
    found = gradients(gradient)[0]
    only(monkeypatch, "hopper")
    expected = gradients(gradient)[0]
    assert torch.equal(found.isnan(), expected.isnan())
    assert 0 < found.isnan().sum() < found.numel() / 8
    assert (found - expected).nan_to_num().norm() < 5e-3 * expected.nan_to_num().norm()


def test_others_take_the_other_kernel(ran: list[Program]) -> None:
    """Gradients whose heads do not lie side by side are no boxes of a tensor map."""
    inputs = replace(WHOLE, height=8, width=9).inputs()
    gradient = torch.randn(inputs.value.shape, dtype=inputs.value.dtype)
    differentiable(inputs, WHOLE.geometry)(gradient)
    assert ran == ["hopper", "query_gradient", "key_gradient"]


def shape_of(problem: Problem) -> Shape:
    """The shape class of a problem's first slice of values."""
    geometry = shapes.seen_geometry(problem.geometry, problem.height, problem.width)
    width = problem.value_dim // shapes.value_slices(problem.value_dim)
    dtype = problem.torch_dtype
    return shapes.shape_for(geometry, problem.key_dim, width, problem.heads, dtype, relative=problem.relative)


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8])
@pytest.mark.parametrize(
    ("key_dim", "value_dim", "widest"), [(16, 16, 4), (16, 48, 4), (32, 32, 4), (48, 16, 4), (64, 64, 2), (64, 128, 0)]
)
@pytest.mark.parametrize("halo", range(5))
def test_layouts_fit(halo: int, key_dim: int, value_dim: int, widest: int, heads: int) -> None:
    """A CTA finds room in an SM up to the widest halo, and its warpgroups in the ring."""
    shape = shape_of(Problem(Geometry(8, halo), 24, 24, 1, heads, key_dim, value_dim, dtype="bfloat16"))
    layout = query_gradient.layout_of(shape)
    assert (layout is not None) == (halo <= widest)
    if layout is None:
        return
    needed = query_gradient.constant_bytes(shape, layout) + layout.stages * (
        query_gradient.stage_bytes(shape, layout) + 16
    )
    assert needed <= layouts.MOST_SHARED_BYTES
    assert heads % layout.heads == layout.warpgroups % layout.heads == 0
    assert layout.warpgroups // layout.heads < layout.stages


def drawn(draw: random.Random) -> Problem:
    """A problem of the kernel's class."""
    key_dim, value_dim, widest = draw.choice([(16, 16, 4), (16, 48, 4), (32, 32, 4), (48, 16, 4), (64, 64, 2)])
    geometry = Geometry(8, draw.randint(0, widest), border=draw.choice(["masked", "zero"]))
    height, width, batch = draw.randint(1, 40), draw.randint(9, 40), draw.randint(1, 3)
    heads, relative, dtype = draw.choice([1, 2, 4, 8]), draw.random() < 0.8, draw.choice(["bfloat16", "float16"])
    return Problem(geometry, height, width, batch, heads, key_dim, value_dim, relative, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(8))
def test_on_hopper(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh shapes of the class: all gradients, by this kernel."""
    launched = watched(monkeypatch, "hopper_query")
    problem = drawn(random.Random(f"{torch.seed()}/{number}"))
    backend = backends.load("fused_cuda")
    with poisoned():
        assert accuracy.check(backend, problem, "cuda", "training").fault is None, problem
    assert "hopper_query" in launched, problem


@pytest.mark.gpu
def test_deterministic() -> None:
    """Two calls agree bit for bit."""
    skip_elsewhere()
    problem = replace(WHOLE, height=40, width=33, batch=3)
    inputs = problem.inputs("cuda")
    gradients, gradient = differentiable(inputs, problem.geometry), torch.randn_like(inputs.value)
    once, again = gradients(gradient), gradients(gradient)
    assert all(map(torch.equal, once, again))

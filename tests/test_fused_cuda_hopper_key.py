"""The backward kernel by keys for Hopper: on a CPU behind an emulated warpgroup, against the oracle, and on a GPU."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from halobench.implementations import fused_cuda
from halobench.implementations.fused_cuda import layouts
from halobench.implementations.fused_cuda.hopper import key_gradient
from halobench.implementations.fused_cuda.launch import Program
from torch import Tensor

from halobench import Geometry, Problem, backends
from halobench.attention import formula
from halobench.attention.problem import Attend, RelativeTables
from halobench.cases import accuracy
from halobench.fuzz.judge import poisoned
from tests.emulator.on_hopper import launches, only, watched
from tests.test_fused_cuda_hopper import shape_of


@pytest.fixture
def ran(kernels_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Launches run on the CPU as on Hopper; the kernels that were launched."""
    return launches(kernels_folder, monkeypatch, kernels=("hopper_key",))


WHOLE = Problem(Geometry(8, 3), 16, 8, heads=4, dtype="bfloat16")
EMULATED = {
    "whole_blocks": WHOLE,
    "partial_blocks": Problem(Geometry(8, 3), 9, 9, batch=2, heads=2, dtype="float16"),
    "one_pixel": Problem(Geometry(8, 1, border="zero"), 1, 1, heads=2, key_dim=32, value_dim=16, dtype="float16"),
    "one_block": Problem(Geometry(8, 3), 7, 8, heads=1, key_dim=64, value_dim=32, dtype="bfloat16"),
    "zero_border": Problem(
        Geometry(8, 2, border="zero"), 3, 20, heads=1, key_dim=48, value_dim=64, relative=False, dtype="bfloat16"
    ),
    "slices": Problem(Geometry(8, 4), 9, 5, heads=1, key_dim=32, value_dim=192, dtype="bfloat16"),
}


@pytest.mark.parametrize("case", EMULATED)
def test_on_a_cpu(case: str, ran: list[Program]) -> None:
    """All gradients within the budget of every backend, and nothing of what was there before."""
    backend = replace(backends.load("strided_gather"), name="emulated", attend=fused_cuda.attend)
    with poisoned():
        assert accuracy.check(backend, EMULATED[case], "cpu", "training").fault is None
    assert set(ran) == {"hopper", "query_gradient", "hopper_key"}


def gradients(attend: Attend, problem: Problem, spoilt: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The gradients of key and value; of queries, keys or output gradients, one head of a pixel is spoilt."""
    query, key, value, relative = problem.inputs()
    pixels = torch.randn(*value.permute(0, 2, 3, 1, 4).shape, generator=torch.manual_seed(1))
    cotangent = pixels.to(value.dtype).permute(0, 3, 1, 2, 4)  # laid out as layers make it
    {"query": query, "key": key, "cotangent": cotangent}[spoilt][0, 1, 6, 6] = torch.nan
    query, key, value, cotangent = (tensor.to(dtype) for tensor in (query, key, value, cotangent))
    tables = None if relative is None else RelativeTables(*(table.to(dtype) for table in relative))
    for tensor in (query, key, value):
        tensor.requires_grad_()
    found = torch.autograd.grad(attend(query, key, value, tables, problem.geometry), (key, value), cotangent)
    return found[0], found[1]


@pytest.mark.parametrize("spoilt", ["query", "key", "cotangent"])
def test_not_a_number(spoilt: str, ran: list[Program]) -> None:
    """NaN reaches the keys that the formula has it at, and no others of the same tile."""
    problem = replace(WHOLE, width=16)
    found = gradients(fused_cuda.attend, problem, spoilt, torch.bfloat16)
    expected = gradients(formula.attend, problem, spoilt, torch.float64)
    assert "hopper_key" in ran
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert (one.double() - other).nan_to_num().norm() < 7.8e-3 * other.nan_to_num().norm()
    assert 0 < expected[0].isnan().sum() < expected[0].numel() / 2


def test_others_take_the_other_kernel(ran: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that do not lie side by side are no boxes of a tensor map."""
    query, key, value, relative = Problem(Geometry(8, 3), 9, 8, heads=2, dtype="bfloat16").inputs()

    def call(query: Tensor) -> Tensor:
        output = fused_cuda.attend(query.requires_grad_(), key, value, relative, Geometry(8, 3))
        return torch.autograd.grad(output.square().sum(), query)[0]

    call(query.contiguous())
    assert ran[-1] == "key_gradient"
    call(query.detach())
    assert ran[-1] == "hopper_key"
    only(monkeypatch, "hopper")
    call(query.detach())
    assert ran[-1] == "key_gradient"


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8])
@pytest.mark.parametrize(
    ("key_dim", "value_dim"), [(16, 16), (16, 48), (32, 32), (32, 96), (48, 16), (64, 64), (64, 128)]
)
@pytest.mark.parametrize("relative", [False, True])
def test_layouts_fit(key_dim: int, value_dim: int, heads: int, *, relative: bool) -> None:
    """A CTA finds room in an SM."""
    shape = shape_of(Problem(Geometry(8, 3), 24, 24, 1, heads, key_dim, value_dim, relative, dtype="bfloat16"))
    layout = key_gradient.layout_of(shape)
    assert layout is not None
    stages = layout.warpgroups // layout.heads * layout.stages
    assert stages * (key_gradient.stage_bytes(shape, layout.heads) + 16) + 1024 <= layouts.MOST_SHARED_BYTES
    assert heads % layout.heads == layout.warpgroups % layout.heads == 0


def drawn(draw: random.Random) -> Problem:
    """A problem of the kernel's class."""
    key_dim, value_dim = draw.choice([(16, 16), (16, 48), (32, 32), (32, 96), (48, 32), (64, 64), (64, 128), (64, 192)])
    geometry = Geometry(8, draw.randint(0, 4), border=draw.choice(["masked", "zero"]))
    height, width, batch = draw.randint(1, 70), draw.randint(1, 70), draw.randint(1, 3)
    heads = draw.choice([1, 2, 3, 4, 8]) if value_dim <= 128 else 1  # slices of several heads are no boxes
    relative = draw.random() < 0.8
    dtype = draw.choice(["bfloat16", "float16"])
    return Problem(geometry, height, width, batch, heads, key_dim, value_dim, relative, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(16))
def test_on_hopper(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh shapes of the class: all gradients within their budgets, by this kernel."""
    launched = watched(monkeypatch, "hopper", "hopper_key")
    problem = drawn(random.Random(f"{torch.seed()}/{number}"))
    with poisoned():
        assert accuracy.check(backends.load("fused_cuda"), problem, "cuda", "training").fault is None, problem
    assert launched[-1] == "hopper_key", problem

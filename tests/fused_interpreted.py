"""Checks of the fused kernels in Triton's interpreter: ``tests/interpreter.py`` runs them for ``test_fused.py``."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from triton import language
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import InterpreterBuilder

from halobench import Geometry, Problem, RelativeTables, Unsupported, backends
from halobench.attention import oracle
from halobench.attention.problem import Inputs
from halobench.cases import accuracy, cost
from tests.cases import CASES, problem

FUSED = backends.load("fused")
SMALL = Problem(Geometry(4, 1), 5, 6, heads=2, key_dim=12, value_dim=20)
TINY = Problem(Geometry(2, 1), 3, 4, key_dim=4, value_dim=6)
UNTILED = Geometry(5, 2, stride=3)  # block and stride do not divide one another: no formula, but an oracle


def attend(inputs: Inputs, geometry: Geometry) -> Tensor:
    assert FUSED.attend is not None
    return FUSED.attend(*inputs, geometry)


def gradients(inputs: Inputs, geometry: Geometry) -> tuple[Tensor, ...]:
    return torch.autograd.grad(attend(inputs, geometry).square().sum(), list(inputs.tensors.values()))


# Its blocks are many tiles; that batches and heads are told apart, smaller cases show.
FEWER = {"wide_window": {"batch": 1, "heads": 1}}


def conforms(name: str, border: str, dtype: str) -> None:
    task = replace(problem(name, border, dtype), **FEWER.get(name, {}))
    fault = accuracy.check(FUSED, task, "cpu", "training").fault
    assert fault is None, fault


def untiled() -> None:
    """A geometry that only the oracle knows."""
    for border in ("masked", "zero"):
        task = Problem(replace(UNTILED, border=border), 9, 13, 1, 2, 8, 12)
        inputs = task.inputs(requires_grad=True)
        leaves = list(inputs.tensors.values())
        truth = oracle.attend(*inputs, task.geometry)
        output = attend(inputs, task.geometry)
        wanted = torch.autograd.grad(truth.square().sum(), leaves)
        found = torch.autograd.grad(output.square().sum(), leaves)
        for one, other in zip((output, *found), (truth, *wanted), strict=True):
            torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-4)


def large_logits() -> None:
    """Logits of thousands and below -65504: no overflow, and as exact as rounding allows."""
    inputs = SMALL.inputs()
    inputs = inputs._replace(query=inputs.query * 1e4)
    output = attend(inputs, SMALL.geometry)
    truth = oracle.attend(*inputs, SMALL.geometry)
    assert output.isfinite().all()
    torch.testing.assert_close(output.double(), truth, rtol=0, atol=0.02)
    deep = inputs._replace(query=-inputs.query.abs(), key=inputs.key.abs() * 100, relative=None)
    assert attend(deep, SMALL.geometry).isfinite().all()
    tensors = [(tensor * 6e4 / tensor.abs().max()).half() for tensor in inputs.tensors.values()]
    huge = Inputs(*tensors[:3], RelativeTables(*tensors[3:]))
    assert attend(huge, SMALL.geometry).isfinite().all()


def registered() -> None:
    """PyTorch's own check of an operator: schema, fake tensors, autograd, compilation."""
    inputs = TINY.inputs(requires_grad=True)
    assert inputs.relative is not None
    torch.library.opcheck(torch.ops.halobench.fused_attend.default, (*inputs[:3], *inputs.relative, 2, 1, 1, False))


def compiled() -> None:
    """No graph break, the same numbers, the same layout."""
    inputs = TINY.inputs(requires_grad=True)
    leaves = list(inputs.tensors.values())
    whole = torch.compile(lambda: attend(inputs, TINY.geometry) * 2, fullgraph=True, backend="aot_eager")
    output, plain = whole(), attend(inputs, TINY.geometry)
    assert output.stride() == plain.stride()
    assert torch.equal(output, plain * 2)
    found, wanted = (torch.autograd.grad(one.sum(), leaves) for one in (output, plain * 2))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def layout() -> None:
    """Output and gradients are channels-last: pixels hold their heads side by side."""
    inputs = SMALL.inputs(requires_grad=True)
    for tensor in (attend(inputs, SMALL.geometry), *gradients(inputs, SMALL.geometry)[:3]):
        assert tensor.permute(0, 2, 3, 1, 4).is_contiguous()


def any_strides() -> None:
    """Inputs and the output's gradient may lie in memory as they like."""
    inputs = SMALL.inputs(requires_grad=True)
    assert inputs.relative is not None
    wanted = gradients(inputs, SMALL.geometry)

    def gapped(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1)[..., 0].transpose(-1, -2).clone().mT

    relaid = Inputs(*(gapped(tensor) for tensor in inputs[:3]), RelativeTables(*map(gapped, inputs.relative)))
    output = attend(relaid, SMALL.geometry)
    cotangent = gapped(2 * output.detach())
    found = torch.autograd.grad(output, list(inputs.tensors.values()), cotangent)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def some_gradients() -> None:
    """Only what is asked for is differentiated, and it is the same."""
    inputs = SMALL.inputs(requires_grad=True)
    assert inputs.relative is not None
    wanted = gradients(inputs, SMALL.geometry)
    frozen = inputs._replace(relative=RelativeTables(*(table.detach() for table in inputs.relative)))
    output = attend(frozen, SMALL.geometry)
    found = torch.autograd.grad(output.square().sum(), [inputs.value, inputs.query])
    assert torch.equal(found[0], wanted[2])
    assert torch.equal(found[1], wanted[0])


def counted() -> None:
    """``execution`` states the very products that the kernels do, and PyTorch's counter sees them."""
    multiplied, dot = [], InterpreterBuilder.create_dot

    def counting_dot(self: InterpreterBuilder, left: Any, right: Any, *others: Any) -> Any:
        multiplied.append(2 * left.data.size * right.data.shape[1])
        return dot(self, left, right, *others)

    InterpreterBuilder.create_dot = counting_dot
    try:
        for task in (
            SMALL,
            replace(SMALL, geometry=Geometry(8, 3), height=11, width=18),
            replace(SMALL, relative=False, geometry=Geometry(4, 1, 2, "zero")),
            replace(SMALL, dtype="float16"),
            replace(SMALL, geometry=Geometry(4, 2, above=2, below=1, left=1, right=2), height=11, width=11),
        ):
            multiplied.clear()
            inputs = task.inputs(requires_grad=True)
            with FlopCounterMode(display=False) as counter:
                gradients(inputs, task.geometry)
            executed = cost.executed(FUSED, task, "training")
            assert executed is not None
            assert counter.get_total_flops() == executed.flops == sum(multiplied)
    finally:
        InterpreterBuilder.create_dot = dot


def keys_unseen_at_first() -> None:
    """Queries that see none of the first keys that their tile walks over have no maximum until later."""
    task = Problem(Geometry(1, 1), 10, 9, key_dim=4, value_dim=4)
    fault = accuracy.check(FUSED, task, "cpu", "training").fault
    assert fault is None, fault


def autocast() -> None:
    """Inputs are cast as for a matrix product."""
    inputs = SMALL.inputs()
    assert inputs.relative is not None
    with torch.autocast("cpu", dtype=torch.float16):
        output = attend(inputs, SMALL.geometry)
    tables = RelativeTables(*(table.half() for table in inputs.relative))
    assert torch.equal(output, attend(Inputs(*(t.half() for t in inputs[:3]), tables), SMALL.geometry))


def refused() -> None:
    """Each refusal says what it is about."""
    inputs = SMALL.inputs()
    wide = Problem(Geometry(2, 1), 2, 2, key_dim=257, relative=False)
    far, double = Problem(Geometry(2000, 1, 1000), 2, 2), replace(SMALL, dtype="float64")

    def of_query(query: Tensor) -> Tensor:
        return attend(inputs._replace(query=query), SMALL.geometry).sum()

    refusals: dict[str, Callable[[], object]] = {
        "heads of up to 256, got 257": lambda: attend(wide.inputs(), wide.geometry),
        "no tiles for stride 1000": lambda: attend(far.inputs(), far.geometry),
        "got torch.float64": lambda: attend(double.inputs(), double.geometry),
        "no transforms of torch.func": lambda: torch.func.grad(of_query)(inputs.query),
        "transforms of torch.func": lambda: torch.func.vmap(of_query)(inputs.query[None]),
    }
    for words, call in refusals.items():
        with pytest.raises(Unsupported, match=words):
            call()


@triton.jit
def double(number: Any) -> None:
    language.store(number, language.load(number) * 2)


def overflows() -> None:
    """An index that 32 bits do not hold fails, in whatever kernel."""
    number = torch.tensor(2**29, dtype=torch.int32)
    double[1,](number)
    assert number == 2**30
    with pytest.raises(InterpreterError, match=r"mul of int32 overflows: \[2147483648\]"):
        double[1,](number)


# The same with fewer blocks stands beside them.
SLOW = {"whole_blocks", "stride_2", "wide_values", "no_positions", "strip", "strip_stride_2"}
UNJUDGED = {"stride_2_odd_block"}  # the formula refuses it: ``untiled`` has such a geometry
CONFORMANCE = {
    f"{name}-{border}-{dtype}": (name, border, dtype)
    for name, border, dtype in [
        *((name, "masked", "float32") for name in CASES if name not in SLOW | UNJUDGED),
        *((name, "zero", "float32") for name in ("odd_block", "stride_2_partial", "sasa", "one_pixel")),
        *((name, "zero", "float32") for name in ("strip_cut_short", "strip_all_around")),
        *((name, "masked", "float16") for name in ("odd_block", "stride_2_partial", "no_positions_partial")),
    ]
}
PROPERTIES = {
    check.__name__: check
    for check in (
        untiled, keys_unseen_at_first, large_logits,
        registered, compiled, layout, any_strides, some_gradients, counted, autocast, refused,
        overflows,
    )
}  # fmt: skip

CHECKS: dict[str, Callable[[], None]] = PROPERTIES | {
    name: partial(conforms, *case) for name, case in CONFORMANCE.items()
}

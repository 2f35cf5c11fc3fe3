"""The operator for PyTorch: ``halobench::fused_attend``, its gradient, and what compilers and counters ask of them."""

from typing import Any

import torch
from halobench.implementations.fused import launch
from halobench.implementations.fused.cost import execution
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem


def geometry_of(block: int, halo: int, stride: int, zero: bool, *beyond: int) -> Geometry:  # noqa: FBT001
    """The geometry that the operators' schema spells out."""
    return Geometry(block, halo, stride, "zero" if zero else "masked", *beyond)


@torch.library.custom_op("halobench::fused_attend", mutates_args=())
def fused_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    block: int,
    halo: int,
    stride: int,
    zero: bool,  # noqa: FBT001 - an operator's schema has no keyword for it
    above: int = 0,
    below: int = 0,
    left: int = 0,
    right: int = 0,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, as ``launch.forward``; shapes as ``attend``."""
    geometry = geometry_of(block, halo, stride, zero, above, below, left, right)
    return launch.forward(launch.Call(query, key, value, rows, columns, geometry))


@fused_attend.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    block: int,
    halo: int,
    stride: int,
    zero: bool,  # noqa: FBT001
    above: int = 0,
    below: int = 0,
    left: int = 0,
    right: int = 0,
) -> tuple[Tensor, Tensor]:
    return launch.empty_outputs(query, value)


@torch.library.custom_op("halobench::fused_attend_backward", mutates_args=())
def fused_attend_backward(
    cotangent: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    output: Tensor,
    log_sum_exp: Tensor,
    block: int,
    halo: int,
    stride: int,
    zero: bool,  # noqa: FBT001
    above: int,
    below: int,
    left: int,
    right: int,
    tables: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, rows and columns; the last two empty unless ``tables`` asks for them."""
    geometry = geometry_of(block, halo, stride, zero, above, below, left, right)
    call = launch.Call(query, key, value, rows, columns, geometry)
    return tuple(launch.backward(call, cotangent, output, log_sum_exp, tables=tables))  # type: ignore[return-value]


@fused_attend_backward.register_fake
def _(
    cotangent: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    output: Tensor,
    log_sum_exp: Tensor,
    block: int,
    halo: int,
    stride: int,
    zero: bool,  # noqa: FBT001
    above: int,
    below: int,
    left: int,
    right: int,
    tables: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(launch.empty_gradients(query, key, value, rows, tables=tables))  # type: ignore[return-value]


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the gradient needs: the inputs, the output, and a log-sum-exp for each query."""
    tensors, geometry = inputs[:5], inputs[5:]
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.geometry = geometry


def differentiate(ctx: Any, cotangent: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of ``fused_attend`` from that of its output."""
    if cotangent is None:
        return (None,) * 13
    query, key, value, rows, columns, output, log_sum_exp = ctx.saved_tensors
    tables = rows is not None and any(ctx.needs_input_grad[3:5])
    gradients = fused_attend_backward(
        cotangent, query, key, value, rows, columns, output, log_sum_exp, *ctx.geometry, tables
    )
    return (*gradients[:3], *(gradients[3:] if tables else (None, None)), *(None,) * 8)


fused_attend.register_autograd(differentiate, setup_context=keep)


@register_flop_formula(torch.ops.halobench.fused_attend, get_raw=True)
def _(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None, columns: Tensor | None,
    block: int, halo: int, stride: int, zero: bool,  # noqa: FBT001
    above: int = 0, below: int = 0, left: int = 0, right: int = 0, **_: object,
) -> int:  # fmt: skip
    geometry = geometry_of(block, halo, stride, zero, above, below, left, right)
    return execution(Problem.of(query, key, value, rows, geometry)).forward_flops


@register_flop_formula(torch.ops.halobench.fused_attend_backward, get_raw=True)
def _(
    cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None, columns: Tensor | None,
    output: Tensor, log_sum_exp: Tensor,
    block: int, halo: int, stride: int, zero: bool,  # noqa: FBT001
    above: int, below: int, left: int, right: int, tables: bool, **_: object,  # noqa: FBT001
) -> int:  # fmt: skip
    geometry = geometry_of(block, halo, stride, zero, above, below, left, right)
    return execution(Problem.of(query, key, value, rows, geometry), tables=tables).backward_flops

"""Queries, keys and values in one map: the operators that read and fill it, for layers that project all three at once.

Three projections read the same pixels three times, and three times again backward, where three gradients of the pixels
are then added up. Here the weights are laid side by side, so that each of these happens once. The kernels read their
heads out of the one map through strides, and leave the three gradients in one map likewise, because that is what the
gradient of the projection wants: nothing is joined or split in memory.
"""

from typing import Any

import torch
from halobench.implementations.fused_cuda.cost import execution
from halobench.implementations.fused_cuda.operator import (
    Call,
    attended,
    channels_last,
    differentiated,
    empty_tables,
    geometry_of,
    log_sum_exps,
)
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem, RelativeTables, refuse_transforms


def attend_packed(
    packed: Tensor, relative: RelativeTables | None, heads: int, key_dim: int, geometry: Geometry
) -> Tensor:
    """Halo attention of stride 1 on a map (b c H W) of queries, keys and values side by side: (b n H W value_dim).

    Raises:
        Unsupported: as ``attend``.
    """
    refuse_transforms("fused_cuda")
    rows, columns = (None, None) if relative is None else relative
    output: Tensor = packed_forward(
        packed, rows, columns, heads, key_dim, geometry.block, geometry.halo, geometry.border
    )[0]
    return output


def heads_of(packed: Tensor, heads: int, key_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (b h H W d) of a map (b c H W) that holds them side by side: three views."""
    batch, channels, height, width = packed.shape
    image, channel, row, column = packed.stride()
    keys = heads * key_dim

    def part(first: int, dim: int) -> Tensor:
        """The heads from a channel on. One view: on the way here Python takes longer than a small map's kernels."""
        size, strides = (batch, heads, height, width, dim), (image, dim * channel, row, column, channel)
        return packed.as_strided(size, strides, packed.storage_offset() + first * channel)

    return part(0, key_dim), part(keys, key_dim), part(2 * keys, channels // heads - 2 * key_dim)


@torch.library.custom_op("halobench::fused_cuda_packed", mutates_args=())
def packed_forward(
    packed: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    heads: int,
    key_dim: int,
    block: int,
    halo: int,
    border: str,
) -> tuple[Tensor, Tensor]:
    """``operator.forward`` on one map (b c H W), of stride 1."""
    return attended(Call(*heads_of(packed, heads, key_dim), rows, columns, geometry_of(block, halo, 1, border)))


@packed_forward.register_fake
def _(
    packed: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    heads: int,
    key_dim: int,
    block: int,
    halo: int,
    border: str,
) -> tuple[Tensor, Tensor]:
    query, _, value = heads_of(packed, heads, key_dim)
    output = channels_last(query, *value.shape[2:])
    return output, log_sum_exps(query, geometry_of(block, halo, 1, border))


@torch.library.custom_op("halobench::fused_cuda_packed_backward", mutates_args=())
def packed_backward(
    gradient: Tensor,
    packed: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    output: Tensor,
    log_sum_exp: Tensor,
    heads: int,
    key_dim: int,
    block: int,
    halo: int,
    border: str,
) -> tuple[Tensor, Tensor]:
    """The gradients of the map, laid out channels-last, and of both tables; always deterministic."""
    call = Call(*heads_of(packed, heads, key_dim), rows, columns, geometry_of(block, halo, 1, border))
    packed_gradient = empty_map(packed)
    into = heads_of(packed_gradient, heads, key_dim)
    return packed_gradient, differentiated(call, gradient, output, log_sum_exp, into)


@packed_backward.register_fake
def _(
    gradient: Tensor,
    packed: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    output: Tensor,
    log_sum_exp: Tensor,
    heads: int,
    key_dim: int,
    block: int,
    halo: int,
    border: str,
) -> tuple[Tensor, Tensor]:
    query = heads_of(packed, heads, key_dim)[0]
    return empty_map(packed), empty_tables(query, rows, geometry_of(block, halo, 1, border))


def empty_map(like: Tensor) -> Tensor:
    """An empty (b c H W), channels-last in memory."""
    batch, channels, height, width = like.shape
    return like.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward operator takes."""
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.shape = inputs[3:]


def differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the forward operator's arguments."""
    packed, rows, columns, output, log_sum_exp = ctx.saved_tensors
    packed_gradient, tables = packed_backward(gradient, packed, rows, columns, output, log_sum_exp, *ctx.shape)
    return (packed_gradient, *((None, None) if rows is None else tables.unbind()), *[None] * 5)


packed_forward.register_autograd(differentiate, setup_context=save_for_backward)


@register_flop_formula(torch.ops.halobench.fused_cuda_packed, get_raw=True)
def _(
    packed: Tensor, rows: Tensor | None, columns: Tensor | None, heads: int, key_dim: int,
    block: int, halo: int, border: str, **_: object,
) -> int:  # fmt: skip
    geometry = geometry_of(block, halo, 1, border)
    return execution(Problem.of(*heads_of(packed, heads, key_dim), rows, geometry)).forward_flops


@register_flop_formula(torch.ops.halobench.fused_cuda_packed_backward, get_raw=True)
def _(
    gradient: Tensor, packed: Tensor, rows: Tensor | None, columns: Tensor | None, output: Tensor,
    log_sum_exp: Tensor, heads: int, key_dim: int, block: int, halo: int, border: str, **_: object,
) -> int:  # fmt: skip
    geometry = geometry_of(block, halo, 1, border)
    return execution(Problem.of(*heads_of(packed, heads, key_dim), rows, geometry)).backward_flops

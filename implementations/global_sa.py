"""Global self-attention: every pixel attends to every pixel, whatever block and halo say.

The cost grows with the square of the number of pixels; it is what halo attention is meant to avoid. One window covers
the map, and offsets beyond the relative tables are clipped to their ends. Positions ride along in the head dimension
(``halobench.attention.folding``), so PyTorch's fused kernels apply and no score matrix is stored.
"""

import torch
from torch import Tensor

from halobench.attention.folding import fold, folded_dim, fused_attention
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Execution, Problem, RelativeTables, Unsupported

borders = ("masked",)


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Attention of every query to every pixel.

    Raises:
        Unsupported: border ``"zero"``: a window that covers the map has no border to fill.
    """
    if geometry.border == "zero":
        raise Unsupported("border 'zero' adds keys around the image; global attention has no border")
    queries, keys, values = (tokens[:, :, None, None] for tokens in (query, key, value))  # [b n 1 1 i j d]
    vectors = None
    if relative is not None:
        rows = table_between(relative.rows, key.shape[2], geometry.stride)  # [i y d]
        columns = table_between(relative.columns, key.shape[3], geometry.stride)  # [j x d]
        vectors = rows, columns
    queries, keys = fold(queries, keys, vectors, visible=None)
    output = fused_attention(
        queries.flatten(4, 5), keys.flatten(4, 5), values.flatten(4, 5), scale=query.shape[-1] ** -0.5
    )
    return output.view(*query.shape[:-1], value.shape[-1])


def table_between(table: Tensor, size: int, stride: int) -> Tensor:
    """The table's vectors between queries and keys along an axis of ``size`` pixels: (queries, size, d)."""
    pixels = torch.arange(size, device=table.device)
    return clipped(table, pixels[None, :] - pixels[::stride, None])


def clipped(table: Tensor, offsets: Tensor) -> Tensor:
    """The table's vectors at ``offsets``, those beyond its ends clipped to them."""
    centre = table.shape[0] // 2
    return table[(offsets + centre).clamp(0, table.shape[0] - 1)]


def meaning(
    relative: RelativeTables | None, geometry: Geometry, height: int, width: int
) -> tuple[RelativeTables | None, Geometry]:
    """Global attention as halo attention: one block over the map, and tables as wide as it, clipped."""
    block = geometry.stride * max(geometry.queries(height), geometry.queries(width))  # whole strides in the block
    if relative is not None:
        offsets = torch.arange(1 - block, block, device=relative.rows.device)
        relative = RelativeTables(clipped(relative.rows, offsets), clipped(relative.columns, offsets))
    return relative, Geometry(block, halo=0, stride=geometry.stride)


def execution(problem: Problem) -> Execution:
    """All pairs of pixels are scored at the folded head dimension; only folded queries and keys are stored."""
    height, width = problem.height, problem.width
    pairs = problem.queries * height * width
    dim = folded_dim(problem.key_dim, height, width, needed=problem.relative)
    bias_flops = 2 * problem.queries * (height + width) * problem.key_dim if problem.relative else 0
    stored = (problem.queries + problem.batch * problem.heads * height * width) * dim
    return Execution.of_pairs(problem, pairs, score_dim=dim, bias_flops=bias_flops, stored=stored, recomputes=True)

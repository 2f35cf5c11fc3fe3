"""The readable formula: halo attention in plain PyTorch. Start here.

    query  [b n H/s W/s d]  --blocks-->   [b n R C i j d]   i, j: the queries of a block
    key    [b n H   W   d]  --windows-->  [b n R C y x d]   y, x: the window that all queries of the block see
    logits = scale * (query . key + query . rows[y's offset from i] + query . columns[x's offset from j])
    output = softmax(logits over the window) @ value

R x C blocks tile the map; the last row and column of them may be partial, and H/s and W/s are rounded up. The eager
backends differ only in how they take the windows, so ``windows`` is an argument. The formula is also the yardstick of
accuracy: a backend may err twice as much as it does at the same dtype.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from halobench.attention.compilation import exporting
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Execution, Problem, RelativeTables, Unsupported
from halobench.attention.tokens import Tokens

Windows = Callable[[Tensor, Geometry], Tensor]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative: RelativeTables | None,
    geometry: Geometry,
    windows: Windows | None = None,
) -> Tensor:
    """Halo attention: (b n H/s W/s d), (b n H W d), (b n H W e) -> (b n H/s W/s e).

    Raises:
        Unsupported: block and stride do not divide one another, so that blocks hold different numbers of queries.
    """
    if exporting():
        return attend_tokens(query, key, value, relative, geometry)
    windows = windows or strided_windows
    height, width = key.shape[2:4]
    queries = blocks(query, geometry)  # [b n R C i j d]
    keys, values = windows(key, geometry), windows(value, geometry)  # [b n R C y x d], [b n R C y x e]

    logits = scores(queries, keys, relative, geometry) * query.shape[-1] ** -0.5
    logits = hide(logits, height, width, geometry)

    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    output = torch.einsum("bnRCijyx,bnRCyxe->bnRCije", weights, values)
    return unblock(output, query.shape[2], query.shape[3])


def scores(queries: Tensor, keys: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Products of queries with keys and tables, unscaled: [b n R C i j d], [b n R C y x d] -> [b n R C i j y x]."""
    products = torch.einsum("bnRCijd,bnRCyxd->bnRCijyx", queries, keys)
    if relative is not None:
        rows, columns = offset_tables(relative, geometry)  # [i y d], [j x d]
        products = products + torch.einsum("bnRCijd,iyd->bnRCijy", queries, rows).unsqueeze(-1)
        products = products + torch.einsum("bnRCijd,jxd->bnRCijx", queries, columns).unsqueeze(-2)
    return products


def hide(logits: Tensor, height: int, width: int, geometry: Geometry) -> Tensor:
    """No weight for what lies beyond a masked border: [b n R C i j y x], of a map of ``height`` x ``width`` keys."""
    if geometry.border == "zero":
        return logits
    inside = inside_image(height, width, geometry, logits.device)  # [R C y x]
    return logits.masked_fill(~inside[:, :, None, None], -torch.inf)


def attend_tokens(
    query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
) -> Tensor:
    """The same of maps whose sizes are symbols (``halobench.attention.tokens``), for ``torch.export``."""
    check_tiles(geometry)
    tokens = Tokens.of(query, geometry)
    queries, keys, values = (
        tokens.queries(query),
        tokens.windows(key),
        tokens.windows(value),
    )  # [B q d], [B k d], [B k e]

    logits = queries @ keys.transpose(1, 2)
    if relative is not None:
        window = geometry.window
        rows, columns = offset_tables(relative, geometry)  # [i y d], [j x d]
        by_row = rows.repeat_interleave(geometry.side, 0).repeat_interleave(window, 1)  # [q k d]
        by_column = columns.repeat(geometry.side, window, 1)
        bias = queries.transpose(0, 1) @ (by_row + by_column).transpose(1, 2)  # [q B k]
        logits = logits + bias.transpose(0, 1)
    logits = logits * query.shape[-1] ** -0.5
    if geometry.border == "masked":
        logits = logits.masked_fill(~tokens.visible(key)[:, None], -torch.inf)
    return tokens.join(logits.softmax(-1) @ values)


def check_tiles(geometry: Geometry) -> None:
    """Raise ``Unsupported`` where blocks hold different numbers of queries."""
    if not geometry.tiles:
        raise Unsupported(f"block {geometry.block} and stride {geometry.stride} do not divide one another")


def blocks(query: Tensor, geometry: Geometry) -> Tensor:
    """Cut the queries into blocks, partial ones filled up with zeros: (b n H/s W/s d) -> (b n R C i j d)."""
    check_tiles(geometry)
    side = geometry.side
    height, width = query.shape[2:4]
    padded = F.pad(query, (0, 0, 0, -width % side, 0, -height % side))
    tiled: Tensor = padded.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return tiled.transpose(3, 4)


def unblock(output: Tensor, height: int, width: int) -> Tensor:
    """Join blocks to a map of ``height`` x ``width`` queries: (b n R C i j e) -> (b n height width e)."""
    return output.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def pad_to_windows(pixels: Tensor, geometry: Geometry) -> Tensor:
    """Zeros around the map, so that every block has a whole window: (b n H W d) -> (b n H' W' d)."""
    height, width = geometry.own_rows(pixels.shape[2]), geometry.own_columns(pixels.shape[3])
    # From the first pixel of the last block, a window reaches block + halo pixels further.
    bottom = (geometry.blocks(height) - 1) * geometry.step + geometry.block + geometry.halo - height
    right = (geometry.blocks(width) - 1) * geometry.step + geometry.block + geometry.halo - width
    # Rows and columns that nobody sees are cut off.
    above, below = geometry.halo - geometry.above, bottom - geometry.below
    return F.pad(pixels, (0, 0, geometry.halo - geometry.left, right - geometry.right, above, below))


def strided_windows(pixels: Tensor, geometry: Geometry) -> Tensor:
    """Overlapping windows as strided views of the padded map: (b n H W d) -> (b n R C y x d)."""
    padded = pad_to_windows(pixels, geometry)
    windows = padded.unfold(2, geometry.window, geometry.step).unfold(3, geometry.window, geometry.step)
    return windows.movedim(4, -1)


def offset_tables(relative: RelativeTables, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The tables' vectors for each query and window pixel along an axis: two tensors (side, window, key_dim)."""
    device = relative.rows.device
    queries = geometry.stride * torch.arange(geometry.side, device=device)  # pixels from the block's corner
    keys = torch.arange(geometry.window, device=device) - geometry.halo
    index = keys[None, :] - queries[:, None] + geometry.window - 1
    return relative.rows[index], relative.columns[index]


def inside_image(height: int, width: int, geometry: Geometry, device: torch.device) -> Tensor:
    """Whether each pixel of each window is a pixel of the image, of ``height`` x ``width`` keys: (R C y x)."""

    def along(size: int, before: int, behind: int) -> Tensor:
        corners = geometry.step * torch.arange(geometry.blocks(size), device=device)
        pixels = corners[:, None] + torch.arange(geometry.window, device=device) - geometry.halo
        return (pixels >= -before) & (pixels < size + behind)

    rows = along(geometry.own_rows(height), geometry.above, geometry.below)  # [R y]
    columns = along(geometry.own_columns(width), geometry.left, geometry.right)  # [C x]
    return rows[:, None, :, None] & columns[None, :, None, :]


def execution(problem: Problem, copies: int = 1, offsets: int | None = None) -> Execution:
    """The cost of the formula: full windows are scored, windows and scores are stored.

    Backends that run it in their own way copy the windows more than once, or compute a query's bias for more
    ``offsets`` along an axis than its window has.
    """
    geometry, pairs = problem.geometry, problem.window_pairs
    queries = pairs // geometry.window**2
    windows = queries // geometry.side**2 * geometry.window**2 * (problem.key_dim + problem.value_dim)
    bias_flops = 2 * 2 * queries * (offsets or geometry.window) * problem.key_dim if problem.relative else 0
    return Execution.of_pairs(problem, pairs, bias_flops=bias_flops, stored=copies * windows + pairs)

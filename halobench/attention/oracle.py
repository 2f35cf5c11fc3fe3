"""The truth: halo attention as dense attention over pixels, in float64.

The oracle cuts no blocks and extracts no windows. It takes a few rows of queries at a time, scores them against every
row of pixels that one of them sees, over the whole width of the map, and masks the pairs that are hidden. It shares no
code with any backend, so that no error can be common to both.

For border ``"zero"`` the map is set into a canvas that reaches as far as any window does; the canvas around it holds
keys and values of zero, as the definition says. Of a strip, the first key is ``above`` and ``left`` of the first query.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables, check_inputs

ROWS = 8  # query rows scored at a time: fewer steps for more memory


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention by definition; arguments and result as every backend's ``attend``, but in float64.

    Shapes: query (batch, heads, H / stride, W / stride, key_dim), key (batch, heads, H, W, key_dim), value
    (batch, heads, H, W, value_dim), tables (2 * window - 1, key_dim); the result is
    (batch, heads, H / stride, W / stride, value_dim), sizes rounded up. Differentiable, also by ``gradcheck``.

    Raises:
        ValueError: the arguments do not fit one another.
    """
    check_inputs(query, key, value, relative, geometry)
    height, width = key.shape[2:4]
    query, key, value = query.double(), key.double(), value.double()
    margin = 0
    if geometry.border == "zero":
        margin = geometry.halo + geometry.block
        key, value = on_canvas(key, margin), on_canvas(value, margin)

    # Absolute pixel positions of queries and keys; a canvas starts at -margin.
    query_rows = torch.arange(0, geometry.own_rows(height), geometry.stride, device=query.device)
    query_columns = torch.arange(0, geometry.own_columns(width), geometry.stride, device=query.device)
    key_rows = torch.arange(-margin, height + margin, device=query.device) - geometry.above
    key_columns = torch.arange(-margin, width + margin, device=query.device) - geometry.left
    sees_row = sees(query_rows, key_rows, geometry)  # [y, a]
    sees_column = sees(query_columns, key_columns, geometry)  # [x, b]
    row_terms = column_terms = None
    if relative is not None:
        row_terms = offset_vectors(relative.rows.double(), query_rows, key_rows)  # [y, a, d]
        column_terms = offset_vectors(relative.columns.double(), query_columns, key_columns)  # [x, b, d]

    def some_rows(rows: slice, query: Tensor, key: Tensor, value: Tensor, *terms: Tensor) -> Tensor:
        seen = sees_row[rows].any(0)  # rows of keys that none of these queries sees are left out
        key, value = key[:, :, seen], value[:, :, seen]
        logits = torch.einsum("nhyxd,nhabd->nhyxab", query[:, :, rows], key)
        if terms:
            row_terms, column_terms = terms
            logits = logits + torch.einsum("nhyxd,yad->nhyxa", query[:, :, rows], row_terms[rows, seen]).unsqueeze(-1)
            logits = logits + torch.einsum("nhyxd,xbd->nhyxb", query[:, :, rows], column_terms).unsqueeze(-2)
        visible = sees_row[rows][:, None, seen, None] & sees_column[:, None, :]  # [y, x, a, b]
        logits = (logits * key.shape[-1] ** -0.5).masked_fill(~visible, -torch.inf)
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        return torch.einsum("nhyxab,nhabe->nhyxe", weights, value)

    terms = () if row_terms is None or column_terms is None else (row_terms, column_terms)
    # Checkpointed: only the scores of a few rows are in memory at a time, in the backward pass too.
    outputs = [
        checkpoint(some_rows, slice(y, y + ROWS), query, key, value, *terms, use_reentrant=False)
        for y in range(0, len(query_rows), ROWS)
    ]
    return torch.cat(outputs, dim=2)


def sees(queries: Tensor, keys: Tensor, geometry: Geometry) -> Tensor:
    """Whether the query on each position sees the key on each position, along one axis: (queries, keys)."""
    start = queries.div(geometry.block, rounding_mode="floor") * geometry.block
    first, end = start - geometry.halo, start + geometry.block + geometry.halo
    return (first[:, None] <= keys) & (keys < end[:, None])


def offset_vectors(table: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """The table's vector for each pair of positions along one axis: (queries, keys, key_dim).

    Offsets beyond the table belong to pairs that no query sees; they are clamped so that they can be looked up.
    """
    centre = table.shape[0] // 2  # = window - 1
    offsets = keys[None, :] - queries[:, None]
    return table[(offsets + centre).clamp(0, table.shape[0] - 1)]


def on_canvas(pixels: Tensor, margin: int) -> Tensor:
    """The map, set into a canvas of zeros that extends it by ``margin`` pixels on each side."""
    batch, heads, height, width, dim = pixels.shape
    canvas = pixels.new_zeros(batch, heads, height + 2 * margin, width + 2 * margin, dim)
    canvas[:, :, margin : margin + height, margin : margin + width] = pixels
    return canvas

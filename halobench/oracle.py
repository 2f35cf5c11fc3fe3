"""The truth: halo attention as dense attention over pixels, in float64.

The oracle cuts no blocks and extracts no windows. It takes one row of queries at a time, scores it against the rows of
pixels that it sees, over the whole width of the map, and masks the columns that a query may not see. It shares no code
with any backend, so that no error can be common to both.

For border ``"zero"`` the map is set into a canvas that reaches as far as any window does; the canvas around it holds
keys and values of zero, as the definition says.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from halobench.geometry import Geometry
from halobench.problem import RelativeTables, check_inputs


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
    query_rows = torch.arange(0, height, geometry.stride, device=query.device)
    query_columns = torch.arange(0, width, geometry.stride, device=query.device)
    key_rows = torch.arange(-margin, height + margin, device=query.device)
    key_columns = torch.arange(-margin, width + margin, device=query.device)
    sees_row = sees(query_rows, key_rows, geometry)  # [y, a]
    sees_column = sees(query_columns, key_columns, geometry)  # [x, b]
    row_terms = column_terms = None
    if relative is not None:
        row_terms = offset_vectors(relative.rows.double(), query_rows, key_rows)  # [y, a, d]
        column_terms = offset_vectors(relative.columns.double(), query_columns, key_columns)  # [x, b, d]

    def one_row(y: int, query: Tensor, key: Tensor, value: Tensor, *terms: Tensor) -> Tensor:
        row = query[:, :, y]  # [batch, heads, x, d]
        seen = sees_row[y]  # rows of keys that no query of the row sees are left out, the rest is masked by column
        key, value = key[:, :, seen], value[:, :, seen]
        logits = torch.einsum("nhxd,nhabd->nhxab", row, key)
        if terms:
            rows, columns = terms
            logits = logits + torch.einsum("nhxd,ad->nhxa", row, rows[y, seen]).unsqueeze(-1)
            logits = logits + torch.einsum("nhxd,xbd->nhxb", row, columns).unsqueeze(-2)
        hidden = ~sees_column[:, None, :]  # [x, 1, b]
        logits = (logits * key.shape[-1] ** -0.5).masked_fill(hidden, -torch.inf)
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        return torch.einsum("nhxab,nhabe->nhxe", weights, value)

    terms = () if row_terms is None or column_terms is None else (row_terms, column_terms)
    # Checkpointed: only one row's scores are in memory at a time, in the backward pass too.
    rows = [checkpoint(one_row, y, query, key, value, *terms, use_reentrant=False) for y in range(len(query_rows))]
    return torch.stack(rows, dim=2)


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

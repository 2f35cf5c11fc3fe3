"""The forward kernel: a tile of queries walks over the keys it sees, with an online softmax."""

import triton
import triton.language as tl
from halobench.implementations.fused.pixels import (
    keys_of_tile,
    load_pixels,
    query_places,
    store_pixels,
    unravel,
    window_start,
)
from halobench.implementations.fused.positions import axis_terms


@triton.jit
def attend_forward(
    query, key, value, rows, columns, output, log_sum_exp,
    query_strides_0, query_strides_1, query_strides_2, query_strides_3, query_strides_4,
    key_strides_0, key_strides_1, key_strides_2, key_strides_3, key_strides_4,
    value_strides_0, value_strides_1, value_strides_2, value_strides_3, value_strides_4,
    row_entry_stride, row_dim_stride, column_entry_stride, column_dim_stride,
    heads, height, width, query_height, query_width, scale,
    BLOCK: tl.constexpr, HALO: tl.constexpr, STRIDE: tl.constexpr, PADDED: tl.constexpr, RELATIVE: tl.constexpr,
    ABOVE: tl.constexpr, BELOW: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_KEY_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr, QUERIES: tl.constexpr,
    KEY_ROWS: tl.constexpr, KEY_COLUMNS: tl.constexpr, ROW_SPAN: tl.constexpr, COLUMN_SPAN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program computes one tile of queries of one image and head.

    ``scale`` is key_dim^(-1/2) log2(e). Writes ``output`` (batch, height, width, heads, VALUE_DIM) and ``log_sum_exp``
    (batch, heads, height, width), both contiguous over the map of queries; the latter in units of log 2.
    """
    WINDOW: tl.constexpr = BLOCK + 2 * HALO
    KEYS: tl.constexpr = KEY_ROWS * KEY_COLUMNS
    across, down = tl.cdiv(query_width, TILE_WIDTH), tl.cdiv(query_height, TILE_HEIGHT)
    image, tile_row, tile_column, head = unravel(tl.program_id(0), heads, across, down)
    row, column, y, x, real = query_places(
        tile_row, tile_column, query_height, query_width, TILE_HEIGHT, TILE_WIDTH, QUERIES
    )
    row_starts, column_starts = window_start(y, STRIDE, BLOCK, HALO), window_start(x, STRIDE, BLOCK, HALO)
    top, bottom = keys_of_tile(tile_row, query_height, height, TILE_HEIGHT, STRIDE, BLOCK, HALO, PADDED, ABOVE)
    left, right = keys_of_tile(tile_column, query_width, width, TILE_WIDTH, STRIDE, BLOCK, HALO, PADDED, LEFT)
    tile_y, tile_x = tile_row * TILE_HEIGHT * STRIDE, tile_column * TILE_WIDTH * STRIDE

    query += image * query_strides_0 + head * query_strides_1
    key += image * key_strides_0 + head * key_strides_1
    value += image * value_strides_0 + head * value_strides_1
    queries = load_pixels(query, query_strides_2, query_strides_3, query_strides_4, y, x, real, KEY_DIM, PADDED_KEY_DIM)
    key_row, key_column = tl.arange(0, KEYS) // KEY_COLUMNS, tl.arange(0, KEYS) % KEY_COLUMNS

    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    weighted = tl.zeros((QUERIES, PADDED_VALUE_DIM), tl.float32)
    for b in range(left, right, KEY_COLUMNS):
        column_terms = axis_terms(
            queries, columns, column_entry_stride, column_dim_stride, b, tile_x, column, column_starts, right,
            RELATIVE, KEY_COLUMNS, COLUMN_SPAN, TILE_WIDTH, STRIDE, WINDOW, KEY_DIM, PADDED_KEY_DIM, PRECISION,
        )  # fmt: skip
        for a in range(top, bottom, KEY_ROWS):
            row_terms = axis_terms(
                queries, rows, row_entry_stride, row_dim_stride, a, tile_y, row, row_starts, bottom,
                RELATIVE, KEY_ROWS, ROW_SPAN, TILE_HEIGHT, STRIDE, WINDOW, KEY_DIM, PADDED_KEY_DIM, PRECISION,
            )  # fmt: skip
            i, j = a + key_row, b + key_column
            inside = (i >= -ABOVE) & (i < height) & (j >= -LEFT) & (j < width)
            keys = load_pixels(key, key_strides_2, key_strides_3, key_strides_4, i, j, inside, KEY_DIM, PADDED_KEY_DIM)
            values = load_pixels(
                value, value_strides_2, value_strides_3, value_strides_4, i, j, inside, VALUE_DIM, PADDED_VALUE_DIM
            )
            logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
            logits = tl.reshape(logits, (QUERIES, KEY_ROWS, KEY_COLUMNS)) + column_terms[:, None, :]
            logits = tl.reshape(logits + row_terms[:, :, None], (QUERIES, KEYS))
            higher = tl.maximum(highest, tl.max(logits, 1))
            # A query that sees none of these keys, nor any before, has no maximum yet.
            reference = tl.where(higher == float("-inf"), 0.0, higher)
            if query.dtype.element_ty == tl.float32:
                weights = tl.exp2((logits - reference[:, None]) * scale)
            else:  # a multiply-add for each pair is exact enough
                weights = tl.exp2(logits * scale - (reference * scale)[:, None])
            # The difference first: a fused multiply-add would leave the rounding of a maximum that stays, tile by tile.
            shrink = tl.exp2((highest - reference) * scale)
            total = total * shrink + tl.sum(weights, 1)
            weighted = tl.dot(weights.to(values.dtype), values, weighted * shrink[:, None], input_precision=PRECISION)
            highest = higher

    total = tl.where(total == 0.0, 1.0, total)  # no query but those that fill up the tile
    map_size = query_height * query_width
    places = y * query_width + x
    tl.store(log_sum_exp + (image * heads + head) * map_size + places, highest * scale + tl.log2(total), mask=real)
    pixels = (image * map_size + places) * heads + head
    store_pixels(output, pixels, weighted / total[:, None], real, VALUE_DIM, PADDED_VALUE_DIM)

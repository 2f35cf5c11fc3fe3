"""The second backward kernel: gradients of keys and values. A program owns its keys: nothing is added in memory."""

import triton
import triton.language as tl
from halobench.implementations.fused.pixels import load_pixels, query_places, store_pixels, unravel, window_start
from halobench.implementations.fused.positions import axis_terms_transposed


@triton.jit
def tiles_of_keys(
    first,
    size,
    COUNT: tl.constexpr,
    TILE: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    HALO: tl.constexpr,
):
    """The tiles of queries that see one of ``COUNT`` keys from ``first`` on, along one axis: first and end.

    A block sees key a if it starts at a + halo or before and ends after a - halo.
    """
    lowest = tl.maximum(tl.maximum(first, 0) - HALO, 0) // BLOCK * BLOCK
    highest = tl.minimum((tl.minimum(first + COUNT, size) - 1 + HALO) // BLOCK * BLOCK + BLOCK, size) - 1
    return tl.cdiv(lowest, STRIDE) // TILE, highest // STRIDE // TILE + 1


@triton.jit
def attend_backward_keys(
    query, key, value, rows, columns, cotangent, log_sum_exp, delta, key_gradient, value_gradient,
    query_strides_0, query_strides_1, query_strides_2, query_strides_3, query_strides_4,
    key_strides_0, key_strides_1, key_strides_2, key_strides_3, key_strides_4,
    value_strides_0, value_strides_1, value_strides_2, value_strides_3, value_strides_4,
    cotangent_strides_0, cotangent_strides_1, cotangent_strides_2, cotangent_strides_3, cotangent_strides_4,
    row_entry_stride, row_dim_stride, column_entry_stride, column_dim_stride,
    across, down, row_shift, column_shift,
    heads, height, width, query_height, query_width, scale, natural_scale,
    BLOCK: tl.constexpr, HALO: tl.constexpr, STRIDE: tl.constexpr, RELATIVE: tl.constexpr,
    ABOVE: tl.constexpr, BELOW: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_KEY_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr, QUERIES: tl.constexpr,
    KEY_ROWS: tl.constexpr, KEY_COLUMNS: tl.constexpr, ROW_SPAN: tl.constexpr, COLUMN_SPAN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program owns KEY_ROWS x KEY_COLUMNS keys of one image and head and walks over the queries that see them.

    There are ``down`` x ``across`` tiles of keys, the first ``row_shift`` rows and ``column_shift`` columns of which
    lie outside the image or before its queries. Scores are transposed, so that weights and changes feed their products
    from registers.
    """
    WINDOW: tl.constexpr = BLOCK + 2 * HALO
    KEYS: tl.constexpr = KEY_ROWS * KEY_COLUMNS
    image, tile_row, tile_column, head = unravel(tl.program_id(0), heads, across, down)
    a, b = tile_row * KEY_ROWS - row_shift, tile_column * KEY_COLUMNS - column_shift
    i, j = a + tl.arange(0, KEYS) // KEY_COLUMNS, b + tl.arange(0, KEYS) % KEY_COLUMNS
    inside = (i >= -ABOVE) & (i < height) & (j >= -LEFT) & (j < width)
    query += image * query_strides_0 + head * query_strides_1
    cotangent += image * cotangent_strides_0 + head * cotangent_strides_1
    keys = load_pixels(
        key + image * key_strides_0 + head * key_strides_1,
        key_strides_2, key_strides_3, key_strides_4, i, j, inside, KEY_DIM, PADDED_KEY_DIM,
    )  # fmt: skip
    values = load_pixels(
        value + image * value_strides_0 + head * value_strides_1,
        value_strides_2, value_strides_3, value_strides_4, i, j, inside, VALUE_DIM, PADDED_VALUE_DIM,
    )  # fmt: skip
    key_changes = tl.zeros((KEYS, PADDED_KEY_DIM), tl.float32)
    value_changes = tl.zeros((KEYS, PADDED_VALUE_DIM), tl.float32)
    first_row, end_row = tiles_of_keys(a, height, KEY_ROWS, TILE_HEIGHT, STRIDE, BLOCK, HALO)
    if BELOW > 0:
        end_row = tl.minimum(end_row, tl.cdiv(query_height, TILE_HEIGHT))
    first_column, end_column = tiles_of_keys(b, width, KEY_COLUMNS, TILE_WIDTH, STRIDE, BLOCK, HALO)
    if RIGHT > 0:
        end_column = tl.minimum(end_column, tl.cdiv(query_width, TILE_WIDTH))
    in_a_row = tl.maximum(end_column - first_column, 0)
    map_size = query_height * query_width
    for tile in range(tl.maximum(end_row - first_row, 0) * in_a_row):
        tile_row, tile_column = first_row + tile // in_a_row, first_column + tile % in_a_row
        row, column, y, x, real = query_places(
            tile_row, tile_column, query_height, query_width, TILE_HEIGHT, TILE_WIDTH, QUERIES
        )
        queries = load_pixels(
            query, query_strides_2, query_strides_3, query_strides_4, y, x, real, KEY_DIM, PADDED_KEY_DIM
        )
        cotangents = load_pixels(
            cotangent, cotangent_strides_2, cotangent_strides_3, cotangent_strides_4, y, x, real,
            VALUE_DIM, PADDED_VALUE_DIM,
        )  # fmt: skip
        places = (image * heads + head) * map_size + y * query_width + x
        normaliser = tl.load(log_sum_exp + places, mask=real, other=0.0)
        product = tl.load(delta + places, mask=real, other=0.0)
        row_terms = axis_terms_transposed(
            queries, rows, row_entry_stride, row_dim_stride, a, tile_row * TILE_HEIGHT * STRIDE, row,
            window_start(y, STRIDE, BLOCK, HALO), RELATIVE, KEY_ROWS, ROW_SPAN, TILE_HEIGHT, STRIDE, WINDOW,
            KEY_DIM, PADDED_KEY_DIM, PRECISION,
        )  # fmt: skip
        column_terms = axis_terms_transposed(
            queries, columns, column_entry_stride, column_dim_stride, b, tile_column * TILE_WIDTH * STRIDE, column,
            window_start(x, STRIDE, BLOCK, HALO), RELATIVE, KEY_COLUMNS, COLUMN_SPAN, TILE_WIDTH, STRIDE, WINDOW,
            KEY_DIM, PADDED_KEY_DIM, PRECISION,
        )  # fmt: skip
        logits = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)
        logits = tl.reshape(logits, (KEY_ROWS, KEY_COLUMNS, QUERIES)) + column_terms[None, :, :]
        if query.dtype.element_ty == tl.float32:
            exponents = (logits + row_terms[:, None, :]) * scale - normaliser[None, None, :]
        else:  # a row's terms cost no operation of their own
            exponents = logits * scale + (row_terms * scale - normaliser[None, :])[:, None, :]
        weights = tl.reshape(tl.exp2(exponents), (KEYS, QUERIES))
        value_changes = tl.dot(weights.to(cotangents.dtype), cotangents, value_changes, input_precision=PRECISION)
        weight_gradients = tl.dot(values, tl.trans(cotangents), input_precision=PRECISION)
        changes = weights * (weight_gradients - product[None, :])
        key_changes = tl.dot(changes.to(queries.dtype), queries, key_changes, input_precision=PRECISION)

    row_length = width + LEFT
    pixels = (image * ((height + ABOVE) * row_length) + (i + ABOVE) * row_length + j + LEFT) * heads + head
    store_pixels(key_gradient, pixels, key_changes * natural_scale, inside, KEY_DIM, PADDED_KEY_DIM)
    store_pixels(value_gradient, pixels, value_changes, inside, VALUE_DIM, PADDED_VALUE_DIM)

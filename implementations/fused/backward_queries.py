"""The first backward kernel: gradients of the queries and of the tables, tile of queries by tile of queries."""

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
from halobench.implementations.fused.positions import axis_gradients, axis_terms


@triton.jit
def attend_backward_queries(
    query, key, value, rows, columns, output, cotangent, log_sum_exp, delta, query_gradient, partials,
    query_strides_0, query_strides_1, query_strides_2, query_strides_3, query_strides_4,
    key_strides_0, key_strides_1, key_strides_2, key_strides_3, key_strides_4,
    value_strides_0, value_strides_1, value_strides_2, value_strides_3, value_strides_4,
    output_strides_0, output_strides_1, output_strides_2, output_strides_3, output_strides_4,
    cotangent_strides_0, cotangent_strides_1, cotangent_strides_2, cotangent_strides_3, cotangent_strides_4,
    row_entry_stride, row_dim_stride, column_entry_stride, column_dim_stride,
    tiles, heads, height, width, query_height, query_width, scale, natural_scale,
    BLOCK: tl.constexpr, HALO: tl.constexpr, STRIDE: tl.constexpr, PADDED: tl.constexpr, RELATIVE: tl.constexpr,
    ABOVE: tl.constexpr, BELOW: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_KEY_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr, QUERIES: tl.constexpr,
    KEY_ROWS: tl.constexpr, KEY_COLUMNS: tl.constexpr, ROW_SPAN: tl.constexpr, COLUMN_SPAN: tl.constexpr,
    PRECISION: tl.constexpr, TABLES: tl.constexpr, HELD_ROWS: tl.constexpr, HELD_SPAN: tl.constexpr,
):  # fmt: skip
    """Each program computes every so many-th of the ``tiles`` of queries, and sums up their share of the tables.

    Writes ``query_gradient`` (batch, height, width, heads, KEY_DIM), ``delta`` (batch, heads, height, width), the
    products of outputs and cotangents, for the other kernel, and with ``TABLES`` adds to ``partials`` (programs, 2,
    2 * window - 1, KEY_DIM), float32, the unscaled gradients of rows and columns. ``HELD_ROWS`` is a multiple of
    KEY_ROWS that no tile sees more rows than: the gradient of all row terms is held until the walk is over. With 0 it
    is sent on at each step, which takes a barrier each time and keeps Triton from prefetching.
    """
    WINDOW: tl.constexpr = BLOCK + 2 * HALO
    KEYS: tl.constexpr = KEY_ROWS * KEY_COLUMNS
    across, down = tl.cdiv(query_width, TILE_WIDTH), tl.cdiv(query_height, TILE_HEIGHT)
    key_row, key_column = tl.arange(0, KEYS) // KEY_COLUMNS, tl.arange(0, KEYS) % KEY_COLUMNS
    map_size = query_height * query_width
    row_partial = partials + tl.program_id(0) * (2 * (2 * WINDOW - 1) * KEY_DIM)
    column_partial = row_partial + (2 * WINDOW - 1) * KEY_DIM
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        image, tile_row, tile_column, head = unravel(tile, heads, across, down)
        row, column, y, x, real = query_places(
            tile_row, tile_column, query_height, query_width, TILE_HEIGHT, TILE_WIDTH, QUERIES
        )
        row_starts, column_starts = window_start(y, STRIDE, BLOCK, HALO), window_start(x, STRIDE, BLOCK, HALO)
        top, bottom = keys_of_tile(tile_row, query_height, height, TILE_HEIGHT, STRIDE, BLOCK, HALO, PADDED, ABOVE)
        left, right = keys_of_tile(tile_column, query_width, width, TILE_WIDTH, STRIDE, BLOCK, HALO, PADDED, LEFT)
        tile_y, tile_x = tile_row * TILE_HEIGHT * STRIDE, tile_column * TILE_WIDTH * STRIDE

        keys_at = key + image * key_strides_0 + head * key_strides_1
        values_at = value + image * value_strides_0 + head * value_strides_1
        queries = load_pixels(
            query + image * query_strides_0 + head * query_strides_1,
            query_strides_2, query_strides_3, query_strides_4, y, x, real, KEY_DIM, PADDED_KEY_DIM,
        )  # fmt: skip
        outputs = load_pixels(
            output + image * output_strides_0 + head * output_strides_1,
            output_strides_2, output_strides_3, output_strides_4, y, x, real, VALUE_DIM, PADDED_VALUE_DIM,
        )  # fmt: skip
        cotangents = load_pixels(
            cotangent + image * cotangent_strides_0 + head * cotangent_strides_1,
            cotangent_strides_2, cotangent_strides_3, cotangent_strides_4, y, x, real, VALUE_DIM, PADDED_VALUE_DIM,
        )  # fmt: skip
        places = (image * heads + head) * map_size + y * query_width + x
        normaliser = tl.load(log_sum_exp + places, mask=real, other=0.0)
        product = tl.sum(outputs.to(tl.float32) * cotangents.to(tl.float32), 1)
        tl.store(delta + places, product, mask=real)

        gradient = tl.zeros((QUERIES, PADDED_KEY_DIM), tl.float32)
        if RELATIVE and HELD_ROWS > 0:
            steps = tl.arange(0, HELD_ROWS // KEY_ROWS)
            row_gradient = tl.zeros((QUERIES, HELD_ROWS // KEY_ROWS, KEY_ROWS), tl.float32)
        for b in range(left, right, KEY_COLUMNS):
            column_terms = axis_terms(
                queries, columns, column_entry_stride, column_dim_stride, b, tile_x, column, column_starts, right,
                RELATIVE, KEY_COLUMNS, COLUMN_SPAN, TILE_WIDTH, STRIDE, WINDOW, KEY_DIM, PADDED_KEY_DIM, PRECISION,
            )  # fmt: skip
            column_gradient = tl.zeros((QUERIES, KEY_COLUMNS), tl.float32)
            for a in range(top, bottom, KEY_ROWS):
                row_terms = axis_terms(
                    queries, rows, row_entry_stride, row_dim_stride, a, tile_y, row, row_starts, bottom,
                    RELATIVE, KEY_ROWS, ROW_SPAN, TILE_HEIGHT, STRIDE, WINDOW, KEY_DIM, PADDED_KEY_DIM, PRECISION,
                )  # fmt: skip
                i, j = a + key_row, b + key_column
                inside = (i >= -ABOVE) & (i < height) & (j >= -LEFT) & (j < width)
                keys = load_pixels(
                    keys_at, key_strides_2, key_strides_3, key_strides_4, i, j, inside, KEY_DIM, PADDED_KEY_DIM
                )
                values = load_pixels(
                    values_at, value_strides_2, value_strides_3, value_strides_4, i, j, inside,
                    VALUE_DIM, PADDED_VALUE_DIM,
                )  # fmt: skip
                logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
                logits = tl.reshape(logits, (QUERIES, KEY_ROWS, KEY_COLUMNS)) + column_terms[:, None, :]
                if query.dtype.element_ty == tl.float32:
                    exponents = (logits + row_terms[:, :, None]) * scale - normaliser[:, None, None]
                else:  # a row's terms cost no operation of their own
                    exponents = logits * scale + (row_terms * scale - normaliser[:, None])[:, :, None]
                weights = tl.reshape(tl.exp2(exponents), (QUERIES, KEYS))
                weight_gradients = tl.dot(cotangents, tl.trans(values), input_precision=PRECISION)
                changes = weights * (weight_gradients - product[:, None])
                gradient = tl.dot(changes.to(keys.dtype), keys, gradient, input_precision=PRECISION)
                if RELATIVE:
                    cube = tl.reshape(changes, (QUERIES, KEY_ROWS, KEY_COLUMNS))
                    column_gradient += tl.sum(cube, 1)
                    if HELD_ROWS > 0:
                        now = steps[None, :, None] == (a - top) // KEY_ROWS
                        row_gradient += tl.where(now, tl.sum(cube, 2)[:, None, :], 0.0)
                    else:
                        gradient = axis_gradients(
                            tl.sum(cube, 2), gradient, queries, rows, row_entry_stride, row_dim_stride, row_partial,
                            a, tile_y, row, TABLES, KEY_ROWS, ROW_SPAN, TILE_HEIGHT, STRIDE, WINDOW,
                            KEY_DIM, PADDED_KEY_DIM, PRECISION,
                        )  # fmt: skip
            if RELATIVE:
                gradient = axis_gradients(
                    column_gradient, gradient, queries, columns, column_entry_stride, column_dim_stride,
                    column_partial, b, tile_x, column, TABLES, KEY_COLUMNS, COLUMN_SPAN, TILE_WIDTH, STRIDE, WINDOW,
                    KEY_DIM, PADDED_KEY_DIM, PRECISION,
                )  # fmt: skip
        if RELATIVE and HELD_ROWS > 0:
            gradient = axis_gradients(
                tl.reshape(row_gradient, (QUERIES, HELD_ROWS)), gradient, queries, rows,
                row_entry_stride, row_dim_stride, row_partial,
                top, tile_y, row, TABLES, HELD_ROWS, HELD_SPAN, TILE_HEIGHT, STRIDE, WINDOW,
                KEY_DIM, PADDED_KEY_DIM, PRECISION,
            )  # fmt: skip
        pixels = (image * map_size + y * query_width + x) * heads + head
        store_pixels(query_gradient, pixels, gradient * natural_scale, real, KEY_DIM, PADDED_KEY_DIM)

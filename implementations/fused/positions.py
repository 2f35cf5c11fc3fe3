"""Relative positions and visibility along one axis, inside the kernels.

The logit of a query on pixel i and a key on pixel a gains ``query . table[a - i + window - 1]``, and minus infinity
where the query does not see the key. Both depend on the axis alone, so a tile of queries and a tile of ``KEYS`` rows
(or columns) of keys need (queries x KEYS) such terms, which are broadcast over the other axis: a pair costs an
addition for each. Backward, a row's costs none: it joins the addend of the multiply-add before the exponential.

The terms come from one small product of the queries with the ``SPAN`` entries of the table that the two tiles meet,
sorted to each query's own offset by a gather. No window is too large for this: only as much of the table is held as
one step needs.

Entry e of the span belongs to the offset ``first_key - tile_pixel - (TILE - 1) * STRIDE + e``, where the tile's first
query stands on ``tile_pixel``. A query at ``place`` of the tile and key number k meet in entry
``k + (TILE - 1 - place) * STRIDE``.
"""

import triton
import triton.language as tl


@triton.jit
def span_entries(
    first_key, tile_pixel, TILE: tl.constexpr, STRIDE: tl.constexpr, WINDOW: tl.constexpr, SPAN: tl.constexpr
):
    """The table's entries that a tile of queries and a tile of keys meet in: numbers, and whether they exist."""
    entries = first_key - tile_pixel - (TILE - 1) * STRIDE + WINDOW - 1 + tl.arange(0, SPAN)
    return entries, (entries >= 0) & (entries < 2 * WINDOW - 1)


@triton.jit
def load_span(table, entry_stride, dim_stride, entries, exist, DIM: tl.constexpr, PADDED_DIM: tl.constexpr):
    """The table's vectors of these entries: (SPAN, PADDED_DIM), zeros where there are none."""
    dims = tl.arange(0, PADDED_DIM)
    mask = exist[:, None]
    if DIM != PADDED_DIM:
        mask = mask & (dims < DIM)[None, :]
    offsets = (entries * entry_stride)[:, None] + (dims * dim_stride)[None, :]
    return tl.load(table + offsets, mask=mask, other=0.0)


@triton.jit
def axis_terms(
    queries,
    table,
    entry_stride,
    dim_stride,
    first_key,
    tile_pixel,
    places,
    starts,
    limit,
    RELATIVE: tl.constexpr,
    KEYS: tl.constexpr,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
    STRIDE: tl.constexpr,
    WINDOW: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The terms of (queries x KEYS), float32; keys from ``limit`` on are seen by nobody.

    ``queries`` is (QUERIES, PADDED_DIM); ``places`` says where in the tile each stands, ``starts`` where its window
    begins.
    """
    keys = first_key + tl.arange(0, KEYS)
    seen = (keys[None, :] >= starts[:, None]) & (keys[None, :] < starts[:, None] + WINDOW) & (keys < limit)[None, :]
    if RELATIVE:
        entries, exist = span_entries(first_key, tile_pixel, TILE, STRIDE, WINDOW, SPAN)
        span = load_span(table, entry_stride, dim_stride, entries, exist, DIM, PADDED_DIM)
        products = tl.dot(queries, tl.trans(span), input_precision=PRECISION)
        entry = tl.arange(0, KEYS)[None, :] + ((TILE - 1 - places) * STRIDE)[:, None]
        terms = tl.gather(products, entry, 1)
    else:
        terms = tl.zeros(seen.shape, tl.float32)
    return tl.where(seen, terms, float("-inf"))


@triton.jit
def axis_terms_transposed(
    queries,
    table,
    entry_stride,
    dim_stride,
    first_key,
    tile_pixel,
    places,
    starts,
    RELATIVE: tl.constexpr,
    KEYS: tl.constexpr,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
    STRIDE: tl.constexpr,
    WINDOW: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``axis_terms`` as (KEYS x queries)."""
    keys = first_key + tl.arange(0, KEYS)
    seen = (keys[:, None] >= starts[None, :]) & (keys[:, None] < starts[None, :] + WINDOW)
    if RELATIVE:
        entries, exist = span_entries(first_key, tile_pixel, TILE, STRIDE, WINDOW, SPAN)
        span = load_span(table, entry_stride, dim_stride, entries, exist, DIM, PADDED_DIM)
        products = tl.dot(span, tl.trans(queries), input_precision=PRECISION)
        entry = tl.arange(0, KEYS)[:, None] + ((TILE - 1 - places) * STRIDE)[None, :]
        terms = tl.gather(products, entry, 0)
    else:
        terms = tl.zeros(seen.shape, tl.float32)
    return tl.where(seen, terms, float("-inf"))


@triton.jit
def axis_gradients(
    gradient,
    query_gradient,
    queries,
    table,
    entry_stride,
    dim_stride,
    partial,
    first_key,
    tile_pixel,
    places,
    TABLES: tl.constexpr,
    KEYS: tl.constexpr,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
    STRIDE: tl.constexpr,
    WINDOW: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Send the gradient of the terms, (queries x KEYS) in float32, on to the queries and to the table.

    Returns ``query_gradient`` with its share added. The table's share is added in place to ``partial``, a contiguous
    float32 (2 * WINDOW - 1, DIM) of this program alone: one program adds in one order, so sums are reproducible.
    """
    entries, exist = span_entries(first_key, tile_pixel, TILE, STRIDE, WINDOW, SPAN)
    key = tl.arange(0, SPAN)[None, :] - ((TILE - 1 - places) * STRIDE)[:, None]
    # Triton 3.6 cannot gather from fewer numbers than there are threads: each is repeated until there are 16 a query.
    COPIES: tl.constexpr = 16 // KEYS if KEYS < 16 else 1
    QUERIES: tl.constexpr = queries.shape[0]
    copies = tl.broadcast_to(gradient[:, :, None], (QUERIES, KEYS, COPIES))
    copies = tl.reshape(copies, (QUERIES, KEYS * COPIES))
    spread = tl.gather(copies, tl.minimum(tl.maximum(key, 0), KEYS - 1) * COPIES, 1)
    spread = tl.where((key >= 0) & (key < KEYS), spread, 0.0).to(queries.dtype)
    span = load_span(table, entry_stride, dim_stride, entries, exist, DIM, PADDED_DIM)
    query_gradient = tl.dot(spread, span, query_gradient, input_precision=PRECISION)
    if TABLES:
        share = tl.dot(tl.trans(spread), queries, input_precision=PRECISION)
        dims = tl.arange(0, PADDED_DIM)
        pointers = partial + entries[:, None] * DIM + dims[None, :]
        mask = exist[:, None] & (dims < DIM)[None, :]
        tl.debug_barrier()  # what other threads stored here a step ago is to be read
        tl.store(pointers, tl.load(pointers, mask=mask, other=0.0) + share, mask=mask)
    return query_gradient

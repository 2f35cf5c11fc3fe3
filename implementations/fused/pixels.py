"""What the kernels have in common: where a tile's queries stand, and how pixels are read.

Queries are cut into tiles of ``TILE_HEIGHT`` x ``TILE_WIDTH``, flattened and filled up to ``QUERIES``, a power of two.
A tile may be a piece of a block, a block, or several blocks: visibility is decided for each query by where its own
block starts, so tiles need not know of blocks.

Pixels are counted from the first query's. Of a strip, the first ``ABOVE`` rows and ``LEFT`` columns of keys have
negative numbers, and the last ``BELOW`` and ``RIGHT`` ones come behind the queries'; ``height`` and ``width`` are the
ends of the keys, and pointers to them point to pixel (0, 0).
"""

import triton
import triton.language as tl


@triton.jit
def unravel(index, heads, across, down):
    """A program's index -> image, tile row, tile column, head; image and head as int64, for offsets.

    The heads of a tile are neighbours: they share lines of memory.
    """
    head = index % heads
    index = index // heads
    column = index % across
    index = index // across
    return (index // down).to(tl.int64), index % down, column, head.to(tl.int64)


@triton.jit
def query_places(
    tile_row,
    tile_column,
    query_height,
    query_width,
    TILE_HEIGHT: tl.constexpr,
    TILE_WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """Each query's row and column within the tile and on the map of queries, and whether there is such a query."""
    index = tl.arange(0, QUERIES)
    row = tl.minimum(index // TILE_WIDTH, TILE_HEIGHT - 1)
    column = index % TILE_WIDTH
    y = tile_row * TILE_HEIGHT + row
    x = tile_column * TILE_WIDTH + column
    real = (index < TILE_HEIGHT * TILE_WIDTH) & (y < query_height) & (x < query_width)
    return row, column, y, x, real


@triton.jit
def window_start(place, STRIDE: tl.constexpr, BLOCK: tl.constexpr, HALO: tl.constexpr):
    """The first pixel of the window that the query at ``place`` sees, along one axis; negative outside the image."""
    return place * STRIDE // BLOCK * BLOCK - HALO


@triton.jit
def keys_of_tile(
    tile,
    queries,
    size,
    TILE: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    HALO: tl.constexpr,
    PADDED: tl.constexpr,
    BEFORE: tl.constexpr,
):
    """The keys that some query of the tile sees, along one axis: first and end. ``PADDED``: outside the image too.

    ``BEFORE``: so many keys are before the first query's.
    """
    first = window_start(tile * TILE, STRIDE, BLOCK, HALO)
    last = tl.minimum(tile * TILE + TILE, queries) - 1
    end = window_start(last, STRIDE, BLOCK, HALO) + BLOCK + 2 * HALO
    if not PADDED:
        first = tl.maximum(first, -BEFORE)
        end = tl.minimum(end, size)
    return first, end


@triton.jit
def load_pixels(
    pointer, row_stride, column_stride, dim_stride, rows, columns, real, DIM: tl.constexpr, PADDED_DIM: tl.constexpr
):
    """The vectors of the pixels at ``rows`` and ``columns``: (pixels, PADDED_DIM), zeros where there is nothing."""
    dims = tl.arange(0, PADDED_DIM)
    offsets = (rows * row_stride + columns * column_stride)[:, None] + (dims * dim_stride)[None, :]
    mask = real[:, None]
    if DIM != PADDED_DIM:
        mask = mask & (dims < DIM)[None, :]
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def store_pixels(pointer, places, pixels, real, DIM: tl.constexpr, PADDED_DIM: tl.constexpr):
    """Store (pixels, PADDED_DIM) as the vectors number ``places`` (int64) of a contiguous (..., DIM)."""
    dims = tl.arange(0, PADDED_DIM)
    mask = real[:, None]
    if DIM != PADDED_DIM:
        mask = mask & (dims < DIM)[None, :]
    tl.store(pointer + places[:, None] * DIM + dims[None, :], pixels.to(pointer.dtype.element_ty), mask=mask)

"""What a kernel is compiled for: the class of shapes it serves, and how its work is laid out over warps."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from halobench.geometry import Geometry
from halobench.problem import RelativeTables, Unsupported

Kernel = Literal["forward", "query_gradient", "key_gradient"]
HALF = {torch.bfloat16: 0, torch.float16: 1}
KEY_DIMS = (16, 32, 48, 64)
WIDEST_VALUE, WIDEST_SLICE = 256, 128  # of a head, and of what a kernel takes of it at a time
WIDEST_WINDOW, MOST_ENTRIES = 24, 32  # of a table, that a query can use
OCTET = 8  # pixels of a window's row come in eights
LARGE_BLOCK = 12  # with a wide window, larger ones are laid out in their own way


@dataclass(frozen=True, eq=False)
class Shape:
    """Everything about a call that its kernels know at compile time. ``shape_for`` makes them, each once.

    ``value_dim`` is that of the slice of the values that a kernel takes at a time; it fills it up to whole tiles of 16.
    """

    geometry: Geometry
    key_dim: int
    value_dim: int
    heads: int
    relative: bool
    dtype: torch.dtype

    @property
    def padded_value_dim(self) -> int:
        """Channels of the values that a kernel works on."""
        return whole(self.value_dim, 16)

    @property
    def large(self) -> bool:
        """Whether a window's row has more pixels than two octets, which come together, and its block many tiles."""
        return is_large(self.geometry)

    @property
    def lane_bytes(self) -> int:
        """Of 8 queries' biases, what a lane of the pass by keys reads."""
        if self.large:
            return 24
        return 16 if self.geometry.window <= 2 * OCTET else 32

    def tiles(self, kernel: Kernel) -> int:
        """Tiles of 16 that one head of a CTA works on: queries or, in the pass by keys, keys."""
        return -(-(self.geometry.block**2) // 16) if kernel == "key_gradient" else padded_queries(self.geometry) // 16

    def definitions(self, kernel: Kernel) -> dict[str, int]:
        """The constants that the source of a kernel is compiled with."""
        layout = layout_of(self, kernel)
        return {
            "KEY_DIM": self.key_dim,
            "VALUE_DIM": self.value_dim,
            "BLOCK": self.geometry.block,
            "HALO": self.geometry.halo,
            "STRIDE": self.geometry.stride,
            "RELATIVE": int(self.relative),
            "ZERO_BORDER": int(self.geometry.border == "zero"),
            "FP16": HALF[self.dtype],
            "HEADS": layout.heads,
            "TILES_PER_WARP": layout.tiles_per_warp,
            "PARTS": layout.parts,
            "MIN_CTAS": layout.min_ctas,
        }


@dataclass(frozen=True)
class Layout:
    """How a CTA is laid out: heads it serves, tiles of 16 queries (or keys) a warp keeps, CTAs an SM must hold.

    ``parts`` CTAs share the tiles of a block.
    """

    heads: int
    tiles_per_warp: int
    min_ctas: int = 1
    parts: int = 1

    def warps(self, tiles: int) -> int:
        """Warps of a CTA, for so many tiles of a block."""
        tiles_a_part = -(-tiles // self.parts)
        return self.heads * -(-tiles_a_part // self.tiles_per_warp)


class Work(NamedTuple):
    """What suits a class of shapes: heads of a CTA and tiles of a warp, at most; registers of a thread, if limited.

    ``parts`` are those of a block that CTAs of their own work on.
    """

    heads: int
    tiles_per_warp: int
    registers: int | None = None
    parts: int = 1


# By kernel, by the widths of keys and values up to which it holds, and by the tiles of a block: one, up to 4 (8 x 8),
# up to 7 (10 x 10), up to 9 (12 x 12), more. The fastest on an H100, or close to it at every map and batch measured;
# see docs/kernels.md.
TILES = (1, 4, 7, 9)
WORK: dict[Kernel, dict[tuple[int, int], tuple[Work, Work, Work, Work, Work]]] = {
    "forward": {
        (16, 16): (Work(4, 1, 168), Work(4, 4, 168), Work(1, 1, 72), Work(2, 3), Work(2, 3)),
        (16, 64): (Work(2, 1), Work(2, 1), Work(1, 2, 168), Work(1, 2, 168), Work(1, 2, 128)),
        (32, 32): (Work(2, 1), Work(2, 1, 80), Work(1, 1, 72), Work(1, 1, 72), Work(1, 1, 72)),
        (64, 64): (Work(4, 1), Work(1, 1), Work(1, 1), Work(1, 1), Work(1, 1)),
        (64, WIDEST_SLICE): (Work(1, 1), Work(1, 1), Work(1, 2), Work(1, 2), Work(1, 1, 128, 2)),
    },
    "query_gradient": {
        (16, 16): (Work(2, 1), Work(1, 2), Work(1, 2, 168), Work(1, 1, 112), Work(1, 1, 112)),
        (16, 64): (Work(1, 1), Work(1, 1, 168), Work(1, 2), Work(1, 2), Work(1, 2)),
        (32, 32): (Work(2, 1), Work(2, 2), Work(1, 2), Work(1, 1), Work(1, 1)),
        (64, 64): (Work(1, 1), Work(1, 1), Work(1, 1), Work(1, 1), Work(1, 1)),
        (64, WIDEST_SLICE): (Work(1, 1), Work(2, 1), Work(1, 1), Work(1, 1), Work(1, 2)),
    },
    "key_gradient": {
        (16, 16): (Work(2, 1, 168), Work(2, 4, 168), Work(1, 1, 96, 2), Work(1, 1, 96, 3), Work(1, 1, 72)),
        (16, 64): (Work(1, 1), Work(1, 1, 128), Work(1, 1, 128, 2), Work(1, 1, 128), Work(1, 1, 128, 4)),
        (32, 32): (Work(1, 1), Work(1, 1, 128), Work(1, 1, 128, 2), Work(1, 1, 128, 3), Work(1, 1, 112)),
        (64, 64): (Work(1, 1), Work(1, 1, 168), Work(1, 1), Work(1, 1), Work(1, 1)),
        (64, WIDEST_SLICE): (Work(1, 1), Work(1, 1), Work(1, 1), Work(1, 1), Work(1, 1, 255, 4)),
    },
}
MOST_WARPS = 8
MOST_SHARED_BYTES = 227 * 1024  # of a CTA, from Hopper on; a GPU that has less says so when a kernel is loaded
REGISTERS = 65536  # of an SM


@lru_cache
def layout_of(shape: Shape, kernel: Kernel) -> Layout:
    """The layout of a kernel: as many heads and tiles as ``WORK`` says, less where there are not that many."""
    tiles = shape.tiles(kernel)
    by_tiles = next(
        work for (key, value), work in WORK[kernel].items() if shape.key_dim <= key and shape.value_dim <= value
    )
    work = by_tiles[bisect_left(TILES, tiles)]
    tiles_per_warp = min(work.tiles_per_warp, tiles)
    parts = min(work.parts, tiles)
    warps = Layout(1, tiles_per_warp, parts=parts).warps(tiles)
    room = max(1, min(work.heads, MOST_WARPS // warps))
    fitting = [number for number in range(1, room + 1) if shape.heads % number == 0]
    layouts = [Layout(heads, tiles_per_warp, parts=parts) for heads in fitting]
    while len(layouts) > 1 and shared_bytes(shape, kernel, layouts[-1]) > MOST_SHARED_BYTES:
        layouts.pop()
    heads = layouts[-1].heads
    min_ctas = 1 if work.registers is None else max(1, REGISTERS // (32 * warps * heads * work.registers))
    return replace(layouts[-1], min_ctas=min_ctas)


def shared_bytes(shape: Shape, kernel: Kernel, layout: Layout) -> int:
    """What a CTA needs of shared memory, as the sources lay it out."""
    geometry, queries, heads = shape.geometry, padded_queries(shape.geometry), layout.heads
    lines = [line_bytes(heads * dim, large=shape.large) for dim in (shape.key_dim, shape.padded_value_dim)]
    if kernel == "key_gradient":
        biases_and_statistics = queries * heads * (shape.relative * 4 * shape.lane_bytes + 8)
        buffer = whole(queries * sum(lines) + biases_and_statistics, 1024)
        sums = shape.relative * layout.warps(shape.tiles(kernel)) * 32 * 16  # of the tables' gradients, by thread
        return max(buffer * (1 if layout.parts > 1 else 2), sums)
    row = max(16, whole(geometry.window, OCTET))
    pixels = geometry.window**2 + row - geometry.window
    windows = sum(whole(pixels * line, 1024) for line in lines)
    if not shape.relative:
        return windows
    entry = 2 * (shape.key_dim + 8)
    warps, tables, stage = layout.warps(shape.tiles(kernel)), 2 * MOST_ENTRIES * entry, 16 * 36 * 4
    if kernel == "forward":
        return windows + tables + warps * stage
    sums, skews = heads * 4 * shape.key_dim // 8 * 512, 2 * layout.tiles_per_warp * 16 * 80
    return windows + tables + sums + warps * (max(stage, layout.tiles_per_warp * 16 * entry) + skews)


def is_large(geometry: Geometry) -> bool:
    """Whether a block of many tiles lies under a window whose rows are more than two octets."""
    return geometry.window > 2 * OCTET and geometry.block > LARGE_BLOCK


def line_bytes(channels: int, *, large: bool) -> int:
    """Bytes of a pixel in shared memory: chunks of 16, an odd number of them unless they are swizzled.

    A power of two is; in large windows from eight on.
    """
    chunks = channels // 8
    return 16 * (chunks if chunks & (chunks - 1) == 0 and (not large or chunks >= 8) else chunks | 1)


def shape_of(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Shape:
    """The shape class of a call.

    Raises:
        Unsupported: the call is outside the class, or its tensors cannot be read as they lie in memory.
    """
    value_dim = value.shape[-1]
    if value_dim % (8 if value_dim <= WIDEST_SLICE else 16) or value_dim > WIDEST_VALUE:
        raise Unsupported(
            f"fused_cuda has value heads of multiples of 8 up to {WIDEST_SLICE} and of 16 up to {WIDEST_VALUE}, "
            f"got {value_dim}"
        )
    shape = shape_for(
        seen_geometry(geometry, *key.shape[2:4]),
        query.shape[-1],
        value_dim // value_slices(value_dim),
        query.shape[1],
        query.dtype,
        relative=relative is not None,
    )
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not readable(tensor):
            raise Unsupported(f"fused_cuda reads channels-last memory, got a {name} with strides {tensor.stride()}")
    return shape


@lru_cache
def shape_for(
    geometry: Geometry, key_dim: int, value_dim: int, heads: int, dtype: torch.dtype, *, relative: bool
) -> Shape:
    """The one object for a shape class: what is remembered of a shape is found by its identity.

    Raises:
        Unsupported: the shape is outside the class.
    """
    if dtype not in HALF:
        raise Unsupported(f"fused_cuda computes in bfloat16 and float16, got {dtype}")
    if geometry.window > WIDEST_WINDOW:
        raise Unsupported(f"fused_cuda has windows of up to {WIDEST_WINDOW} pixels, got {geometry.window}")
    if geometry.window + geometry.block - 1 > MOST_ENTRIES:
        raise Unsupported(
            f"fused_cuda has windows and blocks of up to {MOST_ENTRIES + 1} pixels together, "
            f"got {geometry.window} and {geometry.block}"
        )
    if geometry.block % geometry.stride:
        raise Unsupported(f"fused_cuda needs a stride that divides the block, got {geometry.stride}, {geometry.block}")
    if key_dim not in KEY_DIMS:
        raise Unsupported(f"fused_cuda has key heads of {', '.join(map(str, KEY_DIMS))}, got {key_dim}")
    shape = Shape(geometry, key_dim, value_dim, heads, relative, dtype)
    for kernel in get_args(Kernel):
        layout = layout_of(shape, kernel)
        needed = shared_bytes(shape, kernel, layout)
        if needed > MOST_SHARED_BYTES:  # said here, not by the backward pass
            raise Unsupported(
                f"fused_cuda has {MOST_SHARED_BYTES} bytes of shared memory, got windows of {geometry.window} pixels, "
                f"blocks of {geometry.block} and heads of {key_dim} and {value_dim}, whose {kernel} needs {needed}"
            )
    return shape


@lru_cache
def value_slices(value_dim: int) -> int:
    """In how many slices of one width the kernels take the values of a head: as few as they can.

    Widths that no kernel takes have a number too: what a call would cost is asked before it is refused.
    """
    least = -(-value_dim // WIDEST_SLICE)
    return least if value_dim % 16 else next(n for n in count(least) if value_dim % (16 * n) == 0)


def whole(number: int, unit: int) -> int:
    """So many, up to whole units."""
    return -(-number // unit) * unit


def summed_channels(value_dim: int) -> int:
    """Channels that the products with the values of a head have, in all slices."""
    slices = value_slices(value_dim)
    return slices * whole(-(-value_dim // slices), 16)


@lru_cache
def seen_geometry(geometry: Geometry, height: int, width: int) -> Geometry:
    """The geometry that the kernels work with: a halo of which nobody sees a pixel is none.

    That is so where one block covers the map, unless pixels outside the map count. The tables then lose
    ``2 * geometry.halo`` entries at either end.
    """
    if geometry.border == "masked" and max(height, width) <= geometry.block:
        return replace(geometry, halo=0)
    return geometry


def readable(tensor: Tensor) -> bool:
    """Whether each head of a pixel lies in one piece, in steps of 16 bytes."""
    return tensor.data_ptr() % 16 == 0 and readable_layout(tensor.shape, tensor.stride())


@lru_cache
def readable_layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape (b h H W d) and these strides is readable from where 16 bytes begin."""
    *outer, innermost = strides
    image = sum((size - 1) * stride for size, stride in zip(shape[1:4], outer[1:], strict=True))
    return innermost == 1 and not any(stride % 8 for stride in outer) and min(outer) >= 0 and image < 2**31 - 2**16


def padded_queries(geometry: Geometry) -> int:
    """Queries of a block, filled up to whole tiles of 16."""
    return whole(geometry.side**2, 16)


def scored_pairs(geometry: Geometry, height: int, width: int) -> int:
    """Query-key pairs of one head of one image that are scored: rows of the window in the image, in whole octets.

    Of windows of 18 pixels of large blocks, the last two columns come apart, four rows of them in an octet.
    """
    side, window = geometry.side, seen_geometry(geometry, height, width).window
    rows, keys = geometry.queries(height) * window, whole(window, OCTET)
    if geometry.border == "masked":
        rows = geometry.seen_along(height)
    scored = rows * keys
    if window == 2 * OCTET + 2 and is_large(geometry):
        scored = rows * 2 * OCTET + octets_apart(geometry, height) * OCTET
    return scored * geometry.blocks(width) * side


def octets_apart(geometry: Geometry, height: int) -> int:
    """Octets of four rows of a window that are scored, summed over rows of queries: those with a row in the image."""
    octets = 0
    for pixel in range(0, height, geometry.stride):
        rows = range(geometry.window)
        if geometry.border == "masked":
            top = pixel // geometry.block * geometry.block - geometry.halo
            rows = range(max(0, -top), min(geometry.window, height - top))
        octets += -(-rows.stop // 4) - rows.start // 4
    return octets

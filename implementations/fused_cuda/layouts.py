"""How the work of a kernel is laid out over warps, and what it is compiled with."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, get_args

from halobench.implementations.fused_cuda.shapes import (
    HALF,
    MOST_ENTRIES,
    OCTET,
    WIDEST_SLICE,
    Kernel,
    Shape,
    line_bytes,
    padded_queries,
    whole,
)

from halobench.attention.problem import Unsupported


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


@lru_cache
def served(shape: Shape) -> Shape:
    """The shape, if all of its kernels find room: said before the forward pass, not by the backward one.

    Raises:
        Unsupported: a kernel needs more shared memory than there is.
    """
    for kernel in get_args(Kernel):
        needed = shared_bytes(shape, kernel, layout_of(shape, kernel))
        if needed > MOST_SHARED_BYTES:
            geometry = shape.geometry
            raise Unsupported(
                f"fused_cuda has {MOST_SHARED_BYTES} bytes of shared memory, got windows of {geometry.window} pixels, "
                f"blocks of {geometry.block} and heads of {shape.key_dim} and {shape.value_dim}, whose {kernel} needs "
                f"{needed}"
            )
    return shape


def definitions(shape: Shape, kernel: Kernel) -> dict[str, int]:
    """The constants that the source of a kernel is compiled with."""
    layout = layout_of(shape, kernel)
    return {
        "KEY_DIM": shape.key_dim,
        "VALUE_DIM": shape.value_dim,
        "BLOCK": shape.geometry.block,
        "HALO": shape.geometry.halo,
        "STRIDE": shape.geometry.stride,
        "RELATIVE": int(shape.relative),
        "ZERO_BORDER": int(shape.geometry.border == "zero"),
        "FP16": HALF[shape.dtype],
        "HEADS": layout.heads,
        "TILES_PER_WARP": layout.tiles_per_warp,
        "PARTS": layout.parts,
        "MIN_CTAS": layout.min_ctas,
    }

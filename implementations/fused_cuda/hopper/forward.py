"""The forward kernel for Hopper: what it serves, how its work is laid out, and what it is compiled with."""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from halobench.implementations.fused_cuda import layouts
from halobench.implementations.fused_cuda.hopper import wgmma
from halobench.implementations.fused_cuda.layouts import MOST_SHARED_BYTES
from halobench.implementations.fused_cuda.shapes import HALF, Shape, whole

BLOCK = 8  # 64 queries are the M of a wgmma
WIDEST_WINDOW = 16  # 32 positions of rows and columns are two of its K
LINE_CHANNELS = 64  # of a line in shared memory, at most: 128 bytes, the widest swizzle
MOST_STAGES = 12
MAP_BYTES = 128
NOTES = 48  # bytes of a stage's block
SHAPES = 4  # of windows: 2 * few rows + few columns
MAPS = 1 + 2 * SHAPES

# What calls must have to get this kernel, which was slower without: lines of 64 bytes, and so many blocks, of all heads
# and images, that what each CTA lays out before is worth it. See docs/kernels/hopper.md.
LEAST_CHANNELS, LEAST_BLOCKS = 32, 1024


@dataclass(frozen=True)
class Layout:
    """How a CTA is laid out: heads of a block in a stage of the ring, stages, warpgroups, keys of a piece.

    ``narrow``: windows at the sides of the map are copied without the columns outside. ``staged``: outputs go through
    shared memory, on their way to 16 bytes a lane.
    """

    heads: int
    stages: int
    warpgroups: int
    piece: int
    narrow: bool
    staged: bool = True


@dataclass(frozen=True)
class Box:
    """What is copied at a time of queries, keys or values (0, 1, 2), whose pixels have so many channels in all.

    The kernel by queries has two tensors more: gradients of the outputs, and outputs (3, 4).
    """

    tensor: int
    all_channels: int
    channels: int
    columns: int
    rows: int


def of_the_class(shape: Shape) -> bool:
    """Whether a block of queries is an M of ``wgmma``, and its window's rows and columns are the channels there are."""
    geometry = shape.geometry
    return (geometry.block, geometry.stride, shape.value_dim % 16) == (BLOCK, 1, 0) and geometry.window <= WIDEST_WINDOW


@lru_cache
def layout_of(shape: Shape) -> Layout | None:
    """The layout for a shape, or none where this kernel cannot serve it."""
    if not of_the_class(shape):
        return None
    geometry, teams = shape.geometry, teams_of(shape)
    narrow = geometry.border == "masked" and geometry.halo > 0
    for (groups, piece), heads, narrowed, staged in product(teams, (4, 2, 1), (narrow, False), (True, False)):
        layout = Layout(heads, 0, groups, 32 if geometry.window == BLOCK else piece, narrowed, staged)
        if divides(shape, layout):
            found = with_stages(layout, constant_bytes(shape, layout), stage_bytes(shape, layout) + NOTES)
            if found:
                return found
    return None


def divides(shape: Shape, layout: Layout) -> bool:
    """Whether a call's heads come in stages of so many, their keys in one line, and warpgroups are whole teams."""
    heads = layout.heads
    return not shape.heads % heads and heads * shape.key_dim <= LINE_CHANNELS and not layout.warpgroups % heads


def with_stages(layout: Layout, constants: int, stage: int) -> Layout | None:
    """With as many stages of so many bytes as find room beside the constants, if they are more than blocks in work."""
    stages = min(MOST_STAGES, (MOST_SHARED_BYTES - constants) // (stage + 16))
    return replace(layout, stages=stages) if layout.warpgroups // layout.heads < stages else None


def teams_of(shape: Shape) -> tuple[tuple[int, int], ...]:
    """Warpgroups of a CTA and keys of a piece, the best first: what registers allow, and what was seen to be faster."""
    accumulators = shape.value_dim // 2 + shape.key_dim // 4
    if accumulators <= 12:
        return ((4, 32 if shape.geometry.window == WIDEST_WINDOW else 48),)
    if shape.key_dim == shape.value_dim == 32:
        return ((3, 48), (4, 32))
    if accumulators <= 28 and (shape.key_dim, shape.value_dim) != (48, 32):  # these would spill
        return ((4, 32),)
    return (3, 32), (2, 32 if shape.key_dim == 64 else 48)


def chosen(shape: Shape, blocks: int) -> Layout | None:
    """The layout for so many blocks, one for each head and image, or none where ``forward.cu`` takes them."""
    layout = layout_of(shape)
    wide = layout is not None and layout.heads * shape.key_dim >= LEAST_CHANNELS
    return layout if wide and blocks >= LEAST_BLOCKS else None


def key_channels(shape: Shape, heads: int) -> int:
    """Channels of a line of keys: what a swizzle takes."""
    return next(channels for channels in (16, 32, 64) if channels >= heads * shape.key_dim)


def value_channels(shape: Shape, heads: int) -> int:
    """Channels of a line of values: as many as a swizzle takes, in whole lines."""
    return next(channels for channels in (64, 32, 16) if heads * shape.value_dim % channels == 0)


def chunk(shape: Shape, heads: int) -> int:
    """Channels of a product with the values: none lies on two lines."""
    return next(
        channels
        for channels in (64, 32, 16)
        if shape.value_dim % channels == 0 and channels <= value_channels(shape, heads)
    )


def most_keys(shape: Shape) -> int:
    """Of a window, in octets."""
    return whole(shape.geometry.window**2, 8)


def stage_bytes(shape: Shape, layout: Layout) -> int:
    """Queries, keys and values of a block."""
    keys, channels = most_keys(shape), value_channels(shape, layout.heads)
    line = 2 * key_channels(shape, layout.heads)
    boxes = layout.heads * shape.value_dim // channels
    return whole(keys * line, 1024) + boxes * whole(whole(keys, 16) * 2 * channels, 1024) + whole(64 * line, 1024)


def constant_bytes(shape: Shape, layout: Layout) -> int:
    """Everything but the stages and their barriers."""
    window, seen = shape.geometry.window, shape.geometry.window - shape.geometry.halo
    hot = 64 * (most_keys(shape) + layout.narrow * whole(window * seen, 8))
    tables, ones, kept, asked, alignment = table_bytes(shape), 256, 17 * 32, 16, 1024
    return hot + tables + ones + kept + layout.staged * layout.warpgroups * 2048 + asked + alignment


def table_bytes(shape: Shape) -> int:
    """Both tables in shared memory: 28 lines each, 16 bytes longer than a head's channels."""
    return shape.relative * 56 * (2 * shape.key_dim + 16)


def pieces(keys: int, piece: int) -> list[int]:
    """The keys of a window in the pieces that it is scored in, as ``forward.cu`` here cuts it."""
    found = []
    while keys:
        found.append(keys if keys <= piece + 8 else piece)
        keys -= found[-1]
    return found


def boxes(shape: Shape) -> list[Box]:
    """What the tensor maps of a call copy."""
    return boxes_of(shape, known(shape).heads)


def boxes_of(shape: Shape, heads: int) -> list[Box]:
    """With so many heads in a stage: a block's queries, then windows of keys and of values by their shape."""
    window = shape.geometry.window
    seen = window - shape.geometry.halo
    keys, values = key_channels(shape, heads), value_channels(shape, heads)
    all_keys, all_values = shape.heads * shape.key_dim, shape.heads * shape.value_dim
    found = [Box(0, all_keys, keys, BLOCK, BLOCK)]
    for tensor, all_channels, channels in ((1, all_keys, keys), (2, all_values, values)):
        found += [
            Box(tensor, all_channels, channels, columns, rows) for rows in (window, seen) for columns in (window, seen)
        ]
    return found


def known(shape: Shape) -> Layout:
    """The layout of a shape that this kernel serves."""
    layout = layout_of(shape)
    assert layout is not None
    return layout


def shared_definitions(shape: Shape, heads: int, warpgroups: int, stages: int) -> dict[str, int]:
    """The constants of a layout that the sources of all kernels for Hopper are compiled with."""
    return {
        "HEADS": heads,
        "HEAD_COUNT": shape.heads,
        "WARPGROUPS": warpgroups,
        "STAGES": stages,
        "KEY_CHANNELS": key_channels(shape, heads),
        "VALUE_CHANNELS": value_channels(shape, heads),
        "CHUNK": chunk(shape, heads),
    }


def definitions(shape: Shape) -> dict[str, int]:
    """The constants that the source is compiled with."""
    layout = known(shape)
    return layouts.definitions(shape, "forward") | {
        **shared_definitions(shape, layout.heads, layout.warpgroups, layout.stages),
        "PIECE": layout.piece,
        "NARROW": int(layout.narrow),
        "STAGED": int(layout.staged),
    }


def products(shape: Shape) -> str:
    """The products that the source calls."""
    layout = known(shape)
    window, seen = shape.geometry.window, shape.geometry.window - shape.geometry.halo
    counts = (window**2, window * seen, seen**2)
    sizes = {size for keys in counts for size in pieces(whole(keys, 8), layout.piece)} | {layout.piece}
    width = chunk(shape, layout.heads)
    return wgmma.vocabulary(
        ("bf16", "f16")[HALF[shape.dtype]],
        shape.key_dim,
        layout.piece,
        sorted(sizes),
        width,
        shape.value_dim // width,
        2 * value_channels(shape, layout.heads),
    )

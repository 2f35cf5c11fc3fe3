"""The backward kernel by keys for Hopper: what it serves, how its work is laid out, what is copied and compiled."""

from dataclasses import dataclass, replace
from functools import lru_cache

from halobench.implementations.fused_cuda import layouts
from halobench.implementations.fused_cuda.hopper import forward, wgmma
from halobench.implementations.fused_cuda.hopper.forward import BLOCK, LINE_CHANNELS, Box, of_the_class
from halobench.implementations.fused_cuda.layouts import MOST_SHARED_BYTES
from halobench.implementations.fused_cuda.shapes import HALF, Shape, whole

QUERIES = BLOCK**2
PIECE = 32  # queries that are scored at a time: 64 need more registers than four warpgroups have
BIAS_CHANNELS = 32  # 64 bytes a query: what the pass by queries leaves of windows of up to 16 pixels
STATISTICS_CHANNELS, STATISTICS_LINES = 16, 16  # 512 bytes of a block and head: two numbers in float32 a query
LEAST_STAGES, MOST_STAGES = 3, 8
MAPS = 6  # at most


@dataclass(frozen=True)
class Layout:
    """How a CTA is laid out: heads of a tile, warpgroups, stages of a team's ring. A team is one warpgroup a head."""

    heads: int
    warpgroups: int
    stages: int


@lru_cache
def layout_of(shape: Shape) -> Layout | None:
    """The layout for a shape, or none where this kernel cannot serve it."""
    if not of_the_class(shape):
        return None
    operands = 3 * (shape.key_dim + shape.value_dim) // 4  # registers of keys, values and their gradients
    groups = 4 if operands <= 24 else 3 if operands <= 72 else 2
    for heads in (4, 2, 1):
        if shape.heads % heads or heads * shape.key_dim > LINE_CHANNELS or groups % heads:
            continue
        teams = groups // heads
        stages = min(MOST_STAGES, (MOST_SHARED_BYTES - 1024) // teams // (stage_bytes(shape, heads) + 16))
        if stages >= max(heads, LEAST_STAGES):
            return Layout(heads, groups, stages)
    return None


def stage_bytes(shape: Shape, heads: int) -> int:
    """Queries, gradients of the output, biases and statistics of a block."""
    pixel = 2 * (forward.key_channels(shape, heads) + heads * shape.value_dim)
    return whole(QUERIES * (pixel + heads * (shape.relative * 2 * BIAS_CHANNELS + 8)), 1024)


def row_bytes(shape: Shape, width: int) -> int:
    """What is read for a row of tiles: of two rows of blocks all that a stage has."""
    return 2 * BLOCK * width * shape.heads * (2 * (shape.key_dim + shape.value_dim) + 2 * BIAS_CHANNELS)


def boxes(shape: Shape) -> list[Box]:
    """What the tensor maps of a call copy: of queries, gradients, keys, values, statistics and biases, if any."""
    heads = known(shape).heads
    queries = Box(0, shape.heads * shape.key_dim, forward.key_channels(shape, heads), BLOCK, BLOCK)
    gradients = Box(1, shape.heads * shape.value_dim, forward.value_channels(shape, heads), BLOCK, BLOCK)
    statistics = Box(4, STATISTICS_CHANNELS, STATISTICS_CHANNELS, STATISTICS_LINES, heads)
    biases = Box(5, BIAS_CHANNELS, BIAS_CHANNELS, QUERIES, heads)
    maps = [queries, gradients, replace(queries, tensor=2), replace(gradients, tensor=3)]
    return [*maps, statistics, *[biases] * shape.relative]


def known(shape: Shape) -> Layout:
    """The layout of a shape that this kernel serves."""
    layout = layout_of(shape)
    assert layout is not None
    return layout


def definitions(shape: Shape) -> dict[str, int]:
    """The constants that the source is compiled with."""
    layout = known(shape)
    return layouts.definitions(shape, "key_gradient") | {
        **forward.shared_definitions(shape, layout.heads, layout.warpgroups, layout.stages),
        "PARTS": 1,
        "PIECE": PIECE,
    }


def products(shape: Shape) -> str:
    """The products that the source calls."""
    layout = known(shape)
    chunk = forward.chunk(shape, layout.heads)
    lines = 2 * forward.key_channels(shape, layout.heads), 2 * forward.value_channels(shape, layout.heads)
    half = ("bf16", "f16")[HALF[shape.dtype]]
    return wgmma.key_vocabulary(
        half, shape.key_dim, PIECE, chunk, shape.value_dim // chunk, lines, relative=shape.relative
    )

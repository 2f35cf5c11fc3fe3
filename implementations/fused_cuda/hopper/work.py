"""What the kernels for Hopper execute for a problem: FLOPs and exponentials; none where another kernel serves it."""

from collections import Counter
from typing import NamedTuple

from halobench.implementations.fused_cuda.hopper import forward, key_gradient, query_gradient
from halobench.implementations.fused_cuda.hopper.forward import BLOCK
from halobench.implementations.fused_cuda.shapes import Shape, seen_geometry, shape_for, value_slices, whole

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem, Unsupported

QUERIES = BLOCK**2
POSITIONS, ONES = 32, 8  # of channels, beside those of keys and of values
ENTRIES_MET = 56  # of the tables, by each query: 24 by columns, and 32 by rows
ENTRIES_BACK, ENTRIES_SUMMED = 48, 64  # by each query: that its gradient takes up, that it adds to the tables'


class Work(NamedTuple):
    """FLOPs, a multiply-add being two, and exponentials."""

    flops: int
    exponentials: int


def forward_work(problem: Problem) -> Work | None:
    """A forward pass."""
    shape, times = of_a_head(problem)
    if shape is None or (layout := forward.chosen(shape, head_blocks(problem))) is None:
        return None
    scored, summed = (scored_keys(shape, problem, unit, narrow=layout.narrow) for unit in (8, 16))
    met = ENTRIES_MET * blocks_of(problem) * problem.relative
    products = scored * (shape.key_dim + POSITIONS) + summed * (shape.value_dim + ONES) + met * shape.key_dim
    return Work(2 * QUERIES * times * products, QUERIES * times * scored)


def query_work(problem: Problem) -> Work | None:
    """The backward pass by queries."""
    shape, times = of_a_head(problem)
    if shape is None or (layout := query_gradient.layout_of(shape)) is None:
        return None
    scored, summed = (scored_keys(shape, problem, unit, narrow=layout.narrow) for unit in (8, 16))
    products = scored * (shape.key_dim + POSITIONS + shape.value_dim)
    products += summed * (shape.key_dim + POSITIONS * problem.relative)
    blocks = blocks_of(problem)
    # Where a window begins above or left of the map, positions are computed from its corner, too.
    rows, columns = (problem.geometry.blocks(size) for size in (problem.height, problem.width))
    at_sides = blocks - (rows - 1) * (columns - 1) if reaches_out(shape) else 0
    entries = ENTRIES_MET * (blocks + at_sides) + (ENTRIES_BACK + ENTRIES_SUMMED) * blocks
    products += entries * shape.key_dim * problem.relative
    return Work(2 * QUERIES * times * products, QUERIES * times * scored)


def key_work(problem: Problem) -> Work | None:
    """The backward pass by keys: a tile meets all queries of a block, exponentials are those of two rows of keys."""
    shape, times = of_a_head(problem)
    if shape is None or key_gradient.layout_of(shape) is None:
        return None
    down, rows = visits(shape.geometry, problem.height)
    right, _ = visits(shape.geometry, problem.width)
    channels = 2 * (shape.key_dim + shape.value_dim) + POSITIONS * problem.relative
    pairs = QUERIES * times * right * BLOCK
    return Work(2 * pairs * down * BLOCK * channels, pairs * rows)


def of_a_head(problem: Problem) -> tuple[Shape | None, int]:
    """The shape of a slice of the values, none if it is refused, and how many heads of images have one."""
    slices = value_slices(problem.value_dim)
    seen = seen_geometry(problem.geometry, problem.height, problem.width)
    dims = problem.key_dim, problem.value_dim // slices, problem.heads
    try:
        shape = shape_for(seen, *dims, problem.torch_dtype, relative=problem.relative)
    except Unsupported:
        shape = None  # what a call would cost is asked before it is refused
    return shape, slices * problem.batch * problem.heads


def blocks_of(problem: Problem) -> int:
    """Blocks of a map."""
    return problem.geometry.blocks(problem.height) * problem.geometry.blocks(problem.width)


def head_blocks(problem: Problem) -> int:
    """Blocks of all heads of all images, as a call counts them."""
    return problem.batch * problem.heads * blocks_of(problem)


def reaches_out(shape: Shape) -> bool:
    """Whether windows at the map's sides have rows and columns that are hidden."""
    return shape.geometry.border == "masked" and shape.geometry.halo > 0


def scored_keys(shape: Shape, problem: Problem, unit: int, *, narrow: bool) -> int:
    """Keys of all windows of a map, as they are copied and then filled up to whole units."""
    geometry = shape.geometry

    def copied(size: int, *, fewer: bool) -> list[int]:
        """Pixels of each window, along an axis of the map."""
        starts = [number * BLOCK - geometry.halo for number in range(geometry.blocks(size))]
        seen = [min(geometry.window, size - start) - max(0, -start) for start in starts]
        least = geometry.window - geometry.halo
        return [least if fewer and pixels <= least else geometry.window for pixels in seen]

    masked = geometry.border == "masked"
    along = Counter(copied(problem.height, fewer=masked)), Counter(copied(problem.width, fewer=narrow))
    return sum(
        many * each * whole(rows * columns, unit)
        for rows, many in along[0].items()
        for columns, each in along[1].items()
    )


def visits(geometry: Geometry, size: int) -> tuple[int, int]:
    """Along an axis of a map: the visits of tiles to blocks, and the pixels of tiles that a warp works on in them.

    A warp has two pixels of a tile, and works where one of them may be on the map and its block sees the first.
    """
    tiles, reach = (size - 1 + geometry.halo) // BLOCK + 1, 1 + (2 * geometry.halo + BLOCK - 1) // BLOCK
    steps = [(tile, step) for tile in range(tiles) for step in range(reach) if 0 <= tile - step < geometry.blocks(size)]
    pairs = [
        (tile * BLOCK - geometry.halo + pixel, step * BLOCK + pixel) for tile, step in steps for pixel in (0, 2, 4, 6)
    ]
    return len(steps), 2 * sum(-1 <= place < size and within < geometry.window for place, within in pairs)

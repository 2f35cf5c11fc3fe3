"""Which tiles and how many warps a problem gets: pure integers, one sensible default per class of shapes."""

from dataclasses import dataclass
from functools import lru_cache

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Unsupported

LEAST = 16  # a side of a matrix product on the tensor cores
WIDEST = 256
LONGEST_SPAN = 256
MOST_HELD = 64  # rows: 32 registers a thread with 64 queries
FAR = 32  # blocks: so many that the borders of a map do not matter


@dataclass(frozen=True)
class KeyTile:
    """A tile of keys. The spans are the entries of a table that it and a tile of queries meet in: powers of two."""

    rows: int
    columns: int
    row_span: int
    column_span: int


@dataclass(frozen=True)
class Tiling:
    """How the kernels cut a problem: queries in tiles of ``height`` x ``width``, keys in two ways.

    ``walked`` is for the kernels that own queries and walk over keys, ``owned`` for the one that owns keys and walks
    over queries. ``held_rows`` are the rows of keys whose terms' gradients a tile of queries holds, ``held_span`` the
    table's entries that they meet in: powers of two, or both 0. ``key_dim`` and ``value_dim`` are padded. ``warps``
    and ``stages`` (of prefetching): forward, gradients of queries, gradients of keys.
    """

    height: int
    width: int
    walked: KeyTile
    owned: KeyTile
    held_rows: int
    held_span: int
    key_dim: int
    value_dim: int
    warps: tuple[int, int, int]
    stages: tuple[int, int, int]

    @property
    def queries(self) -> int:
        """Queries of a tile, filled up to a power of two."""
        return power_of_two(self.height * self.width)


def power_of_two(number: int) -> int:
    """The least power of two that is not below ``number``, and 16 at least."""
    return max(LEAST, 1 << (number - 1).bit_length())


@lru_cache(maxsize=1024)
def tiling(geometry: Geometry, key_dim: int, value_dim: int, itemsize: int) -> Tiling:
    """The tiles of a geometry, for heads of these sizes and numbers of ``itemsize`` bytes.

    Raises:
        Unsupported: the heads are too wide, or the stride too long, for the kernels.
    """
    if max(key_dim, value_dim) > WIDEST:
        raise Unsupported(f"fused has heads of up to {WIDEST}, got {key_dim} for keys and {value_dim} for values")
    padded = power_of_two(key_dim), power_of_two(value_dim)
    queries, keys = tile_sizes(max(padded), itemsize)
    height, width = query_tile(geometry, queries)
    walked = key_tile(geometry, height, width, walked_keys(geometry, height, width, keys))
    owned = key_tile(geometry, height, width, owned_keys(geometry, height, width, keys))
    warps, stages = schedule(power_of_two(height * width), max(padded), itemsize)
    held = held_rows(geometry, height) if itemsize == 2 else (0, 0)  # float32 does not prefetch, and has no registers
    return Tiling(height, width, walked, owned, *held, *padded, warps, stages)


def key_tile(geometry: Geometry, height: int, width: int, shape: tuple[int, int]) -> KeyTile:
    """A tile of keys of this shape, for tiles of ``height`` x ``width`` queries."""
    rows, columns = shape
    row_span = power_of_two(rows + (height - 1) * geometry.stride)
    column_span = power_of_two(columns + (width - 1) * geometry.stride)
    if max(row_span, column_span) > LONGEST_SPAN:
        raise Unsupported(f"fused has no tiles for stride {geometry.stride} in blocks of {geometry.block}")
    return KeyTile(rows, columns, row_span, column_span)


def tile_sizes(widest: int, itemsize: int) -> tuple[int, int]:
    """The most queries and the number of keys in a tile; ``widest`` is the larger head, padded."""
    if itemsize == 4:  # products on the FMA units hold their operands in registers
        return (64, 32) if widest <= 32 else (32, 32) if widest <= 64 else (16, 16)
    return (64, 64) if widest <= 128 else (64, 32)


def query_tile(geometry: Geometry, most: int) -> tuple[int, int]:
    """Height and width of a tile of ``most`` queries or less.

    A whole block where it fits, or the piece of it that fills its power of two best: then all its queries see the same
    keys. Several blocks where one has few queries: keys that only some of them see are masked.
    """
    side = geometry.side if geometry.tiles else 1
    if side < 4:
        several = max(1, min(8 if most >= 64 else 4, LEAST // geometry.stride))
        several = max(several // side * side, side)
        return several, several
    if side * side <= most:
        return side, side
    divisors = [number for number in range(1, side + 1) if side % number == 0]
    pieces = [(a, b) for a in divisors for b in divisors if LEAST < a * b <= max(most, 2 * LEAST)]

    def worth(piece: tuple[int, int]) -> tuple[float, int, int, int]:
        height, width = piece
        # How full, 64 rather than 32; large rather than small; square rather than long; then wide.
        filled = power_of_two(height * width)
        worth = height * width / filled * (1.0 if filled >= most else 0.8)
        return worth, height * width, -abs(height - width), width

    best = max(pieces, key=worth, default=(1, 1))
    return best if worth(best)[0] > 0.6 else (8, 8) if most >= 64 else (4, 8)


def shapes(keys: int) -> list[tuple[int, int]]:
    """Rows and columns that a tile of ``keys`` keys may have; first the widest, which reads long pieces of memory."""
    return [(keys // columns, columns) for columns in (32, 16, 8, 4) if keys // columns >= 2]


def walked_keys(geometry: Geometry, height: int, width: int, keys: int) -> tuple[int, int]:
    """The shape of ``keys`` keys that covers what a tile of queries sees with the least waste."""
    rows, columns = seen(geometry, height), seen(geometry, width)

    def covered(shape: tuple[int, int]) -> int:
        return -(-rows // shape[0]) * shape[0] * (-(-columns // shape[1]) * shape[1])

    return min(shapes(keys), key=covered)


def owned_keys(geometry: Geometry, height: int, width: int, keys: int) -> tuple[int, int]:
    """The shape of ``keys`` keys that meets the fewest tiles of queries, on a map of many blocks."""
    size = FAR * geometry.step

    def visits(shape: tuple[int, int]) -> int:
        rows, columns = shape
        return key_tiles(geometry, size, rows, height).visits * key_tiles(geometry, size, columns, width).visits

    return min(shapes(keys), key=visits)


def held_rows(geometry: Geometry, height: int) -> tuple[int, int]:
    """Rows of keys that a tile of ``height`` rows of queries sees at most, and their span; 0 if that is too much."""
    block, stride = geometry.block, geometry.stride
    starts = [tile * height * stride for tile in range(block)]  # wherever in a block a tile may begin
    blocks = max((start + (height - 1) * stride) // block - start // block for start in starts)
    held = power_of_two(blocks * block + geometry.window)
    span = power_of_two(held + (height - 1) * stride)
    return (held, span) if held <= MOST_HELD and span <= LONGEST_SPAN else (0, 0)


def seen(geometry: Geometry, queries: int) -> int:
    """Pixels along one axis that a tile of so many queries sees, where it stands first in a block."""
    return (queries - 1) * geometry.stride // geometry.block * geometry.block + geometry.window


def schedule(queries: int, widest: int, itemsize: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Warps and stages of the three kernels: forward, gradients of queries, gradients of keys."""
    if itemsize == 4:  # products on the FMA units: many threads, no prefetching
        warps = 4 if queries == LEAST else 8
        return (warps, warps, warps), (1, 1, 1)
    if queries == LEAST:
        warps = 1 if widest <= 64 else 4
        return (warps, warps, max(warps, 2)), (2, 2, 2)
    if widest <= 64:
        return (4, 4, 4), (3, 2, 2)
    return (8, 8, 8), (2, 2, 1)


@dataclass(frozen=True)
class KeyTiles:
    """The tiles of keys along an axis: their number, and how many pixels the first one begins before the queries.

    ``visits`` counts the tiles of queries that they meet, summed over them.
    """

    number: int
    shift: int
    visits: int


@lru_cache(maxsize=1024)
def key_tiles(geometry: Geometry, size: int, keys: int, queries: int, above: int = 0, below: int = 0) -> KeyTiles:
    """Tiles of ``keys`` keys for tiles of ``queries`` queries, along an axis of ``size`` keys, those beyond included.

    Tiles that begin half a tile earlier often meet fewer queries: eight keys in the middle of two blocks of eight see
    those two, while eight in one block see three.
    """
    found = []
    end, whole = size - above, -(-above // keys) * keys
    for shift in (whole, whole + keys // 2, whole - keys // 2):
        if shift < above:
            continue
        number = -(-(end + shift) // keys)
        visits = sum(visited(geometry, end, tile * keys - shift, keys, queries, below) for tile in range(number))
        found.append(KeyTiles(number, shift, visits))
    return min(found, key=lambda tiles: (tiles.visits, tiles.number))


def visited(geometry: Geometry, end: int, first: int, keys: int, queries: int, below: int = 0) -> int:
    """How many tiles of queries see one of the keys from ``first`` on: what the kernel's ``tiles_of_keys`` counts.

    Keys ``end`` at so many pixels from the first query on, the last ``below`` of them behind the queries.
    """
    block, halo, stride = geometry.block, geometry.halo, geometry.stride
    lowest = max(max(first, 0) - halo, 0) // block * block
    highest = min((min(first + keys, end) - 1 + halo) // block * block + block, end) - 1
    last = min(highest // stride // queries + 1, -(-geometry.queries(end - below) // queries))
    return max(last - -(-lowest // stride) // queries, 0)


def scored(geometry: Geometry, size: int, keys: int, queries: int, above: int = 0, below: int = 0) -> tuple[int, int]:
    """Along an axis of ``size`` keys: tiles of queries, and the tiles of keys they meet, summed over them.

    The first ``above`` keys and the last ``below`` are beyond the queries.
    """
    own = size - above - below
    number = -(-geometry.queries(own) // queries)
    met = 0
    for tile in range(number):
        last = min((tile + 1) * queries, geometry.queries(own)) - 1
        first = tile * queries * geometry.stride // geometry.block * geometry.block - geometry.halo
        end = last * geometry.stride // geometry.block * geometry.block + geometry.block + geometry.halo
        if geometry.border == "masked":
            first, end = max(first, -above), min(end, own + below)
        met += -(-(end - first) // keys)
    return number, met

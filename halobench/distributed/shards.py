"""Which pixels of a map each rank holds, and which of them others need. Pure integers: every rank knows them of all.

    rows of the map   |0 . . . . . . 7|8 . . . . . . 15|16 . . . 20|
    shard                     0               1              2
    of others, halo 3         8 9 10       5 6 7, 16 17 18       13 14 15

Ranks stand in a grid, row by row of it, and columns are cut as rows are. Both are cut between whole units: a block, or
where the stride is no divisor of it the least number of blocks after which a query stands on a block's first pixel
again. So each shard is a strip (``Geometry.above``) whose blocks are the map's. Only the last shard that holds
something may end within a unit, as the map does.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from math import lcm
from typing import NamedTuple

from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.distributed.areas import Area
from halobench.wording import counted

Parcels = tuple[tuple[int, Area], ...]  # ranks, and the pixels that come from them or go to them


@dataclass(frozen=True)
class Shards:
    """The pixels that each rank of a group holds: ``heights`` of the grid's rows and ``widths`` of its columns.

    Without ``widths`` the grid is one column of ranks, which hold all columns of the map. A rank holds nothing where
    its height or its width is 0.
    """

    heights: tuple[int, ...]
    widths: tuple[int, ...] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of ranks."""
        return len(self.heights), len(self.widths or (0,))

    @property
    def ranks(self) -> int:
        """How many there are."""
        down, across = self.grid
        return down * across

    @property
    def height(self) -> int:
        """Rows of the whole map."""
        return sum(self.heights)

    @property
    def width(self) -> int:
        """Columns of the whole map, which must be known (``of_width``)."""
        assert self.widths is not None
        return sum(self.widths)

    def of_width(self, width: int) -> "Shards":
        """The same, of a map of which a rank holds ``width`` columns if they are not split."""
        return replace(self, widths=self.widths or (width,))

    def area(self, rank: int) -> Area:
        """The pixels of the map that a rank holds; the width must be known."""
        assert self.widths is not None
        row, column = divmod(rank, len(self.widths))
        return Area(held(self.heights, row), held(self.widths, column))

    def size(self, rank: int) -> tuple[int, int]:
        """Height and width of what a rank holds."""
        rows, columns = self.area(rank)
        return len(rows), len(columns)

    def local(self, pixels: Tensor, rank: int, dim: int = 2) -> Tensor:
        """A rank's pixels of a whole map, whose rows are axis ``dim``, and columns the next: a view."""
        rows, columns = self.of_width(pixels.shape[dim + 1]).area(rank)
        return pixels.narrow(dim, rows.start, len(rows)).narrow(dim + 1, columns.start, len(columns))

    def strided(self, stride: int) -> "Shards":
        """The shards of the map that a layer of this stride makes of this one."""
        widths = None if self.widths is None else strided(self.widths, stride)
        return Shards(strided(self.heights, stride), widths)

    def frame(self, rank: int, geometry: Geometry) -> Area:
        """The pixels of the map that a rank's queries see, and its own."""
        rows, columns = self.area(rank)
        if not (rows and columns):
            return Area(rows[:0], columns[:0])
        return Area(seen(rows, self.height, geometry), seen(columns, self.width, geometry))

    def check(self, geometry: Geometry) -> None:
        """Raise ``ValueError`` where a shard that others follow ends within a unit."""
        whole = unit(geometry)
        for name, sizes in (("row", self.heights), ("column", self.widths or ())):
            for number, size in enumerate(sizes):
                if size % whole and any(sizes[number + 1 :]):
                    raise ValueError(
                        f"shards are cut every {counted(whole, name)} for block {geometry.block} and stride "
                        f"{geometry.stride}, got {counted(size, name)} in place {number} of {sizes}"
                    )


class Routes(NamedTuple):
    """What a rank holds, what its queries see, and who sends or sees which pixels; counted from its first pixel."""

    own: Area
    frame: Area
    received: Parcels
    sent: Parcels


@lru_cache(maxsize=1024)
def routes(shards: Shards, rank: int, geometry: Geometry) -> Routes:
    """A rank's, kept: among many ranks they take longer to find than pixels to send. The width must be known."""
    own, frame = shards.area(rank), shards.frame(rank, geometry)
    others = [other for other in range(shards.ranks) if other != rank]
    received = [(owner, shards.area(owner).overlap(frame)) for owner in others]
    sent = [(other, own.overlap(shards.frame(other, geometry))) for other in others]
    corner = own.rows.start, own.columns.start
    found, given = (
        tuple((other, area.seen_from(*corner)) for other, area in each if area.pixels) for each in (received, sent)
    )
    return Routes(own.seen_from(*corner), frame.seen_from(*corner), found, given)


def shard_map(height: int, ranks: int | tuple[int, int], geometry: Geometry, width: int | None = None) -> Shards:
    """The shards of a map of ``height`` rows: whole units for each rank, the first ones get what is left over.

    ``ranks`` in a grid, such as ``(2, 3)``, split columns, too: two rows of three ranks, of a map of ``width`` columns.
    Where there are fewer units than ranks, the last ranks hold nothing.

    Raises:
        ValueError: a number is out of range, or a grid has no width to split.
    """
    down, across = ranks if isinstance(ranks, tuple) else (ranks, 1)
    if across > 1 and width is None:
        raise ValueError(f"the map's width must be given where {down} x {across} ranks split it")
    for name, number in (("height", height), ("ranks", min(down, across)), ("width", 1 if width is None else width)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    whole = unit(geometry)
    return Shards(evenly(height, down, whole), None if width is None else evenly(width, across, whole))


def evenly(size: int, count: int, whole: int) -> tuple[int, ...]:
    """The sizes of ``count`` shards of an axis."""
    each, more = divmod(-(-size // whole), count)
    stops = [min((number * each + min(number, more)) * whole, size) for number in range(count + 1)]
    return tuple(stop - start for start, stop in pairwise(stops))


def strided(sizes: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """The sizes of shards of which every ``stride``-th pixel is kept."""
    return tuple(-(-size // stride) for size in sizes)


def held(sizes: tuple[int, ...], number: int) -> range:
    """Where the shard of this number lies along an axis."""
    stop = [*accumulate(sizes)][number]
    return range(stop - sizes[number], stop)


def seen(own: range, size: int, geometry: Geometry) -> range:
    """What the queries of a shard see along an axis of ``size`` pixels; all of their shard, too."""
    return range(max(own.start - geometry.halo, 0), min(own.stop + max(overhang(geometry), 0), size))


def unit(geometry: Geometry) -> int:
    """Pixels along an axis after which blocks and queries stand alike."""
    return lcm(geometry.block, geometry.stride)


def overhang(geometry: Geometry) -> int:
    """Pixels behind a unit that its last queries see; less than zero where they do not even see its end."""
    whole = unit(geometry)
    return geometry.seen(whole - geometry.stride, whole, behind=geometry.block + geometry.halo).stop - whole

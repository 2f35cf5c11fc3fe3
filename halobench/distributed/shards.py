"""Which rows of a map each rank holds, and which of them others need. Pure integers: every rank knows them of all.

    rows of the map   |0 . . . . . . 7|8 . . . . . . 15|16 . . . 20|
    rank                      0               1              2
    of others, halo 3         8 9 10       5 6 7, 16 17 18       13 14 15

Shards are cut between whole units: a block, or where the stride is no divisor of it the least number of blocks after
which a query stands on a block's first pixel again. So each shard is a strip (``Geometry.above``) whose blocks are the
map's. Only the last shard with rows may end within a unit, as the map does.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import lcm

from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.wording import counted


@dataclass(frozen=True)
class Shards:
    """The rows that each rank of a group holds: ``heights`` in the order of ranks, in pixels. 0 is a rank without."""

    heights: tuple[int, ...]

    @property
    def height(self) -> int:
        """Rows of the whole map."""
        return sum(self.heights)

    def rows(self, rank: int) -> range:
        """The rows of the map that a rank holds."""
        stop = list(accumulate(self.heights))[rank]
        return range(stop - self.heights[rank], stop)

    def local(self, pixels: Tensor, rank: int, dim: int = 2) -> Tensor:
        """A rank's rows of a whole map, whose rows are axis ``dim``: a view."""
        rows = self.rows(rank)
        return pixels.narrow(dim, rows.start, len(rows))

    def strided(self, stride: int) -> "Shards":
        """The shards of the map that a layer of this stride makes of this one."""
        return Shards(tuple(-(-height // stride) for height in self.heights))

    def needed(self, rank: int, geometry: Geometry) -> tuple[range, range]:
        """The rows of others that a rank's queries see: above its own and below."""
        rows = self.rows(rank)
        if not rows:
            return range(0), range(0)
        below = max(overhang(geometry), 0)
        return range(max(rows.start - geometry.halo, 0), rows.start), range(
            rows.stop, min(rows.stop + below, self.height)
        )

    def pieces(self, rank: int, geometry: Geometry) -> list[tuple[int, range]]:
        """The same by owner, from the first row to the last: ranks, and rows of the map."""
        found = []
        for needed in self.needed(rank, geometry):
            for owner in range(len(self.heights)):
                held = self.rows(owner)
                piece = range(max(needed.start, held.start), min(needed.stop, held.stop))
                if piece:
                    found.append((owner, piece))
        return found

    def check(self, geometry: Geometry) -> None:
        """Raise ``ValueError`` where a shard that others follow ends within a unit."""
        whole = unit(geometry)
        for rank, height in enumerate(self.heights):
            if height % whole and self.rows(rank).stop < self.height:
                raise ValueError(
                    f"shards are cut every {counted(whole, 'row')} for block {geometry.block} and stride "
                    f"{geometry.stride}, got {counted(height, 'row')} on rank {rank} of {self.heights}"
                )


def shard_map(height: int, ranks: int, geometry: Geometry) -> Shards:
    """The shards of a map of ``height`` rows: whole units for each rank, the first ones get what is left over.

    Where there are fewer units than ranks, the last ranks hold no rows.

    Raises:
        ValueError: a number is out of range.
    """
    for name, number in (("height", height), ("ranks", ranks)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    whole = unit(geometry)
    each, more = divmod(-(-height // whole), ranks)
    stops = [min((rank * each + min(rank, more)) * whole, height) for rank in range(ranks + 1)]
    return Shards(tuple(stop - start for start, stop in pairwise(stops)))


def unit(geometry: Geometry) -> int:
    """Rows after which blocks and queries stand alike."""
    return lcm(geometry.block, geometry.stride)


def overhang(geometry: Geometry) -> int:
    """Rows behind a unit that its last queries see; less than zero where they do not even see its end."""
    whole = unit(geometry)
    return geometry.seen(whole - geometry.stride, whole, below=geometry.block + geometry.halo).stop - whole

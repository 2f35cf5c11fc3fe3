"""Halo geometry: which keys a query sees. Pure integers, no torch.

A map of H x W pixels is cut into blocks of ``block`` x ``block`` pixels from the top left; the last row and column of
blocks may be partial. All queries of a block see one window: the block plus a margin of ``halo`` pixels on each side.

Source: Vaswani et al., *Scaling Local Self-Attention for Parameter Efficient Visual Backbones*, CVPR 2021, section 3.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Border = Literal["masked", "zero"]
BEYOND = ("above", "below", "left", "right")


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of a halo attention, independent of the map it is applied to.

    ``block`` and ``halo`` are in pixels. ``stride`` subsamples the queries: the query at (y, x) of the output sits on
    pixel (stride * y, stride * x). ``border`` decides what happens outside the image: under ``"masked"`` keys there
    do not exist; under ``"zero"`` they exist with key = value = 0 and take part in the softmax.

    ``block=1`` is a window per pixel (SASA); a block that covers the map is global attention.

    A map may be a strip of a larger one: its keys and values then go on for ``above`` and ``below`` rows, and for
    ``left`` and ``right`` columns, from which no queries ask. Blocks are cut from the first query on, and only beyond
    these rows and columns does the border begin.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    block: int
    halo: int
    stride: int = 1
    border: Border = "masked"
    above: int = 0
    below: int = 0
    left: int = 0
    right: int = 0

    def __post_init__(self) -> None:
        for name in ("block", "halo", "stride", *BEYOND):
            number, least = getattr(self, name), 1 if name in ("block", "stride") else 0
            if type(number) is not int or number < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {number!r}")
        if self.border not in get_args(Border):
            raise ValueError(f"border must be one of {get_args(Border)}, got {self.border!r}")

    @property
    def window(self) -> int:
        """Side of the window that the queries of a block see, in pixels."""
        return self.block + 2 * self.halo

    @property
    def step(self) -> int:
        """Pixels from one block that holds queries to the next (a stride beyond the block skips blocks)."""
        return max(self.block, self.stride)

    @property
    def side(self) -> int:
        """Queries along one side of a block, where block and stride divide one another (see ``tiles``)."""
        return max(self.block // self.stride, 1)

    @property
    def tiles(self) -> bool:
        """Whether every block with queries holds the same number of them: block and stride divide one another."""
        return self.block % self.stride == 0 or self.stride % self.block == 0

    @property
    def strip(self) -> bool:
        """Whether keys and values go on beyond the map of queries."""
        return any(getattr(self, side) for side in BEYOND)

    def own_rows(self, height: int) -> int:
        """Rows of pixels that queries stand on, of ``height`` rows of keys."""
        return height - self.above - self.below

    def own_columns(self, width: int) -> int:
        """Columns of pixels that queries stand on, of ``width`` columns of keys."""
        return width - self.left - self.right

    def queries(self, size: int) -> int:
        """Number of queries along an axis of ``size`` pixels: the last may stand on the last pixel."""
        return -(-size // self.stride)

    def blocks(self, size: int) -> int:
        """Number of blocks with queries along an axis of ``size`` pixels."""
        return -(-size // self.step)

    def seen(self, pixel: int, size: int, before: int = 0, behind: int = 0) -> range:
        """The real keys that a query on ``pixel`` sees along an axis of ``size`` pixels and those given beyond it."""
        start = pixel // self.block * self.block
        return range(max(start - self.halo, -before), min(start + self.block + self.halo, size + behind))

    def seen_along(self, size: int, before: int = 0, behind: int = 0) -> int:
        """Query-key pairs along such an axis: the sum of ``len(seen)`` over its queries."""
        return sum(len(self.seen(pixel, size, before, behind)) for pixel in range(0, size, self.stride))

    def visible_pairs(self, height: int, width: int) -> int:
        """Pairs of a query and a real key that it sees, on a map with ``height`` x ``width`` keys."""
        rows = self.seen_along(self.own_rows(height), self.above, self.below)
        return rows * self.seen_along(self.own_columns(width), self.left, self.right)

"""Rectangles of pixels, and maps that are put together from them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Area(NamedTuple):
    """Rows and columns of a map."""

    rows: range
    columns: range

    @property
    def pixels(self) -> int:
        """How many there are."""
        return len(self.rows) * len(self.columns)

    def overlap(self, other: "Area") -> "Area":
        """What lies in both."""
        return Area(*(overlap(one, another) for one, another in zip(self, other, strict=True)))

    def seen_from(self, row: int, column: int) -> "Area":
        """The same, counted from another pixel."""
        starts = zip(self, (row, column), strict=True)
        return Area(*(range(along.start - start, along.stop - start) for along, start in starts))

    def of(self, pixels: Tensor) -> Tensor:
        """These of a map (b n H W d) that begins at pixel (0, 0): a view."""
        return pixels[:, :, self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]


def overlap(one: range, other: range) -> range:
    """The numbers in both."""
    start = max(one.start, other.start)
    return range(start, max(min(one.stop, other.stop), start))


def joined(area: Area, pieces: Iterable[tuple[Area, Tensor]]) -> Tensor:
    """The map (b n rows columns d) of an area that pieces cover, as far as they lie in it: a view where one does.

    Otherwise it is copied, channels-last in memory. The pieces stand in bands: of the same rows, side by side.
    """
    bands: dict[int, dict[int, Tensor]] = {}
    for held, piece in pieces:
        common = held.overlap(area)
        if common.pixels:
            part = piece if common == held else common.seen_from(held.rows.start, held.columns.start).of(piece)
            bands.setdefault(common.rows.start, {})[common.columns.start] = part
    rows = [beside([band[column] for column in sorted(band)], 3) for _, band in sorted(bands.items())]
    return beside(rows, 2)


def beside(parts: list[Tensor], axis: int) -> Tensor:
    """Parts of a map (b n rows columns d) along an axis, channels-last in memory; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.permute(0, 2, 3, 1, 4) for part in parts], axis - 1).permute(0, 3, 1, 2, 4)


class Parted(torch.autograd.Function):
    """The parts of a map (b n H W d) at these areas, which cover it: views, whose gradients are joined by copying."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, areas: Sequence[Area]) -> tuple[Tensor, ...]:
        """Nothing is copied."""
        ctx.areas, ctx.whole = areas, Area(*map(range, pixels.shape[2:4]))
        return tuple(area.of(pixels) for area in areas)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """As parts of outputs are joined."""
        return joined(ctx.whole, zip(ctx.areas, gradients, strict=True)), None

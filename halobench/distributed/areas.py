"""Rectangles of pixels, and maps that are put together from them."""

from collections.abc import Iterable
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

    Otherwise it is copied once, channels-last in memory.
    """
    places, parts = [], []
    for held, piece in pieces:
        common = held.overlap(area)
        if common.pixels:
            places.append(common.seen_from(area.rows.start, area.columns.start))
            parts.append(common.seen_from(held.rows.start, held.columns.start).of(piece))
    if len(parts) == 1:
        return parts[0]
    whole: Tensor = Joined.apply(area, places, *parts)
    return whole


class Joined(torch.autograd.Function):
    """Pieces of a map in their places."""

    @staticmethod
    def forward(ctx: Any, area: Area, places: list[Area], *pieces: Tensor) -> Tensor:
        """One copy."""
        ctx.places = places
        batch, heads, _, _, dim = pieces[0].shape
        shape = batch, len(area.rows), len(area.columns), heads, dim
        whole = pieces[0].new_empty(shape).permute(0, 3, 1, 2, 4)
        for place, piece in zip(places, pieces, strict=True):
            place.of(whole).copy_(piece)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Each piece's is a view."""
        return None, None, *(place.of(gradient) for place in ctx.places)

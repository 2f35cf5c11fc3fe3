"""The sharded operator on more ranks than were measured, predicted from what was: one rank's time and the link.

    t(N) = t(1) / N + exchange + calls * edges + copies * pixels

``exchange`` is the messages of a call by themselves, from three ranks on with those for a second neighbour at the
link's best rate. Nothing of it is taken as hidden: a backend's call fills the GPU, and NCCL's kernels do not run beside
it. Of R x C ranks a message to the next row is one C-th as long, one to the next column one R-th, of a square map;
corners are left out.

What a measured call takes beyond that are ``calls``, more and smaller ones, for each edge of a shard, and ``copies``,
of parts of maps that are put together, for each pixel of a rank and each axis that is split. A number is copied at one
rate whatever layer it is of: that is what all layers' second maps take beyond their smallest ones, of those that have
three. The smallest map of a layer then gives ``calls``; at least one map is left to hold the prediction against.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from halobench.figures.selection import Drawn, Selection, measured
from halobench.figures.shared import SUITE, named
from halobench.figures.style import INK, canvas, distinct, entry, legend
from halobench.wording import counted

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
GRIDS = {ranks: [(ranks // across, across) for across in RANKS if across <= ranks] for ranks in RANKS}


class Overheads(NamedTuple):
    """What sharing a layer's map costs besides the exchange: in ms for an edge of a shard, and for a pixel of it."""

    calls_ms: float
    copies_ms: float


@dataclass(frozen=True)
class Shared:
    """A layer on a map of ``blocks`` rows of blocks: what was measured on one rank and on ``ranks`` in rows, in ms.

    ``channels`` are those of queries, keys, values and outputs together; strided ones count by the pixel of the map.
    """

    subject: str
    side: float
    blocks: int
    channels: float
    single_ms: float
    ranks: int
    shared_ms: float
    exchange_ms: float
    neighbour_ms: float

    @property
    def beyond_ms(self) -> float:
        """What it took beyond its share of one rank's time and the exchange."""
        return max(self.shared_ms - self.single_ms / self.ranks - self.exchange_ms, 0.0)

    @property
    def pixels(self) -> float:
        """Those of a shard."""
        return self.side**2 / self.ranks

    def predicted_ms(self, grid: tuple[int, int], overheads: Overheads) -> float:
        """The time on rows and columns of ranks; those that get no block idle."""
        down, across = (min(count, self.blocks) for count in grid)
        split = sum(count > 1 for count in (down, across))
        if not split:
            return self.single_ms
        ranks, edges = down * across, edges_along(down) + edges_along(across)
        copies = overheads.copies_ms * self.side**2 / ranks * split
        neighbours = edges_along(down) / across + edges_along(across) / down
        exchange = self.exchange_ms + (neighbours - 1) * self.neighbour_ms
        return self.single_ms / ranks + exchange + overheads.calls_ms * edges + copies


def edges_along(ranks: int) -> int:
    """Edges of a shard beyond which others are, along an axis that so many ranks split; of the one that has most."""
    return min(ranks - 1, 2)


def copying_ms(layers: list[list[Shared]]) -> float:
    """What a number of a shard takes to be copied, by the two smallest maps of all layers that have a third one.

    One layer's two maps would say little: what they differ by is as small as what a time is off.
    """
    pairs = [maps[:2] for maps in layers if len(maps) > 2]
    beyond = sum(second.beyond_ms - smallest.beyond_ms for smallest, second in pairs)
    numbers = sum(second.pixels * second.channels - smallest.pixels * smallest.channels for smallest, second in pairs)
    return max(beyond, 0.0) / numbers if pairs else 0.0


def held_back(maps: list[Shared], copying: float) -> tuple[Overheads, list[Shared]]:
    """The overheads of a layer, of which the smallest map shows the calls, and the maps that say nothing about them."""
    smallest = maps[0]
    copies = copying * smallest.channels
    calls = max(smallest.beyond_ms - copies * smallest.pixels, 0.0) / edges_along(smallest.ranks)
    return Overheads(calls, copies), maps[min(len(maps) - 1, 2) :]


def draw(selection: Selection) -> Drawn:
    """A figure for each direction in which the operator was measured on several ranks."""
    rows = measured(selection.rows(SUITE))
    for direction, part in rows.groupby("direction"):
        name = f"shared-operator-{direction}-predicted"
        layers = [*series(named(part))]
        if layers:
            yield name, over_ranks(selection, part, layers, str(direction))
        else:
            yield name, "no layer was measured on maps of two sizes, on one rank and on several"


def series(rows: pd.DataFrame) -> Iterator[list[Shared]]:
    """Each layer on its maps, from the smallest; those that were measured on two maps at least."""
    best = best_rates(rows)
    for _, part in rows.groupby("subject", sort=True):
        found = [*pairs(part, best)]
        if len(found) > 1:
            yield found


def best_rates(rows: pd.DataFrame) -> "pd.Series[float]":
    """The best rate of the link by number of ranks, in bytes/s; of a run that was cut short, the best of its rows."""
    return (rows["bus_bytes_per_s"] / rows["bus_share"].fillna(1.0)).groupby(rows["ranks"]).max()


def pairs(rows: pd.DataFrame, best: "pd.Series[float]") -> Iterator[Shared]:
    """A layer's maps that were measured on one rank and on several in rows, of which the fewest count."""
    for side, part in rows.groupby("side", sort=True):
        single = part[part["ranks"] == 1]
        rows_alone = part["grid"].isna() | part["grid"].astype(str).str.endswith("x1")
        several = part[(part["ranks"] > 1) & rows_alone & part["exposed_ms"].notna()].sort_values("ranks")
        if single.empty or several.empty:
            continue
        row = several.iloc[0]
        rate = best[row["ranks"]]
        yield Shared(
            row["subject"], float(str(side)), -(-int(row["height"]) // int(row["block"])), channels(row),
            float(single["median_ms"].iloc[0]), int(row["ranks"]), float(row["median_ms"]),
            float(row["communication_ms"]), float(row["communicated_bytes"] / rate * 1e3),
        )  # fmt: skip


def channels(row: "pd.Series[Any]") -> float:
    """Those of a layer's queries, keys, values and outputs."""
    by_pixel = 1 + 1 / int(row["stride"]) ** 2
    return float(int(row["heads"]) * (int(row["key_dim"]) + int(row["value_dim"])) * by_pixel)


def errors(layers: list[list[Shared]]) -> list[float]:
    """By how much predictions are off, of the maps that they are not made from."""
    copying = copying_ms(layers)
    return [
        abs(one.predicted_ms((one.ranks, 1), overheads) / one.shared_ms - 1)
        for overheads, others in (held_back(maps, copying) for maps in layers)
        for one in others
    ]


def over_ranks(selection: Selection, rows: pd.DataFrame, layers: list[list[Shared]], direction: str) -> Figure:
    """Efficiency over the number of ranks, of each layer on its largest map; what was measured as a mark."""
    off = errors(layers)
    said = (
        f"lines: predicted from one rank, the link and the smallest maps, of ranks in rows; dotted: on the best grid "
        f"of rows and columns; marks: measured. Predictions of rows are off by {median(off):.0%} in the median, "
        f"{max(off):.0%} at most, on {counted(len(off), 'map')} that they are not made from"
    )
    title = f"Predicted: halo attention of one image on many ranks, {direction}"
    figure = canvas(7.0, 4.6, title, said, selection.footer(rows))
    axes = figure.add_subplot(1, 1, 1)
    handles = lines(axes, layers)
    axes.axhline(1, color=INK, linewidth=1.0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(RANKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("ranks")
    axes.set_ylabel("efficiency")
    legend(figure, handles)
    return figure


def lines(axes: Axes, layers: list[list[Shared]]) -> list[Line2D]:
    """A line a layer; the entries of the legend."""
    looks, handles, copying = distinct(one[0].subject for one in layers), [], copying_ms(layers)
    for maps in layers:
        one, overheads = maps[-1], held_back(maps, copying)[0]
        look, name = looks[one.subject], f"{one.subject}, side {one.side:g}"
        for line, grids in (("-", [[(ranks, 1)] for ranks in RANKS]), (":", GRIDS.values())):
            best = [min(one.predicted_ms(grid, overheads) for grid in each) for each in grids]
            share = [one.single_ms / ranks / ms for ranks, ms in zip(RANKS, best, strict=True)]
            axes.plot(RANKS, share, color=look.colour, linestyle=line)
        found = one.single_ms / one.ranks / one.shared_ms
        axes.plot([one.ranks], [found], linestyle="", label=name, **look.marked(6))
        handles.append(entry(look, name))
    return handles

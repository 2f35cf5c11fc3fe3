"""The sharded operator on more ranks than were measured, predicted from what was: one rank's time and the link.

    t(N) = t(1) / N + calls + max(0, exchange - interior)

``calls`` is what more and smaller calls cost: measured without communication on the smallest map, where it is not
measured what is predicted; of a grid that splits columns, too, twice that. ``exchange`` is the messages of a call by
themselves, from three ranks on with those for a second neighbour at the link's best rate. It hides behind the
``interior``, all rows of blocks but two of a rank's. Of R x C ranks a message to the next row is one C-th as long, one
to the next column one R-th, of a square map; corners are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from statistics import median

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from halobench.figures.selection import Drawn, Selection, measured
from halobench.figures.shared import SUITE, named
from halobench.figures.style import INK, canvas, entry, legend, styles

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
EDGES = 2  # rows, or columns, of blocks of a rank that see others'
GRIDS = {ranks: [(ranks // across, across) for across in RANKS if across <= ranks] for ranks in RANKS}


@dataclass(frozen=True)
class Shared:
    """A layer on a map of ``blocks`` rows of blocks: what was measured on one rank and on ``ranks`` in rows, in ms."""

    subject: str
    side: float
    blocks: int
    single_ms: float
    ranks: int
    shared_ms: float
    silent_ms: float
    exchange_ms: float
    neighbour_ms: float

    @property
    def calls_ms(self) -> float:
        """What more calls on smaller maps cost, as far as it is seen here."""
        return max(self.silent_ms - self.single_ms / self.ranks, 0.0)

    def predicted_ms(self, grid: tuple[int, int], calls_ms: float) -> float:
        """The time on rows and columns of ranks; those that get no block idle."""
        down, across = (min(count, self.blocks) for count in grid)
        split = [count for count in (down, across) if count > 1]
        if not split:
            return self.single_ms
        kernels = self.single_ms / (down * across)
        interior = kernels * prod(max(1 - EDGES * count / self.blocks, 0.0) for count in split)
        neighbours = min(down - 1, 2) / across + min(across - 1, 2) / down
        exchange = self.exchange_ms + (neighbours - 1) * self.neighbour_ms
        return kernels + calls_ms * len(split) + max(exchange - interior, 0.0)


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
    for _, part in rows.groupby("subject", sort=True):
        found = [*pairs(part)]
        if len(found) > 1:
            yield found


def pairs(rows: pd.DataFrame) -> Iterator[Shared]:
    """A layer's maps that were measured on one rank and on several in rows, of which the fewest count."""
    for side, part in rows.groupby("side", sort=True):
        single = part[part["ranks"] == 1]
        rows_alone = part["grid"].isna() | part["grid"].astype(str).str.endswith("x1")
        several = part[
            (part["ranks"] > 1) & rows_alone & part["exposed_ms"].notna() & (part["bus_share"] > 0)
        ].sort_values("ranks")
        if single.empty or several.empty:
            continue
        row = several.iloc[0]
        rate = row["bus_bytes_per_s"] / row["bus_share"]
        yield Shared(
            row["subject"], float(str(side)), -(-int(row["height"]) // int(row["block"])),
            float(single["median_ms"].iloc[0]), int(row["ranks"]), float(row["median_ms"]),
            float(row["median_ms"] - row["exposed_ms"]), float(row["communication_ms"]),
            float(row["communicated_bytes"] / rate * 1e3),
        )  # fmt: skip


def errors(layers: list[list[Shared]]) -> list[float]:
    """By how much predictions are off, of the maps that they are not made from."""
    return [
        abs(one.predicted_ms((one.ranks, 1), smallest.calls_ms) / one.shared_ms - 1)
        for smallest, *larger in layers
        for one in larger
    ]


def over_ranks(selection: Selection, rows: pd.DataFrame, layers: list[list[Shared]], direction: str) -> Figure:
    """Efficiency over the number of ranks, of each layer on its largest map; what was measured as a mark."""
    off = errors(layers)
    said = (
        f"lines: predicted from one rank, the link and the smallest map, of ranks in rows; dotted: on the best grid of "
        f"rows and columns; marks: measured. Predictions of rows are off by {median(off):.0%} in the median, "
        f"{max(off):.0%} at most"
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
    looks, handles = styles(one[0].subject for one in layers), []
    for maps in layers:
        one, calls = maps[-1], maps[0].calls_ms
        look, name = looks[one.subject], f"{one.subject}, side {one.side:g}"
        for line, grids in (("-", [[(ranks, 1)] for ranks in RANKS]), (":", GRIDS.values())):
            best = [min(one.predicted_ms(grid, calls) for grid in each) for each in grids]
            share = [one.single_ms / ranks / ms for ranks, ms in zip(RANKS, best, strict=True)]
            axes.plot(RANKS, share, color=look.colour, linestyle=line)
        found = one.single_ms / one.ranks / one.shared_ms
        axes.plot([one.ranks], [found], linestyle="", label=name, **look.marked(6))
        handles.append(entry(look, name))
    return handles

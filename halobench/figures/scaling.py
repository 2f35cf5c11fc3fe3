"""Latency, memory and FLOPs over one axis: the side of the map, the block, or the halo; failures in a strip on top."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from halobench.figures.scale import plain_log
from halobench.figures.selection import AXES, SHAPE, Drawn, Selection, held, measured
from halobench.figures.style import INK, WIDEST, LineStyle, canvas, entry, failure_entry, failure_mark, legend
from halobench.records.table import OK, STATUSES

LABELS = {
    "side": "feature-map side (pixels)",
    "block": "block side (pixels)",
    "halo": "halo on each side (pixels)",
}
TICK = 7.5  # points
CHARACTER = 0.028  # the width of a digit of that size, as a share of the values' span in a panel
INTERVALS = "bars: 95 % intervals"
CLOSE = 0.03  # a line of 2 points over three decades hides what is nearer
TITLES = {"side": "over the feature-map side", "block": "over the block", "halo": "over the halo"}


@dataclass(frozen=True)
class Panel:
    """A measured column and the unit it is drawn in."""

    column: str
    label: str
    scale: float = 1.0


PANELS = (
    Panel("median_ms", "latency (ms)"),
    Panel("peak_bytes", "peak memory above the inputs (MiB)", 2.0**-20),
    Panel("executed_flops", "executed work, closed form (GFLOP)", 1e-9),
)


def draw(selection: Selection, suite: str) -> Drawn:
    """A figure per axis and direction."""
    for axis in AXES:
        for direction, rows in selection.rows(suite, axis).groupby("direction"):
            name = f"{axis}-{direction}"
            if measured(rows).empty:
                yield name, f"no {suite} case of group {axis!r} was measured"
            else:
                yield name, over_axis(selection, rows, axis, f"{suite}, {direction}")
        if selection.rows(suite, axis).empty:
            yield axis, f"no {suite} rows of group {axis!r}"


def over_axis(selection: Selection, rows: pd.DataFrame, axis: str, what: str) -> Figure:
    """Three panels side by side, a line per variant; above each panel, a strip of the failures."""
    failures = rows[rows["status"] != OK]
    failing = in_order(selection, failures)
    strip = 0.1 + 0.17 * len(failing)
    title = f"Halo attention {what}: latency, memory and FLOPs {TITLES[axis]}"
    figure = canvas(WIDEST, 4.8 + strip, title, held(rows, but=(axis,)), selection.footer(rows))
    ratios = [strip, 3.6] if failing else [3.6]
    grid = figure.add_gridspec(len(ratios), len(PANELS), height_ratios=ratios)
    for number, panel in enumerate(PANELS):
        axes = figure.add_subplot(grid[-1, number])
        draw_lines(axes, selection, rows, axis, panel)
        style_axis(axes, axis, sorted(rows[axis].unique()))
        if failing:
            above = figure.add_subplot(grid[0, number], sharex=axes)
            draw_strip(above, selection, failures, failing, axis, named=number == 0)
    handles = [entry(selection.styles[backend], name, line) for backend, name, line in lines(selection, rows)]
    present = set(failures["status"])
    legend(figure, [*handles, *[failure_entry(status) for status in STATUSES if status in present]])
    return figure


def draw_lines(axes: Axes, selection: Selection, rows: pd.DataFrame, axis: str, panel: Panel) -> None:
    """One line per variant, broken where a case failed, with its 95 % interval."""
    axes.set_ylabel(panel.label)
    known = measured(rows, panel.column)
    if known.empty:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return
    drawn = lines(selection, rows)
    widens = panel.column != "median_ms" and agree(known, axis, panel.column)
    title = "where lines agree, the wider lies underneath" if widens else ""
    axes.set_title(INTERVALS if panel.column == "median_ms" else title, fontsize=8, color=INK)
    for number, (backend, name, line) in enumerate(drawn):
        look = selection.styles[backend]
        # Closed forms agree exactly between some backends: the earlier line is wider and stays visible underneath.
        wider = 1 - number / len(drawn) if widens else 0.0
        for part in separate(rows[rows["variant"] == name], axis):
            good = part["status"] == OK
            values = part[panel.column].where(good) * panel.scale
            axes.plot(
                part[axis], values.where(values > 0), linestyle=line, linewidth=1.4 + 2.8 * wider,
                markeredgecolor="white", markeredgewidth=0.4, label=name, **look.marked(5 + 3.5 * wider),
            )  # fmt: skip
            if panel.column == "median_ms":
                low, high = part["low_ms"].where(good), part["high_ms"].where(good)
                axes.fill_between(part[axis], low, high, color=look.colour, alpha=0.2, linewidth=0)
                axes.vlines(part[axis], low, high, color=look.colour, alpha=0.6, linewidth=1)
    if (known[panel.column] > 0).any():
        plain_log(axes, "y")


def agree(rows: pd.DataFrame, axis: str, column: str) -> bool:
    """Whether two variants are somewhere so close that one line would hide the other."""
    one_each = rows.drop_duplicates([axis, "variant"]).sort_values([axis, column])
    return bool((one_each.groupby(axis)[column].pct_change() < CLOSE).any())


def separate(rows: pd.DataFrame, axis: str) -> list[pd.DataFrame]:
    """The rows as lines over the axis: one, or one per problem where problems differ in more than the axis."""
    rows = rows.sort_values([axis, "case"])
    if not rows[axis].duplicated().any():
        return [rows]
    fixed = [name for name in ("block", "halo", *SHAPE) if name != axis]
    if axis == "side":
        fixed = [name for name in fixed if name not in ("height", "width")]
    return [part for _, part in rows.groupby(fixed)]


def draw_strip(
    axes: Axes, selection: Selection, failures: pd.DataFrame, failing: list[str], axis: str, *, named: bool
) -> None:
    """A row per variant that failed somewhere, a mark where it did."""
    axes.set_label("failures")
    for number, name in enumerate(failing):
        for status, rows in failures[failures["variant"] == name].groupby("status"):
            colour = selection.styles[rows["backend"].iloc[0]].colour
            mark = failure_mark(str(status), colour)
            axes.plot(rows[axis], [number] * len(rows), linestyle="", label=status, clip_on=False, **mark)
    axes.set_ylim(len(failing) - 0.2, -0.8)
    axes.set_yticks(range(len(failing)), failing if named else [""] * len(failing), fontsize=7)
    axes.tick_params(axis="x", labelbottom=False)
    axes.grid(visible=False, axis="x")


def style_axis(axes: Axes, axis: str, values: list[float]) -> None:
    """A logarithmic axis with a tick per value; the halo's is linear, for it begins at zero."""
    axes.set_xlabel(LABELS[axis])
    if axis != "halo":
        axes.set_xscale("log", base=2)
    if len(values) == 1:  # matplotlib would invent a range of its own
        (value,) = values
        axes.set_xlim(*((value / 2, value * 2) if axis != "halo" else (value - 1, value + 1)))
    axes.xaxis.set_major_locator(FixedLocator(apart(values, logarithmic=axis != "halo")))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:.4g}"))
    axes.tick_params(axis="x", labelsize=TICK)


def apart(values: list[float], *, logarithmic: bool) -> list[float]:
    """The values whose numbers, written under the axis, do not touch; they ascend."""
    places = np.log(values) if logarithmic else np.asarray(values, dtype=float)
    places = (places - places[0]) / (places[-1] - places[0] or 1)
    shown: list[float] = []
    end = -1.0
    for value, place in zip(values, places, strict=True):
        half = CHARACTER * len(f"{value:.4g}") / 2
        if place - half >= end:
            shown.append(value)
            end = place + half + CHARACTER / 3
    return shown


def lines(selection: Selection, rows: pd.DataFrame) -> list[tuple[str, str, LineStyle]]:
    """The backend, variant and line style of each line, in the order of legends."""
    found: list[tuple[str, str, LineStyle]] = []
    for name in in_order(selection, rows):
        of = rows[rows["variant"] == name].iloc[0]
        found.append((str(of["backend"]), name, "-" if of["border"] == "masked" else "--"))
    return found


def in_order(selection: Selection, rows: pd.DataFrame) -> list[str]:
    """The variants in these rows, in the order of legends."""
    order = list(selection.styles)
    pairs = sorted(
        {(order.index(backend), name) for backend, name in zip(rows["backend"], rows["variant"], strict=True)}
    )
    return [name for _, name in pairs]

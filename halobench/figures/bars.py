"""At the reference point: speed-up over the naive backend, and useful against executed FLOPs; other suites' bars."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from halobench.figures.scale import plain_log, three_digits
from halobench.figures.scaling import in_order
from halobench.figures.selection import AXES, BASELINE, Drawn, Selection, held, in_group, measured
from halobench.figures.style import FAINT, INK, canvas, legend
from halobench.records.table import DIRECTIONS, OK

USEFUL, EXECUTED = "useful", "executed (number: executed / useful)"
INTERVAL = "black: 95 % interval"
Fill = Callable[[Axes, Selection, pd.DataFrame, list[str]], None]


def draw_speedup(selection: Selection) -> Drawn:
    """How many times faster than the naive backend each is, forward and training."""
    rows = with_speedup(selection.reference)
    if rows["speedup"].isna().all():
        yield "speedup", f"no time of {BASELINE} at the reference point (a row of groups side, block and halo)"
        return
    title = f"Speed-up over {BASELINE} at the reference point"
    yield "speedup", panels(selection, rows, title, speedup_bars)


def draw_work(selection: Selection) -> Drawn:
    """The FLOPs that the answer needs and those that each backend executes."""
    rows = selection.reference
    if measured(rows, "executed_flops").empty:
        yield "work", "no executed FLOPs at the reference point (a row of groups side, block and halo)"
        return
    yield "work", panels(selection, rows, "Useful against executed FLOPs at the reference point", work_dots)


def draw_other(selection: Selection, suite: str) -> Drawn:
    """A suite's rows that belong to no axis: a figure per problem is too many, so a bar per label and variant."""
    rows = selection.rows(suite)
    for group in (*AXES, "stages"):
        rows = rows[~in_group(rows, group)]
    if rows.empty:
        return
    if measured(rows).empty:
        yield "latency", f"no {suite} case outside the axes was measured"
        return
    shapes = ["label", "block", "halo", "height", "width", "batch", "heads", "key_dim", "value_dim"]
    for number, (_, part) in enumerate(rows.groupby(shapes, dropna=False, sort=True), 1):
        title = f"Latency, suite {suite}"
        yield f"latency-{number}", panels(selection, part, title, latency_bars)


def with_speedup(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``speedup`` over the naive backend of the same direction, and its interval at its widest."""
    naive = measured(rows[rows["backend"] == BASELINE]).drop_duplicates("direction").set_index("direction")
    median, low, high = (rows["direction"].map(naive[name]) for name in ("median_ms", "low_ms", "high_ms"))
    return rows.assign(
        speedup=median / rows["median_ms"], speedup_low=low / rows["high_ms"], speedup_high=high / rows["low_ms"]
    )


def panels(selection: Selection, rows: pd.DataFrame, title: str, fill: Fill) -> Figure:
    """A panel per direction, a line per variant in both."""
    names = in_order(selection, rows)
    present = [direction for direction in DIRECTIONS if (rows["direction"] == direction).any()]
    subtitle = ": ".join([*rows["label"].dropna().unique()[:1], held(rows)])
    figure = canvas(2.4 + 4.3 * len(present), 1.7 + 0.3 * len(names), title, subtitle, selection.footer(rows))
    for number, direction in enumerate(present):
        axes = figure.add_subplot(1, len(present), number + 1)
        fill(axes, selection, rows[rows["direction"] == direction], names)
        axes.set_title(direction, fontsize=9)
        axes.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
    if fill is work_dots:
        faces = {USEFUL: "white", EXECUTED: FAINT}
        legend(figure, [dot(label, face) for label, face in faces.items()])
    return figure


def speedup_bars(axes: Axes, selection: Selection, rows: pd.DataFrame, names: list[str]) -> None:
    """Speed-ups as bars from one, on a logarithmic axis."""
    values = rows[["speedup", "speedup_low", "speedup_high"]].dropna()
    axes.set_xlabel(f"times faster than {BASELINE} ({INTERVAL})")
    axes.axvline(1, color=INK, linewidth=1)
    logarithmic(axes, values.min().min() if len(values) else 0.5, values.max().max() if len(values) else 2.0, 1.0)
    bars(axes, selection, rows, names, Bar("speedup", "speedup_low", "speedup_high", 1.0, "x"))


def latency_bars(axes: Axes, selection: Selection, rows: pd.DataFrame, names: list[str]) -> None:
    """Latencies as bars from zero."""
    axes.set_xlabel(f"latency (ms; {INTERVAL})")
    good = measured(rows)
    axes.set_xlim(0, good["high_ms"].fillna(good["median_ms"]).max() * 1.25 if len(good) else 1)
    bars(axes, selection, rows, names, Bar("median_ms", "low_ms", "high_ms", 0.0, "ms"))


@dataclass(frozen=True)
class Bar:
    """The columns of a bar's end and interval, where bars start, and the unit written behind its number."""

    value: str
    low: str
    high: str
    start: float
    unit: str


def bars(axes: Axes, selection: Selection, rows: pd.DataFrame, names: list[str], bar: Bar) -> None:
    """A bar per variant with its interval and its number, or what became of it."""
    for _, row in rows.drop_duplicates("variant").iterrows():
        place, value, low, high = names.index(row["variant"]), row[bar.value], row[bar.low], row[bar.high]
        end, text = bar.start, str(row["status"]) if row["status"] != OK else "not known"
        if pd.notna(value):
            colour = selection.styles[row["backend"]].colour
            axes.barh(place, value - bar.start, left=bar.start, height=0.62, color=colour)
            end, text = max(value, bar.start), f"{three_digits(value)} {bar.unit}"
            if pd.notna(low) and pd.notna(high):
                axes.hlines(place, low, high, color=INK, linewidth=1.2)
                end = max(end, high)
        note(axes, text, end, place)


def work_dots(axes: Axes, selection: Selection, rows: pd.DataFrame, names: list[str]) -> None:
    """Useful FLOPs hollow, executed FLOPs filled, on a logarithmic axis: work spans decades."""
    axes.set_xlabel("work of one call (GFLOP)")
    work = rows[["useful_flops", "executed_flops"]].where(rows[["useful_flops", "executed_flops"]] > 0) * 1e-9
    least, most = work.min().min(), work.max().max()
    logarithmic(axes, *((least, most) if pd.notna(least) else (1.0, 10.0)))
    left = axes.get_xlim()[0]
    for (_, row), useful, executed in zip(rows.iterrows(), work["useful_flops"], work["executed_flops"], strict=True):
        place, colour = names.index(row["variant"]), selection.styles[row["backend"]].colour
        if pd.isna(useful) or pd.isna(executed):
            note(axes, str(row["status"]) if row["status"] != OK else "not known", left, place)
            continue
        axes.hlines(place, useful, executed, color=colour, linewidth=2.5, alpha=0.5)
        axes.plot([executed], [place], marker="o", color=colour, markersize=7, label=EXECUTED)
        axes.plot(
            [useful], [place], marker="o", markerfacecolor="white", markeredgecolor=colour, markersize=7, label=USEFUL
        )
        note(axes, three_digits(executed / useful), max(useful, executed), place, away=8)


def logarithmic(axes: Axes, low: float, high: float, start: float | None = None) -> None:
    """A logarithmic axis with room for numbers on the right, and plain numbers for its ticks."""
    if start is not None:
        low, high = min(low, start), max(high, start)
    plain_log(axes, "x")
    room = max((high / low) ** 0.3, 1.6)
    axes.set_xlim(low / room**0.25, high * room)


def note(axes: Axes, text: str, end: float, place: int, away: int = 4) -> None:
    """A number or a status behind the end of a bar."""
    axes.annotate(text, (end, place), (away, 0), textcoords="offset points", va="center", size=8, color=INK)


def dot(label: str, face: str) -> Line2D:
    """A dot in the legend."""
    return Line2D([], [], linestyle="", marker="o", markerfacecolor=face, markeredgecolor=FAINT, label=label)

"""Closed forms against measurements: peak memory, and the FLOPs that two counters see."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from halobench.figures.scale import PlainLogLocator, plain, plain_log
from halobench.figures.scaling import in_order
from halobench.figures.selection import Drawn, Selection, measured
from halobench.figures.style import FAINT, INK, canvas, entry, legend


@dataclass(frozen=True)
class Panel:
    """A measured column against its closed form."""

    column: str
    closed_form: str
    label: str
    title: str
    unit: str
    scale: float
    factor: float = 1.0  # of the measurement, where it counts in another unit


MEMORY = Panel("peak_bytes", "closed_form_bytes", "measured peak", "Peak memory above the inputs", "MiB", 2.0**-20)
TORCH = Panel("torch_flops", "executed_flops", "counted", "FLOPs: torch's FlopCounterMode", "GFLOP", 1e-9)
FVCORE = Panel(
    "fvcore_flops", "executed_flops", "counted x 2, a multiply-add counts once", "FLOPs: fvcore", "GFLOP", 1e-9, 2.0
)
EQUAL = "measured = closed form"
PANELS = (MEMORY, TORCH, FVCORE)


def draw(selection: Selection) -> Drawn:
    """A figure per direction with a panel for each comparison that has data."""
    for direction, rows in selection.rows("operator").groupby("direction"):
        name = f"closed-form-{direction}"
        panels = [panel for panel in PANELS if not both(rows, panel).empty]
        if panels:
            yield name, against(selection, rows, panels, str(direction))
        else:
            yield name, "no operator case has both a measurement and a closed form"


def both(rows: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """The rows that know the measurement and a closed form to hold it against."""
    rows = measured(rows, panel.column)
    return rows[rows[panel.closed_form] > 0]


def against(selection: Selection, rows: pd.DataFrame, panels: list[Panel], direction: str) -> Figure:
    """Scatter plots with the line on which both agree."""
    title = f"Measured against the executed closed form, operator, {direction}"
    figure = canvas(
        1.2 + 4 * len(panels), 5.0, title, "a mark per case; on the line both agree", selection.footer(rows)
    )
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        scatter(axes, selection, both(rows, panel), panel)
    handles = [
        entry(selection.styles[rows[rows["variant"] == name]["backend"].iloc[0]], name, "")
        for name in in_order(selection, rows)
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1, label=EQUAL))
    legend(figure, handles)
    return figure


def scatter(axes: Axes, selection: Selection, rows: pd.DataFrame, panel: Panel) -> None:
    """One panel. What reads zero has no place on a logarithmic axis: it stands under a dotted line at the bottom."""
    ahead, found = rows[panel.closed_form] * panel.scale, rows[panel.column] * panel.factor * panel.scale
    values = pd.concat([ahead, found[found > 0]])
    low, high = values.min() / 1.6, values.max() * 1.6
    zero = low
    if (found == 0).any():
        low = zero / 5
        axes.axhline(zero, color=FAINT, linestyle=":", linewidth=1)
    axes.plot([zero, high], [zero, high], color=INK, linewidth=1, zorder=1, label=EQUAL)
    names = in_order(selection, rows)
    for number, name in enumerate(names):
        of = rows["variant"] == name
        style = selection.styles[rows[of]["backend"].iloc[0]]
        axes.scatter(
            ahead[of], found[of].where(found[of] > 0, (zero * low) ** 0.5), color=style.colour, marker=style.marker,
            s=70 - 55 * number / len(names), alpha=0.75, linewidth=0.3, edgecolor="white", label=name,
        )  # fmt: skip
    plain_log(axes, "x", "y")
    axes.set(xlim=(zero, high), ylim=(low, high))
    if low < zero:  # below the line there is no scale
        ticks = [tick for tick in PlainLogLocator().tick_values(zero, high) if tick > zero]
        axes.set_yticks([(zero * low) ** 0.5, *ticks], ["reads 0", *map(plain, ticks)])
    axes.set_xlabel(f"executed closed form ({panel.unit})")
    axes.set_ylabel(f"{panel.label} ({panel.unit})")
    axes.set_title(panel.title, fontsize=9)

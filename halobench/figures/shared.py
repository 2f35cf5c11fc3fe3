"""One image on several ranks: time, efficiency and memory of a rank over its side, of networks and of the operator."""

from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from halobench.figures.ranks import beside
from halobench.figures.scale import plain_log
from halobench.figures.selection import Drawn, Selection, measured
from halobench.figures.style import INK, LineStyle, canvas, distinct, entry, legend
from halobench.wording import counted

SUITE = "sharded"
READ = "efficiency: t1 / (N tN), bars: 95 % intervals over rounds; memory: of the rank that needs most"


class Panel(NamedTuple):
    """A column over the side, and how it is drawn."""

    column: str
    label: str
    scale: float = 1.0
    share: bool = False


TIME, EFFICIENCY = Panel("median_ms", "time (ms)"), Panel("efficiency", "efficiency", share=True)
MEMORY = Panel("rank_peak_bytes", "peak memory of a rank (MiB)", 2.0**-20)


def draw(selection: Selection) -> Drawn:
    """A figure for each direction of what ``halobench.scale`` measured of shared images."""
    for direction, rows in measured(selection.rows(SUITE)).groupby("direction"):
        name = f"shared-{'network' if 'model' in rows else 'operator'}-{direction}"
        if rows["ranks"].max() < 2:
            yield name, f"no image was shared by several ranks, {direction}"
        else:
            yield name, over_side(selection, named(rows), str(direction))


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``subject``, the network or the layer's shape, and ``line``, the same with the ranks."""
    if "model" in rows:
        subjects = rows["model"] + ", " + rows["backend"] + ", " + rows["mode"]
    else:
        subjects = rows.apply(layer, axis="columns")
    return rows.assign(subject=subjects, line=subjects + ", " + rows.apply(ranks, axis="columns"))


def ranks(row: "pd.Series[Any]") -> str:
    """How many ranks, and their grid where they split columns."""
    said, rows = counted(int(row["ranks"]), "rank"), f"{row['ranks']:.0f}x1"
    return said if pd.isna(row["grid"]) or row["grid"] == rows else f"{said}, {row['grid']}"


def layer(row: "pd.Series[Any]") -> str:
    """The shape of an attention layer, and its backend."""
    stride = "" if row["stride"] == 1 else f", stride {row['stride']}"
    return (
        f"{row['backend']}, block {row['block']}, halo {row['halo']}, {row['heads']} heads of {row['key_dim']} and "
        f"{row['value_dim']}{stride}"
    )


def over_side(selection: Selection, rows: pd.DataFrame, direction: str) -> Figure:
    """Time, efficiency and memory side by side, a line for each subject and number of ranks."""
    panels = [TIME, EFFICIENCY, *([MEMORY] if rows[MEMORY.column].notna().any() else [])]
    title = f"One image on several ranks, {direction}"
    figure = canvas(3.2 * len(panels) + 0.4, 4.6, title, READ, selection.footer(rows))
    handles: dict[str, Line2D] = {}
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        handles |= lines(axes, rows, panel)
        axes.set_title(panel.label, fontsize=9)
        axes.set_xlabel(f"side of the {'image' if 'model' in rows else 'map'} (pixels)")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(rows["side"].unique())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
        if panel.share:
            axes.axhline(1, color=INK, linewidth=1.0)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        else:
            plain_log(axes, "y")
    legend(figure, list(handles.values()))
    return figure


def lines(axes: Axes, rows: pd.DataFrame, panel: Panel) -> dict[str, Line2D]:
    """The lines of a panel, dashed for a single rank; their entries of the legend by name."""
    looks, handles = distinct(rows["subject"]), {}
    for key, part in rows.groupby("line", sort=True):
        name, single = str(key), part["ranks"].max() == 1
        line: LineStyle = "--" if single else "-"
        by_side, look = part.sort_values("side"), looks[part["subject"].iloc[0]]
        values, spread = by_side[panel.column].astype(float) * panel.scale, None
        if panel.share:
            spread = beside(by_side)
            if single:  # the line that is drawn already
                continue
        axes.errorbar(by_side["side"], values, spread, linestyle=line, capsize=2, label=name, **look.marked())
        handles[name] = entry(look, name, line)
    return handles

"""Efficiency of training steps over the number of ranks, weak and strong scaling beside one another."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from halobench.figures.names import SAID, pair_name
from halobench.figures.selection import NO_BACKEND, Drawn, Selection, measured
from halobench.figures.style import INK, LineStyle, canvas, entry, legend, styles

SUITE = "scaling"
READ = "t1 / tN under weak, t1 / (N tN) under strong scaling; bars: 95 % intervals over rounds"


def draw(selection: Selection) -> Drawn:
    """The figure of what ``halobench.scale`` measured."""
    rows = measured(selection.rows(SUITE, "scaling", "training"), "efficiency")
    if rows.empty or rows["ranks"].max() < 2:
        yield "efficiency", "no training step was measured on several ranks"
        return
    for (mode, flat), part in rows.groupby(["mode", rows["gradients"] == "flat"], sort=True):
        if part["ranks"].max() > 1:
            called = SAID.get(str(mode), str(mode)) + (", gradients in one message" if flat else "")
            yield f"efficiency-{mode}{'-flat' if flat else ''}", over_ranks(selection, part, called)


def over_ranks(selection: Selection, rows: pd.DataFrame, called: str) -> Figure:
    """A panel a kind of scaling, a colour a pair, a line a network."""
    kinds = sorted(rows["scaling"].unique(), reverse=True)  # weak first
    single = rows[rows["ranks"] == 1]  # of both kinds
    batches = "/".join(f"{batch:g}" for batch in sorted(single["batch"].unique()))
    subtitle = f"{called}, batch {batches} on one rank. {READ}"
    title = "Efficiency of training steps over the number of ranks"
    figure = canvas(4.2 * len(kinds) + 0.6, 4.4, title, subtitle, selection.footer(rows))
    handles: dict[str, Line2D] = {}
    for number, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), number + 1, sharey=figure.axes[0] if figure.axes else None)
        panel = pd.concat([single, rows[(rows["scaling"] == kind) & (rows["ranks"] > 1)]])
        handles |= lines(axes, panel)
        axes.set_title(f"{kind} scaling", fontsize=9)
        axes.axhline(1, color=INK, linewidth=1.0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(rows["ranks"].unique())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("ranks")
    figure.axes[0].set_ylabel("efficiency")
    figure.axes[0].set_ylim(0, 1.05 * rows["efficiency"].max())  # of all panels; no mark is cut by the frame
    legend(figure, list(handles.values()))
    return figure


def lines(axes: Axes, rows: pd.DataFrame) -> dict[str, Line2D]:
    """A line for each network; its entry of the legend by its name."""
    looks, handles = styles(sorted(rows["model"].map(pair_name).unique())), {}
    for (model, backend), part in rows.groupby(["model", "backend"], sort=True):
        look = looks[pair_name(str(model))]
        name = str(model) if backend == NO_BACKEND else f"{model}, {backend}"
        line: LineStyle = "--" if backend == NO_BACKEND else "-"
        by_rank = part.sort_values("ranks")
        share = by_rank["efficiency"]
        axes.errorbar(by_rank["ranks"], share, beside(by_rank), linestyle=line, capsize=2, label=name, **look.marked())
        handles[name] = entry(look, name, line)
    return handles


def beside(rows: pd.DataFrame) -> list["pd.Series[float]"]:
    """How far the intervals of efficiencies reach below and above; of somebody else's file, maybe not at all."""
    share = rows["efficiency"].astype(float)
    return [length.clip(lower=0) for length in (share - rows["efficiency_low"], rows["efficiency_high"] - share)]

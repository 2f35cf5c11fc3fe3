"""A network's training step over the side of its images, and over block and halo."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from halobench.figures.heat import cells, failures, scale_of, without_number
from halobench.figures.names import conditions
from halobench.figures.networks import look_of, variants
from halobench.figures.rivals import SUITE
from halobench.figures.scale import colour_bar, plain_log, three_digits
from halobench.figures.selection import NO_BACKEND, Drawn, Selection, measured, of_the_device
from halobench.figures.style import canvas, entry, failure_entry, legend, mark_below_edge
from halobench.records.table import OK


def draw(selection: Selection) -> Drawn:
    """The figures of groups side and grid."""
    rows = one_each(selection.rows(SUITE, "side", "training"))
    if len(set(measured(rows)["side"])) > 1:
        yield "side", over_side(selection, rows)
    else:
        yield "side", "no training step of group 'side' was measured at two sides"
    rows = one_each(selection.rows(SUITE, "grid", "training"))
    rows = rows[rows["block"].notna() & rows["halo"].notna()]
    yield "grid", over_grid(selection, rows) if len(measured(rows)) else "no training step of group 'grid' was measured"


def one_each(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a point: replayed where there is such a one, at the largest batch that was measured."""
    ordered = of_the_device(rows).sort_values("batch", na_position="first", kind="stable")
    return ordered.drop_duplicates(["variant", "model", "side", "block", "halo"], keep="last").sort_index()


def over_side(selection: Selection, rows: pd.DataFrame) -> Figure:
    """Time an image over the side of the images, a line a model and backend."""
    title = "Training step over the side of the images"
    figure = canvas(7.5, 4.6, title, conditions(rows), selection.footer(rows))
    axes = figure.add_subplot()
    handles = []
    for name in variants(selection, rows):
        for model, part in rows[rows["variant"] == name].groupby("model", sort=True):
            look = look_of(selection, name, rows)
            label = str(model) if (part["backend"] == NO_BACKEND).all() else f"{model}, {name}"
            by_side = part.sort_values("side")
            times = (1e3 / by_side["images_per_s"]).where(by_side["status"] == OK)  # a line ends where a step failed
            axes.plot(by_side["side"], times, label=label, **look.marked())
            handles.append(entry(look, label))
    sides = sorted(rows["side"].unique())
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sides))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.set_xlabel("image side (pixels)")
    axes.set_ylabel("time an image (ms)")
    plain_log(axes, "y")
    legend(figure, [*handles, *fates(axes, selection, rows)])
    return figure


def fates(axes: Axes, selection: Selection, rows: pd.DataFrame) -> list[Line2D]:
    """Marks of what failed, inside the upper edge; the entries for the legend."""
    failed = rows[rows["status"] != OK]
    entries = []
    for number, (key, part) in enumerate(failed.groupby(["variant", "model", "status"], sort=True)):
        name, model, status = map(str, key)
        label, colour = f"{model}, {name}: {status}", look_of(selection, name, rows).colour
        mark_below_edge(axes, part["side"], status, label, colour, 8 + 9 * number)
        entries.append(failure_entry(status, label, colour))
    return entries


def over_grid(selection: Selection, rows: pd.DataFrame) -> Figure:
    """The step over block and halo, a panel a backend."""
    rows = rows.assign(block=rows["block"].astype(int), halo=rows["halo"].astype(int))
    names = variants(selection, rows)
    blocks, halos = sorted(rows["block"].unique()), sorted(rows["halo"].unique())
    title = f"Training step (ms) of {', '.join(sorted(rows['model'].unique()))} over block and halo"
    width = max(5.0, 1.2 + len(names) * (1.0 + 0.55 * len(halos)))
    subtitle = conditions(rows) + without_number(rows, len(names) * len(blocks) * len(halos))
    figure = canvas(width, 1.6 + 0.4 * len(blocks), title, subtitle, selection.footer(rows))
    norm = scale_of(rows)
    for number, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), number + 1)
        panel = rows[rows["variant"] == name]
        table = panel.pivot(index="block", columns="halo", values="median_ms")  # noqa: PD010 - a second row must raise
        cells(axes, table.reindex(index=blocks, columns=halos), failures(panel, "block", "halo"), norm, three_digits)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("halo (pixels)")
        axes.set_ylabel("block (pixels)" if number == 0 else "")
    colour_bar(figure, figure.axes[0].collections[0], figure.axes, "training step (ms)")
    return figure

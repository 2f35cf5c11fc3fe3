"""Whole networks: their step against EfficientNet's, their memory, and their images a second over their parameters."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from halobench.figures.labels import Label, place
from halobench.figures.names import SAID, conditions, pair_name, short, with_batch
from halobench.figures.rivals import FUSED, SUITE, ratio_to_written, row_of_rival
from halobench.figures.scale import plain_log
from halobench.figures.selection import NO_BACKEND, Drawn, Selection, measured, mode_order
from halobench.figures.style import INK, WIDEST, Style, canvas, entry, failure_entry, legend, mark_below_edge
from halobench.records.table import OK

RIVAL_LOOKS = {
    "EfficientNet": Style(INK, "o"),
    "EfficientNet, fused normalisation": Style("#4a6fa5", "P"),
    "ResNet": Style("#7a7a7a", "s"),
    "ViT": Style("#7a7a7a", "D"),
    "timm's HaloNet": Style("#8a5a9e", "X"),
}
READ_RATIOS = "Below 1 HaloNet is faster; bars: 95 % intervals"
AT_BEST = "over EfficientNet with fused normalisation; hollow: as timm wrote it"
ASIDE = 0.1  # between the marks of two variants, in places of models


def draw(selection: Selection) -> Drawn:
    """The figures of the pairs, and of inference."""
    pairs = selection.rows(SUITE, "pairs", "training")
    paired = pairs[pairs["rival"].notna()]
    if measured(paired, "ratio").empty:
        yield "ratio", "no training step was taken in turn with a rival's"
    else:
        title = "Training step of HaloNet over EfficientNet's, taken in turn at the same batch"
        yield "ratio", by_model(selection, paired, title, ratios)
    several = len(set(pairs["model"])) > 1
    rivals = selection.rows(SUITE, "accelerate", "training")
    pairs = pd.concat([pairs, rivals[rivals["model"].isin(pairs["rival"])]])  # at their best, and as they were written
    if not several or measured(pairs, "peak_bytes").empty:
        yield "memory", "no training step beside another network's has its memory"
    else:
        title = "Peak memory of a training step, weights and optimizer included"
        yield "memory", by_model(selection, pairs, title, memory)
    if not several or measured(pairs, "images_per_s").empty:
        yield "throughput", "no training step was measured beside another network's"
    else:
        yield "throughput", throughput(selection, pairs)
    inference = selection.rows(SUITE, "inference", "forward")
    paired = inference[inference["rival"].notna()]
    if measured(paired, "ratio").empty:
        yield "inference", "no inference was taken in turn with a rival's"
    else:
        title = "Inference of HaloNet over EfficientNet's, taken in turn at the same batch"
        yield "inference", by_model(selection, paired, title, ratios, by_batch=True)


Fill = Callable[[Axes, Selection, pd.DataFrame, list[str]], list[Label]]


def by_model(selection: Selection, rows: pd.DataFrame, title: str, fill: Fill, *, by_batch: bool = False) -> Figure:
    """A panel a mode (and batch), one below the other, its models from left to right, a line a variant."""
    found = panels(rows, by_batch=by_batch)
    figure = canvas(WIDEST, 1.0 + 3.5 * len(found), title, subtitle(rows, fill), selection.footer(rows))
    labels = []
    for number, (heading, part) in enumerate(found):
        axes = figure.add_subplot(len(found), 1, number + 1, sharey=figure.axes[0] if figure.axes else None)
        names = sorted(part["model"].map(pair_name).unique())
        labels.append((axes, fill(axes, selection, part, names)))
        axes.set_title(heading, fontsize=9)
        several = not by_batch and len(set(rows["batch"].dropna())) > 1
        axes.set_xticks(range(len(names)), [with_batch(part, name) if several else name for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
    return labelled(figure, selection, rows, labels)


def panels(rows: pd.DataFrame, *, by_batch: bool) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each panel below its heading: those of a mode, or of a batch in a mode."""
    modes = sorted(rows["mode"].unique(), key=mode_order)
    if not by_batch:
        return [(mode, rows[rows["mode"] == mode]) for mode in modes]
    found = []
    for mode in modes:
        of = rows[rows["mode"] == mode]
        said = f", {SAID.get(mode, mode)}" if len(modes) > 1 else ""
        found += [(f"batch {batch:g}{said}", part) for batch, part in of.groupby("batch", sort=True)]
    return found


def subtitle(rows: pd.DataFrame, fill: Fill) -> str:
    """At what the rows were measured, and how ratios are read."""
    said = [conditions(rows)]
    if fill is ratios:
        said.append(READ_RATIOS)
        if rows["rival"].str.startswith(FUSED).any():
            said.append(f"Compiled: {AT_BEST}")
    return ". ".join(said)


def labelled(
    figure: Figure, selection: Selection, rows: pd.DataFrame, labels: list[tuple[Axes, list[Label]]]
) -> Figure:
    """The figure with its legend, and with the labels of each panel."""
    legend(figure, handles_of(selection, rows))
    figure.draw_without_rendering()  # settles where the panels stand
    for axes, wanted in labels:
        place(axes, wanted)
    return figure


def handles_of(selection: Selection, rows: pd.DataFrame) -> list[Line2D]:
    """The entries of a legend: each variant, and each with what became of it."""
    failed = rows[rows["status"] != OK]
    handles = [entry(look_of(selection, name, rows), name) for name in variants(selection, rows)]
    for name in variants(selection, failed):
        colour = look_of(selection, name, rows).colour
        statuses = sorted(failed.loc[failed["variant"] == name, "status"].unique())
        handles += [failure_entry(status, fate(name, status), colour) for status in statuses]
    return handles


def fate(name: str, status: str) -> str:
    """What a mark of a failure is called."""
    return f"{name}: {status}"


def ratios(axes: Axes, selection: Selection, rows: pd.DataFrame, models: list[str]) -> list[Label]:
    """Paired ratios with their intervals, on a logarithmic axis, the line at one, and the numbers to be written."""
    axes.axhline(1, color=INK, linewidth=1.2)
    axes.set_ylabel("time over the rival's")
    labels = []
    for name, aside in beside(selection, rows):
        colour = look_of(selection, name, rows).colour
        part = lines(axes, selection, rows, name, models, "ratio", aside=aside)
        axes.vlines(part["place"], part["ratio_low"], part["ratio_high"], color=colour, linewidth=1.4)
        written = [ratio_to_written(row, row_of_rival(selection, row)) for _, row in part.iterrows()]
        if any(written):
            axes.plot(part["place"], np.array(written, float), "o", color=colour, fillstyle="none", markersize=5)
        labels += [Label(f"{row['ratio']:.2f}", row["place"], row["ratio"], colour) for _, row in part.iterrows()]
    plain_log(axes, "y")
    axes.margins(y=0.15)  # room for the numbers, and for the marks of failures
    axes.update_datalim([(0, 0.7), (0, 1.25)])  # limits that are set would hold for the panels beside this one, too
    axes.autoscale_view()
    marks(axes, selection, rows, models)
    return labels


def beside(selection: Selection, rows: pd.DataFrame) -> list[tuple[str, float]]:
    """The variants, and how far beside the places of their models each stands: some have exactly the same value."""
    names = variants(selection, rows)
    return [(name, ASIDE * (number - (len(names) - 1) / 2)) for number, name in enumerate(names)]


def memory(axes: Axes, selection: Selection, rows: pd.DataFrame, models: list[str]) -> list[Label]:
    """Peak memory in GiB on a logarithmic axis; lines tell it, no numbers."""
    axes.set_ylabel("peak memory (GiB)")
    for name, aside in beside(selection, rows):
        lines(axes, selection, rows, name, models, "peak_bytes", 2.0**-30, aside)
    plain_log(axes, "y")
    axes.margins(y=0.15)  # room for the marks of failures
    marks(axes, selection, rows, models)
    return []


def lines(
    axes: Axes, selection: Selection, rows: pd.DataFrame, name: str, models: list[str], column: str,
    scale: float = 1.0, aside: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """A variant's values over the models, one each, ``aside`` of their places; the rows drawn, with their ``place``.

    The line is broken where a model was not measured.
    """
    part = measured(rows[rows["variant"] == name], column).drop_duplicates("model").sort_values("model")
    part = part.assign(place=[models.index(pair_name(model)) + aside for model in part["model"]])
    places = [number + aside for number in range(len(models))]
    values = part.set_index("place")[column].reindex(places) * scale
    look = look_of(selection, name, rows)
    axes.plot(places, values, label=name, **look.marked())
    return part


def marks(axes: Axes, selection: Selection, rows: pd.DataFrame, models: list[str]) -> None:
    """What failed, inside the upper edge."""
    failed = rows[rows["status"] != OK]
    for name, aside in beside(selection, rows):
        for _, row in failed[failed["variant"] == name].iterrows():
            at, label = models.index(pair_name(row["model"])) + aside, fate(name, row["status"])
            mark_below_edge(axes, [at], row["status"], label, look_of(selection, name, rows).colour)


def throughput(selection: Selection, rows: pd.DataFrame) -> Figure:
    """Images a second over parameters, a panel a mode, a line a variant; each network named at its fastest."""
    modes = sorted(rows["mode"].unique(), key=mode_order)
    title = "Training throughput over parameters"
    figure = canvas(1.4 + 4.2 * len(modes), 4.8, title, conditions(rows), selection.footer(rows))
    labels = []
    for number, mode in enumerate(modes):
        axes = figure.add_subplot(1, len(modes), number + 1, sharey=figure.axes[0] if figure.axes else None)
        of = rows[rows["mode"] == mode]
        for name in variants(selection, of):
            part, look = over_models(of, name, "images_per_s"), look_of(selection, name, of)
            axes.plot(part["parameters"] / 1e6, part["images_per_s"], label=name, **look.marked())
        fastest = measured(of, "images_per_s").sort_values("images_per_s", ascending=False)
        fastest = fastest.assign(short=fastest["model"].map(short)).drop_duplicates("short")
        looks = [look_of(selection, variant, of).colour for variant in fastest["variant"]]
        places = zip(fastest["short"], fastest["parameters"] / 1e6, fastest["images_per_s"], looks, strict=True)
        labels.append((axes, [Label(*at) for at in places]))
        axes.set_title(mode, fontsize=9)
        axes.set_xlabel("parameters (M)")
        axes.set_ylabel("images a second" if number == 0 else "")
        axes.margins(x=0.12, y=0.08)  # room for the names
        plain_log(axes, "x", "y")
    return labelled(figure, selection, rows, labels)


def over_models(rows: pd.DataFrame, name: str, column: str) -> pd.DataFrame:
    """A variant's values over the parameters of all models of its kind; null breaks a line where it has none."""
    own = rows[rows["variant"] == name]
    kind = rows[rows["backend"] != NO_BACKEND] if (own["backend"] != NO_BACKEND).any() else own
    models = kind.dropna(subset=["parameters"]).drop_duplicates("model").sort_values("parameters")
    values = measured(own, column).drop_duplicates("model").set_index("model")[column]
    return models[["model", "parameters"]].assign(**{column: models["model"].map(values)})


def variants(selection: Selection, rows: pd.DataFrame) -> list[str]:
    """The variants in these rows: rivals first, then backends in the order of legends."""
    order = list(selection.styles)
    pairs = {
        (order.index(backend) if backend != NO_BACKEND else -1, name)
        for backend, name in zip(rows["backend"], rows["variant"], strict=True)
    }
    return [name for _, name in sorted(pairs)]


def look_of(selection: Selection, name: str, rows: pd.DataFrame) -> Style:
    """The look of a variant."""
    if name in selection.styles:
        return selection.styles[name]
    return RIVAL_LOOKS.get(name, selection.styles[str(rows.loc[rows["variant"] == name, "backend"].iloc[0])])

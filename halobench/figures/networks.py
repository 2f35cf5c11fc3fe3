"""Whole networks: their step against EfficientNet's, their memory, and their images a second over their parameters."""

from collections.abc import Callable
from math import inf
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from halobench.figures.heat import latency
from halobench.figures.selection import MODES, NO_BACKEND, Drawn, Selection, measured
from halobench.figures.style import FAINT, INK, Style, canvas, entry, failure_entry, failure_mark, legend
from halobench.records.table import OK, STATUSES

SUITE = "training"
RIVAL_LOOKS = {
    "EfficientNet": Style(INK, "o"),
    "ResNet": Style("#7a7a7a", "s"),
    "ViT": Style("#7a7a7a", "D"),
    "timm's HaloNet": Style("#8a5a9e", "X"),
}

SAID = {"captured": "eager, replayed as a CUDA graph"}
NEAR_OWN: dict[str, Any] = {"xytext": (4, 4), "ha": "left", "va": "bottom"}
NEAR_RIVAL: dict[str, Any] = {"xytext": (-4, -4), "ha": "right", "va": "top"}


def draw(selection: Selection) -> Drawn:
    """The figures of the pairs, and of inference."""
    pairs = selection.rows(SUITE, "pairs", "training")
    paired = pairs[pairs["rival"].notna()]
    if measured(paired, "ratio").empty:
        yield "ratio", "no training step was taken in turn with a rival's"
    else:
        title = "Training step of HaloNet over EfficientNet's, taken in turn at the same batch"
        yield "ratio", by_model(selection, paired, title, ratios, "mode")
    if measured(pairs, "peak_bytes").empty:
        yield "memory", "no training step of a pair has its memory"
    else:
        title = "Peak memory of a training step, weights and optimizer included"
        yield "memory", by_model(selection, pairs, title, memory, "mode")
    if measured(pairs, "images_per_s").empty:
        yield "throughput", "no training step of a pair was measured"
    else:
        yield "throughput", throughput(selection, pairs)
    inference = selection.rows(SUITE, "inference", "forward")
    paired = inference[inference["rival"].notna()]
    if measured(paired, "ratio").empty:
        yield "inference", "no inference was taken in turn with a rival's"
    else:
        title = "Inference of HaloNet over EfficientNet's, taken in turn at the same batch"
        yield "inference", by_model(selection, paired, title, ratios, "batch")


Fill = Callable[[Axes, Selection, pd.DataFrame, list[str]], None]


def by_model(selection: Selection, rows: pd.DataFrame, title: str, fill: Fill, panels: str) -> Figure:
    """A panel a mode (or batch), its models from left to right, a line a variant."""
    values = sorted(rows[panels].dropna().unique(), key=MODES.index if panels == "mode" else None)
    shown = [rows[rows[panels] == value] for value in values]
    models = [sorted(part["model"].map(pair_name).unique()) for part in shown]
    widths = [max(3.2, 0.9 * len(names)) for names in models]
    figure = canvas(max(7.5, 2.2 + sum(widths)), 4.6, title, conditions(rows), selection.footer(rows))
    grid = figure.add_gridspec(1, len(values), width_ratios=widths)
    for number, (value, part, names) in enumerate(zip(values, shown, models, strict=True)):
        axes = figure.add_subplot(grid[number], sharey=figure.axes[0] if figure.axes else None)
        fill(axes, selection, part, names)
        axes.set_title(value if panels == "mode" else f"batch {value:g}", fontsize=9)
        several = panels == "mode" and len(set(rows["batch"].dropna())) > 1
        ticks = [with_batch(part, name) if several else name for name in names]
        axes.set_xticks(range(len(names)), ticks, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(names) - 0.5)
        if number:
            axes.set_ylabel("")
    failures = rows[rows["status"] != OK]
    handles = [entry(look_of(selection, name, rows), name) for name in variants(selection, rows)]
    legend(figure, [*handles, *[failure_entry(status) for status in STATUSES if status in set(failures["status"])]])
    return figure


def ratios(axes: Axes, selection: Selection, rows: pd.DataFrame, models: list[str]) -> None:
    """Paired ratios with their intervals, on a logarithmic axis, and the line at one."""
    axes.axhline(1, color=INK, linewidth=1.2)
    axes.set_ylabel("time over the rival's")
    drawn = []
    for name in variants(selection, rows):
        colour = look_of(selection, name, rows).colour
        part = lines(axes, selection, rows, name, models, "ratio").assign(colour=colour)
        axes.vlines(part["place"], part["ratio_low"], part["ratio_high"], color=colour, linewidth=1.4)
        drawn.append(part)
    for _, of in pd.concat(drawn).groupby("place"):
        numbers(axes, of)
    plain_log(axes, (1, 1.2, 1.5, 2, 3, 5, 8))
    axes.margins(y=0.1)  # room for the numbers
    axes.update_datalim([(0, 0.7), (0, 1.25)])  # limits that are set would hold for the panels beside this one, too
    axes.autoscale_view()
    marks(axes, selection, rows, models)


def numbers(axes: Axes, rows: pd.DataFrame) -> None:
    """The ratios of a pair in their colours, each on that side of its interval where more room is."""
    spans = [(1.0, 1.0), *zip(rows["ratio_low"], rows["ratio_high"], strict=True)]  # the line at one is in the way, too
    for _, row in rows.iterrows():
        low, high, value = row["ratio_low"], row["ratio_high"], row["ratio"]
        others = [span for span in spans if span != (low, high)]
        room_above = min((start / high for start, end in others if end > value), default=inf)
        room_below = min((low / end for start, end in others if start <= value), default=inf)
        end, away = (high, 7) if room_above > room_below else (low, -12)
        text = axes.annotate(
            f"{value:.2f}", (row["place"], end), (0, away), textcoords="offset points", size=7, ha="center",
            color=row["colour"],
        )  # fmt: skip
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])  # lines may run behind


def memory(axes: Axes, selection: Selection, rows: pd.DataFrame, models: list[str]) -> None:
    """Peak memory in GiB on a logarithmic axis; variants beside one another, since some need exactly the same."""
    axes.set_ylabel("peak memory (GiB)")
    names = variants(selection, rows)
    for number, name in enumerate(names):
        aside = 0.04 * (number - (len(names) - 1) / 2)
        lines(axes, selection, rows, name, models, "peak_bytes", 2.0**-30, aside)
    plain_log(axes)
    marks(axes, selection, rows, models)


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
    axes.plot(places, values, color=look.colour, marker=look.marker, markersize=6, label=name)
    return part


def marks(axes: Axes, selection: Selection, rows: pd.DataFrame, models: list[str]) -> None:
    """What failed, at the upper edge."""
    failed = rows[rows["status"] != OK]
    for number, (_, row) in enumerate(failed.iterrows()):
        colour = look_of(selection, row["variant"], rows).colour
        place = models.index(pair_name(row["model"])) + 0.08 * (number % 5 - 2)
        axes.plot([place], [0.98], transform=axes.get_xaxis_transform(), **failure_mark(row["status"], colour))


def throughput(selection: Selection, rows: pd.DataFrame) -> Figure:
    """Images a second over parameters, a panel a mode, a line a variant; each network named at its fastest."""
    modes = sorted(rows["mode"].unique(), key=MODES.index)
    title = "Training throughput over parameters"
    figure = canvas(1.4 + 4.2 * len(modes), 4.4, title, conditions(rows), selection.footer(rows))
    for number, mode in enumerate(modes):
        axes = figure.add_subplot(1, len(modes), number + 1, sharey=figure.axes[0] if figure.axes else None)
        of = rows[rows["mode"] == mode]
        for name in variants(selection, of):
            part = measured(of[of["variant"] == name], "images_per_s").sort_values("parameters")
            look = look_of(selection, name, of)
            axes.plot(part["parameters"] / 1e6, part["images_per_s"], color=look.colour, marker=look.marker, label=name)
        fastest = measured(of, "images_per_s").sort_values("images_per_s", ascending=False)
        for _, row in fastest.assign(short=fastest["model"].map(short)).drop_duplicates("short").iterrows():
            place = (row["parameters"] / 1e6, row["images_per_s"])
            aside = NEAR_RIVAL if row["backend"] == NO_BACKEND else NEAR_OWN  # both may be at one place
            axes.annotate(row["short"], place, textcoords="offset points", size=7, color=FAINT, **aside)
        axes.set_title(mode, fontsize=9)
        axes.set_xlabel("parameters (M)")
        axes.set_ylabel("images a second" if number == 0 else "")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.15, y=0.08)  # room for the names
        plain_log(axes)
    legend(figure, [entry(look_of(selection, name, rows), name) for name in variants(selection, rows)])
    return figure


def plain_log(axes: Axes, steps: tuple[float, ...] = (1, 2, 5)) -> None:
    """A logarithmic y axis with plain numbers at these steps of each decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: latency(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


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


def pair_name(model: str) -> str:
    """The pair that a model belongs to, such as ``H1 : B1``; its own name where it has no number."""
    number = short(model)[1:]
    return f"H{number} : B{number}" if number.isdigit() else model


def short(model: str) -> str:
    """H1 for ``halonet_h1``, B1 for ``efficientnet_b1``; else the name."""
    last = model.rpartition("_")[2]
    return last.upper() if last[:1] in ("h", "b") and last[1:].isdigit() else model


def with_batch(rows: pd.DataFrame, name: str) -> str:
    """The name of a pair, and below it at what batch it was measured."""
    batches = rows.loc[rows["model"].map(pair_name) == name, "batch"].dropna().unique()
    return f"{name}\nbatch {'/'.join(f'{batch:g}' for batch in sorted(batches))}" if len(batches) else name


def conditions(rows: pd.DataFrame) -> str:
    """The batches and the images' sides of all rows, and their mode if it is one, for a subtitle."""
    sides = "/".join(f"{side}" for side in sorted(rows["side"].unique()))
    modes = [SAID.get(mode, mode) for mode in rows["mode"].unique()]
    parts = [f"batch {batches_of(rows)}", *(modes if len(modes) == 1 else []), "channels-last"]
    return ", ".join([*parts, f"images of side {sides}"])


def batches_of(rows: pd.DataFrame) -> str:
    """The batches of all rows; where each pair has one of its own, with the HaloNets of each batch."""
    known = rows.dropna(subset="batch").assign(own=rows["model"].map(lambda model: pair_name(model).split(" : ")[0]))
    batches = sorted(known["batch"].unique())
    if len(batches) < 2 or (known.groupby("own")["batch"].agg(["min", "max"]).diff(axis=1)["max"] > 0).any():
        return "/".join(f"{batch:g}" for batch in batches)
    named = {batch: sorted(known.loc[known["batch"] == batch, "own"].unique()) for batch in reversed(batches)}
    return ", ".join(f"{batch:g} ({', '.join(names)})" for batch, names in named.items())

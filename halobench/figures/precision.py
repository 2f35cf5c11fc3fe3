"""What training runs of detectors leave behind: COCO's average precision of boxes and masks.

Published differences: Vaswani et al., CVPR 2021, table 5, on COCO.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from halobench.figures.curves import FOLDER, footer, named, of_models, read
from halobench.figures.detection import DETECTOR, TABLE
from halobench.figures.selection import Drawn
from halobench.figures.style import WIDEST, canvas, legend

NAME = "precision.csv"
COLUMNS = ("model", "backend", "seed", "machine", "epoch", "seconds", "train_loss", "ap_box", "ap_mask")
KINDS = {"ap_box": "AP of boxes", "ap_mask": "AP of masks"}


def draw(folder: Path) -> Drawn:
    """The figure of the runs below ``folder``/curves, where there are any."""
    runs = tested(folder)
    if not runs.empty:
        yield "precision", over_epochs(runs)


def tested(folder: Path) -> pd.DataFrame:
    """The epochs of all runs below ``folder``/curves that were tested; precisions are shares of one."""
    runs = read(folder / FOLDER, NAME, COLUMNS)
    return runs.dropna(subset=list(KINDS))


def over_epochs(runs: pd.DataFrame) -> Figure:
    """Precision of boxes and of masks over epochs; a line a run, a colour a model."""
    subtitle = "COCO's average precision over IoU from 0.5 to 0.95; every line is one run, the seeds share a colour"
    figure = canvas(WIDEST, 4.2, "Training runs of Mask R-CNN", subtitle, footer(runs))
    colours = of_models(runs)
    for number, (column, label) in enumerate(KINDS.items()):
        axes = figure.add_subplot(1, 2, number + 1)
        for _, run in runs.groupby("run", sort=True):
            part, model = run.sort_values("epoch"), named(run).iloc[0]
            look: dict[str, Any] = {
                "color": colours[model],
                "marker": ".",
                "linewidth": 1.3,
                "alpha": 0.85,
                "label": model,
            }
            axes.plot(part["epoch"], 100 * part[column], **look)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, [Line2D([], [], color=colour, marker=".", label=name) for name, colour in colours.items()])
    return figure


def at_the_end(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a model and backend: how many runs, mean and spread (half the range) of their last precisions, seconds.

    In the order of the published table.
    """
    last = runs.sort_values("epoch").groupby("run").tail(1)
    found = []
    for (model, backend), of in last.groupby(["model", "backend"], sort=True):
        row = {"model": model, "backend": backend, "runs": len(of), "epochs": span(of["epoch"])}
        for column in KINDS:
            row[column] = 100 * of[column].mean()
            row[f"{column}_spread"] = 50 * (of[column].max() - of[column].min())
        found.append(row | {"seconds": of["seconds"].median()})
    order = {name: place for place, name in enumerate(TABLE)}
    places = [order.get(str(row["model"]).removeprefix(DETECTOR), len(order)) for row in found]
    return pd.DataFrame([row for _, row in sorted(zip(places, found, strict=True), key=lambda pair: pair[0])])


def span(epochs: "pd.Series[int]") -> str:
    """The last epochs of runs: one number, or from where to where."""
    first, last = epochs.min(), epochs.max()
    return f"{last}" if first == last else f"{first} to {last}"


def base_of(model: str) -> str | None:
    """The detector whose backbone the model's changes in one thing, by the published table."""
    own = TABLE.get(model.removeprefix(DETECTOR))
    return None if own is None or own.base is None else DETECTOR + own.base


def published_gain(model: str, base: str, column: str) -> float:
    """By how much the published precision is above that of ``base``."""
    own, other = (TABLE[name.removeprefix(DETECTOR)] for name in (model, base))
    return own.boxes - other.boxes if column == "ap_box" else own.masks - other.masks

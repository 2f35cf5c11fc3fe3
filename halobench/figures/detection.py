"""Mask R-CNN on six backbones: times over those of ResNet-50 beside the published ones, and where a step's time goes.

Published figures: Vaswani et al., CVPR 2021, table 5, on TPUv3: of the backbone alone, and of the whole training.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from halobench.figures.names import SAID, conditions
from halobench.figures.published import Group, bars, finish
from halobench.figures.selection import MODES, NO_BACKEND, Drawn, Selection, measured
from halobench.figures.style import WIDEST, canvas, legend

SUITE = "detection"
DETECTOR = "maskrcnn_"  # begins the names of detectors
PARTS = ("preparation", "backbone", "pyramid", "heads", "postprocessing", "backward", "optimizer")


@dataclass(frozen=True)
class Published:
    """A line of the published table: speed of the backbone in ms, hours of training, AP of boxes and masks.

    ``base`` is the backbone that it changes in one thing.
    """

    label: str
    speed_ms: float
    training_h: float
    boxes: float
    masks: float
    base: str | None = None


RIVAL = "resnet50"
TABLE = {
    RIVAL: Published("R50", 409, 14.6, 42.1, 37.7),
    "seresnet50": Published("R50 + SE", 446, 15.2, 44.5, 39.6, RIVAL),
    "seresnet50_halo_b8": Published("R50 + SE + LA (8)", 540, 15.8, 45.2, 40.3, "seresnet50"),
    "seresnet50_halo_b32": Published("R50 + SE + LA (32)", 613, 16.5, 45.4, 40.5, "seresnet50"),
    "seresnet101": Published("R101 + SE", 740, 17.9, 45.9, 40.6, "seresnet50"),
    "seresnet101_halo_b8": Published("R101 + SE + LA (8)", 799, 18.4, 46.8, 41.2, "seresnet101"),
}


def published_ratio(model: str, group: str) -> float | None:
    """The published time over ResNet-50's, of the backbone (group ``backbone``) or of training (``steps``)."""
    own, rival = TABLE.get(model.removeprefix(DETECTOR)), TABLE[RIVAL]
    if own is None or group not in ("backbone", "steps"):
        return None
    return own.speed_ms / rival.speed_ms if group == "backbone" else own.training_h / rival.training_h


def draw(selection: Selection) -> Drawn:
    """The figures of the detection suite, where anything of it was measured."""
    titles = {
        "backbone": "Forward pass of the backbone alone over ResNet-50's, taken in turn",
        "inference": "Inference of Mask R-CNN over that on ResNet-50, taken in turn",
        "steps": "Training step of Mask R-CNN over that on ResNet-50, taken in turn",
    }
    for group, title in titles.items():
        rows = selection.rows(SUITE, group)
        if not rows.empty:
            paired = rows[rows["rival"].notna()]
            none = f"no row of group {group!r} was taken in turn with a rival"
            yield group, none if measured(paired, "ratio").empty else by_backbone(selection, paired, title, group)
    rows = measured(selection.rows(SUITE, "steps"), "backbone_ms")
    if not rows.empty:
        yield "parts", parts(selection, rows)


def by_backbone(selection: Selection, rows: pd.DataFrame, title: str, group: str) -> Figure:
    """A panel for each way to call, batch and kind of proposals, its backbones from left to right."""
    kinds = [(said, part) for said, part in panels(rows) if not measured(part, "ratio").empty]
    figure = canvas(WIDEST, 1.0 + 3.3 * len(kinds), title, conditions(rows), selection.footer(rows))
    for number, (said, part) in enumerate(kinds):
        groups = [
            Group(called(model), published_ratio(model, group), part[part["model"] == model]) for model in ordered(part)
        ]
        axes = figure.add_subplot(len(kinds), 1, number + 1)
        bars(axes, selection, groups, "time over R50's")
        axes.set_title(said, fontsize=9)
    finish(figure, selection, rows)
    return figure


def panels(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Parts of the rows that are called alike, with how."""
    keys = rows.assign(found=rows["proposals"].isna() & rows["model"].str.startswith(DETECTOR))
    for mode in MODES:
        of = keys[keys["mode"] == mode]
        # A case that failed knows no batch: it stands in each panel of its mode.
        for batch in sorted(of["batch"].dropna().unique()):
            for found, part in of[(of["batch"] == batch) | of["batch"].isna()].groupby("found", sort=True):
                own = ", on the proposals that each finds" if found else ""
                yield f"{SAID.get(mode, mode)}, batch {batch:g}{own}", part


def ordered(rows: pd.DataFrame) -> list[str]:
    """The models, in the order of the published table; others behind."""
    order = list(TABLE)

    def place(model: str) -> tuple[int, str]:
        backbone = model.removeprefix(DETECTOR)
        return (order.index(backbone) if backbone in TABLE else len(order), backbone)

    return sorted(rows["model"].unique(), key=place)


def called(model: str) -> str:
    """What a model is called in the published table, or its name."""
    backbone = model.removeprefix(DETECTOR)
    return TABLE[backbone].label if backbone in TABLE else backbone


def parts(selection: Selection, rows: pd.DataFrame) -> Figure:
    """Where the time of a training step goes: a bar a backbone, backend, mode and batch, its parts one on another."""
    lines = [
        row
        for model in ordered(rows)
        for _, row in rows[rows["model"] == model].sort_values(["mode", "batch", "variant"]).iterrows()
    ]
    names = [
        f"{called(row['model'])}{'' if row['backend'] == NO_BACKEND else ', ' + row['backend']}, {row['mode']}, "
        f"batch {row['batch']:g}"
        for row in lines
    ]
    title = "Where the time of an image goes in a training step of Mask R-CNN"
    figure = canvas(WIDEST, 1.6 + 0.3 * len(lines), title, conditions(rows), selection.footer(rows))
    axes = figure.add_subplot()
    begun = np.zeros(len(lines))
    for number, part in enumerate(PARTS):
        times = np.array([row[f"{part}_ms"] / row["batch"] for row in lines], dtype=float)
        if np.isnan(times).all():
            continue
        axes.barh(names, times, left=begun, label=part, color=colormaps["tab10"](number))
        begun += np.nan_to_num(times)
    axes.invert_yaxis()
    axes.set_xlabel("ms an image")
    axes.grid(visible=False, axis="y")
    legend(figure, axes.get_legend_handles_labels()[0])
    return figure

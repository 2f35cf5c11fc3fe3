"""Beside the published tables: training time of H7's hybrids, the transfer models, and the training components.

Published figures: Vaswani et al., CVPR 2021, tables 1 (appendix), 4 and 6, on TPUv3.
"""

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from halobench.figures.names import SAID, conditions
from halobench.figures.networks import look_of, variants
from halobench.figures.rivals import FUSED, SUITE
from halobench.figures.selection import Drawn, Selection, measured
from halobench.figures.style import INK, WIDEST, canvas, legend
from halobench.records.table import OK

PUBLISHED, PUBLISHED_AS = "#bdbdbd", "published, TPUv3"
HYBRIDS = {  # over EfficientNet-B7's training time
    "halonet_h7": ("no convolution", 1.9),
    "halonet_h7_conv1": ("convolution in stage 1", 1.4),
    "halonet_h7_conv12": ("convolution in stages 1-2", 1.0),
    "halonet_h7_conv123": ("convolution in stages 1-2-3", 0.5),
}
TRANSFER = {  # pre-training step in ms; images a second and core at 384 and at 512
    "halonet_h4_128": ("H4 (128)", 377.0, 121.3, 48.6),
    "halonet_h4_128_patch": ("H4 (128, patch stem)", 366.0, 125.7, 56.5),
    "halonet_h4_128_conv12": ("H4 (128, conv in 1-2)", 213.0, 257.6, 120.2),
}
VIT = (445.0, 74.6, 27.4)
TRANSFER_AT = (("training", 256), ("forward", 384), ("forward", 512))  # direction and side of each figure
COMPONENTS = (
    "baseline",
    "LS",
    "LS, RA",
    "SE",
    "SE, SiLU",
    "LS, SE",
    "LS, SE, SiLU",
    "LS, SE, SiLU, RA",
)
ABBREVIATED = "LS: label smoothing, RA: RandAugment, SE: squeeze-and-excitation"
INTERVALS = "Black lines: 95 % intervals"


@dataclass(frozen=True)
class Group:
    """Bars side by side: what they are about, the published value if there is one, and the rows measured."""

    label: str
    published: float | None
    rows: pd.DataFrame


def ratio(model: str, rival: str, direction: str, side: int) -> float | None:
    """The published time over the rival's: of a hybrid's training, of a transfer model's step or inference."""
    if model in HYBRIDS and (rival.removeprefix(FUSED), direction) == ("efficientnet_b7", "training"):
        return HYBRIDS[model][1]
    if model not in TRANSFER or rival != "vit_large_patch16" or (direction, side) not in TRANSFER_AT:
        return None
    column = TRANSFER_AT.index((direction, side))
    _, *figures = TRANSFER[model]
    own, vit = figures[column], VIT[column]
    # A step's ratio is that of times; a speed's ratio is the other way round.
    return own / vit if direction == "training" else vit / own


def draw(selection: Selection) -> Drawn:
    """The figures of groups hybrids, transfer and components."""
    yield "hybrids", hybrids(selection)
    yield "transfer", transfer(selection)
    yield "components", components(selection)


def hybrids(selection: Selection) -> Figure | str:
    """Training time of H7 and its hybrids over EfficientNet-B7's; reduced networks as they are."""
    rows = selection.rows(SUITE, "hybrids", "training")
    if not with_convolutions(measured(rows, "ratio")):
        return "no hybrid was taken in turn with a rival"
    known = [model for model in HYBRIDS if model in set(rows["model"])]
    groups = [Group(HYBRIDS[model][0], HYBRIDS[model][1], rows[rows["model"] == model]) for model in known]
    for label, part in rows[~rows["model"].isin(known)].groupby("label", sort=True):
        groups.append(Group(str(label), None, part))
    rivals = ", ".join(sorted(rows["rival"].dropna().unique()))
    title = f"Training step of the hybrids over that of {rivals}, beside the published training time"
    figure = canvas(
        max(8.5, 2.5 + 1.9 * len(groups)), 4.2, title, f"{conditions(rows)}. {INTERVALS}", selection.footer(rows)
    )
    bars(figure.add_subplot(), selection, groups, f"time over {rivals}'s")
    finish(figure, selection, rows)
    return figure


def with_convolutions(rows: pd.DataFrame) -> bool:
    """Whether there is a hybrid among the rows: the network without convolutions, alone, is a pair like any other."""
    return bool((rows["model"] != next(iter(HYBRIDS))).any())


def transfer(selection: Selection) -> Figure | str:
    """Steps and inference of the H4 of base width 128, as ratios to ViT-L/16: above one is slower."""
    rows = selection.rows(SUITE, "transfer")
    if measured(rows, "ratio").empty:
        return "no transfer model was taken in turn with ViT-L/16"
    title = "H4 (128) over ViT-L/16, time an image"
    titles = ("pre-training step", "inference at 384", "inference at 512")
    figure = canvas(WIDEST, 4.2, title, f"{conditions(rows)}. {INTERVALS}", selection.footer(rows))
    for number, ((direction, side), name) in enumerate(zip(TRANSFER_AT, titles, strict=True)):
        part = rows[(rows["direction"] == direction) & (rows["side"] == side)]
        groups = [
            Group(label, ratio(model, "vit_large_patch16", direction, side), part[part["model"] == model])
            for model, (label, *_) in TRANSFER.items()
        ]
        axes = figure.add_subplot(1, 3, number + 1)
        bars(axes, selection, groups, "time over ViT-L/16's" if number == 0 else "")
        axes.set_title(name, fontsize=9)
    finish(figure, selection, rows[rows["rival"].notna()])
    return figure


def components(selection: Selection) -> Figure | str:
    """What each training component costs, as the step's time over the baseline's of the same family."""
    rows = selection.rows(SUITE, "components", "training")
    if measured(rows, "ratio").empty:
        return "no training component was taken in turn with its baseline"
    # A baseline may belong to an axis too, whose label it has then: it needs none, its ratio is one.
    groups = [Group(label, None, rows[rows["label"] == label]) for label in COMPONENTS[1:]]
    title = "Cost of training components in HaloNet-50 and ResNet-50: the step over the baseline's"
    subtitle = f"{conditions(rows)}{by_mode(rows)}. {INTERVALS}. {ABBREVIATED}"
    figure = canvas(WIDEST, 4.2, title, subtitle, selection.footer(rows))
    bars(figure.add_subplot(), selection, groups, "time over the baseline's")
    finish(figure, selection, rows)
    return figure


def by_mode(rows: pd.DataFrame) -> str:
    """Of rows in several modes, which mode most have, and the labels of those in another, for a subtitle."""
    rows = measured(rows, "ratio")
    usual, *others = rows["mode"].value_counts().index
    labels = [(mode, sorted(rows.loc[rows["mode"] == mode, "label"].unique())) for mode in others]
    said = [f"{SAID.get(mode, mode)} with {' and with '.join(of)}" for mode, of in labels]
    return f", {'; '.join([SAID.get(usual, usual), *said])}" if said else ""


def bars(axes: Axes, selection: Selection, groups: list[Group], label: str) -> None:
    """Ratios as bars, the published one first, with intervals and numbers, and the line at one."""
    order = variants(selection, pd.concat([group.rows for group in groups]))
    names = [[name for name in order if (group.rows["variant"] == name).any()] for group in groups]
    counts = [len(there) + (group.published is not None) for group, there in zip(groups, names, strict=True)]
    width = 0.8 / max(counts)
    for number, (group, there, count) in enumerate(zip(groups, names, counts, strict=True)):
        place = number - width * (count - 1) / 2
        if group.published is not None:
            axes.bar(place, group.published, width * 0.94, color=PUBLISHED, label=PUBLISHED_AS)
            at_foot(axes, place, f"{group.published:.2f}".removesuffix("0"))
            place += width
        for name in there:
            row = group.rows[group.rows["variant"] == name].iloc[0]
            one_bar(axes, row, place, width, look_of(selection, name, group.rows).colour)
            place += width
    axes.axhline(1, color=INK, linewidth=1.2)
    axes.set_xticks(np.arange(len(groups)), [wrapped(group.label) for group in groups], size=8)
    axes.set_ylabel(label)
    spare = max(0, 3 - len(groups)) / 2  # so that a single group has no giant bars
    axes.set_xlim(-0.5 - spare, len(groups) - 0.5 + spare)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.12)


def wrapped(label: str) -> str:
    """A label in short lines, for a place between others."""
    return textwrap.fill(label, 12, break_on_hyphens=False)


def one_bar(axes: Axes, row: "pd.Series[Any]", place: float, width: float, colour: str) -> None:
    """A bar with its interval and its number, or what became of the case."""
    if row["status"] != OK or pd.isna(row["ratio"]):
        said = f"{row['variant']}: {row['status'] if row['status'] != OK else 'no rival'}"
        axes.text(place, 0.02, said, rotation=90, ha="center", va="bottom", size=8, color=INK)
        return
    axes.bar(place, row["ratio"], width * 0.94, color=colour, label=row["variant"])
    axes.vlines(place, row["ratio_low"], row["ratio_high"], color=INK, linewidth=1.1)
    at_foot(axes, place, f"{row['ratio']:.2f}")


def at_foot(axes: Axes, place: float, number: str) -> None:
    """A bar's number, where no interval and no line is in its way."""
    paper = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    place_of = axes.get_xaxis_transform()
    axes.text(place, 0.03, number, transform=place_of, ha="center", va="bottom", size=8, color=INK, bbox=paper)


def finish(figure: Figure, selection: Selection, rows: pd.DataFrame) -> None:
    """The legend."""
    handles = [Patch(color=look_of(selection, name, rows).colour, label=name) for name in variants(selection, rows)]
    legend(figure, [Patch(color=PUBLISHED, label=PUBLISHED_AS), *handles])

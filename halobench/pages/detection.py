"""Detection as a table of pages: times over those on ResNet-50, beside the published ones."""

from collections.abc import Sequence

import pandas as pd

from halobench.figures.detection import SUITE, called, ordered, panels, published_ratio
from halobench.figures.selection import NO_BACKEND, Selection, measured
from halobench.pages.networks import times_as, with_source

GROUPS = {"backbone": "backbone", "inference": "inference", "steps": "training step"}


def ratios(chosen: Sequence[Selection]) -> str:
    """A line for each backbone and backend, a column for each way to call; published ratios beside their like."""
    made = []
    for one in chosen:
        rows = measured(one.rows(SUITE), "ratio")
        if not rows.empty:
            made.append(with_source(*table(rows), one, rows))
    return "\n\n".join(made) or "*Nothing of it is among the published results yet.*"


def table(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and lines."""
    columns: list[tuple[str, str, pd.DataFrame | None]] = []
    for group, said in GROUPS.items():
        of = rows[rows["groups"].str.split().map(lambda groups, group=group: group in groups)]
        columns += [(group, f"{said}, {how}", part) for how, part in panels(of)]
        if group != "inference" and not of.empty:
            columns.append((group, f"published, {said.replace('step', 'time')}", None))
    backbones = rows.assign(backbone=rows["model"].str.removeprefix("maskrcnn_"))
    kinds = backbones[["backbone", "variant", "backend"]].drop_duplicates()
    lines = []
    for backbone in ordered(kinds.rename(columns={"backbone": "model"})):
        for _, kind in kinds[kinds["backbone"] == backbone].sort_values("variant").iterrows():
            name = called(backbone) + ("" if kind["backend"] == NO_BACKEND else f", `{kind['variant']}`")
            lines.append([name, *(cell(backbone, kind["variant"], group, part) for group, _, part in columns)])
    return ["", *(said for _, said, _ in columns)], lines


def cell(backbone: str, variant: str, group: str, part: pd.DataFrame | None) -> str:
    """A measured ratio, the published one where there is no ``part``, or a dash."""
    if part is None:
        ratio = published_ratio(backbone, group)
        return "-" if ratio is None else f"{ratio:.2f}"
    of = part[(part["model"].str.removeprefix("maskrcnn_") == backbone) & (part["variant"] == variant)]
    return "-" if of.empty else times_as(of.iloc[0])

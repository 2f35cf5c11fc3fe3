"""Training runs of detectors as a table of a page: precisions with their spread, beside the published gains."""

from pathlib import Path
from typing import Any

import pandas as pd

from halobench.figures.curves import FOLDER, footer
from halobench.figures.detection import called
from halobench.figures.precision import KINDS, NAME, at_the_end, base_of, published_gain, tested
from halobench.figures.selection import NO_BACKEND
from halobench.figures.summary import markdown


def table(folder: Path) -> str:
    """A line a model and backend: its runs; of boxes and of masks precision, gain over its base, and that published.

    The base of a backbone is the one that it changes in one thing.
    """
    runs = tested(folder)
    if runs.empty:
        return "*No run of it is among the published results yet.*"
    rows = at_the_end(runs)
    lines = []
    for _, row in rows.iterrows():
        name = called(row["model"]) + ("" if row["backend"] == NO_BACKEND else f", `{row['backend']}`")
        base = base_of(row["model"])
        cells = [cell for column in KINDS for cell in cells_of(row, base, rows, column)]
        over = "-" if base is None else called(base)
        lines.append([name, f"{row['runs']}", row["epochs"], over, *cells, f"{row['seconds']:.0f} s"])
    kinds = [head for said in KINDS.values() for head in (said, "gain", "published")]
    source = f"*{footer(runs)}; from results/{FOLDER}/, all tables called {NAME}. Means and half ranges of runs.*"
    return f"{markdown(['backbone', 'runs', 'epochs', 'compared with', *kinds, 'a run'], lines)}\n\n{source}"


def cells_of(row: "pd.Series[Any]", base: str | None, rows: pd.DataFrame, column: str) -> list[str]:
    """A precision with its spread, its gain over the base's where that was trained, and the published gain."""
    said = f"{row[column]:.1f} ± {row[f'{column}_spread']:.1f}"
    if base is None:
        return [said, "-", "-"]
    there = rows.loc[rows["model"] == base, column]
    gain = "-" if there.empty else f"{row[column] - there.mean():+.1f}"
    return [said, gain, f"{published_gain(row['model'], base, column):+.1f}"]

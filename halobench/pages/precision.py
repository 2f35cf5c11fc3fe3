"""Training runs of detectors as a table of a page: precisions with their spread, beside the published differences."""

from pathlib import Path
from typing import Any

import pandas as pd

from halobench.figures.curves import FOLDER, footer
from halobench.figures.detection import DETECTOR, RIVAL, called
from halobench.figures.precision import KINDS, NAME, at_the_end, published_gain, tested
from halobench.figures.selection import NO_BACKEND
from halobench.figures.summary import markdown


def table(folder: Path) -> str:
    """A line a model and backend: its runs; of boxes and of masks precision, gain over R50, and the published gain."""
    runs = tested(folder)
    if runs.empty:
        return "*No run of it is among the published results yet.*"
    rows = at_the_end(runs)
    rival = rows[rows["model"] == DETECTOR + RIVAL]
    lines = []
    for _, row in rows.iterrows():
        name = called(row["model"]) + ("" if row["backend"] == NO_BACKEND else f", `{row['backend']}`")
        cells = [cell for column in KINDS for cell in cells_of(row, rival, column)]
        lines.append([name, f"{row['runs']}", f"{row['epochs']}", *cells, f"{row['seconds']:.0f} s"])
    kinds = [head for said in KINDS.values() for head in (said, "over R50", "published")]
    source = f"*{footer(runs)}; from results/{FOLDER}/, all tables called {NAME}. Means and half ranges of runs.*"
    return f"{markdown(['backbone', 'runs', 'epochs', *kinds, 'a run'], lines)}\n\n{source}"


def cells_of(row: "pd.Series[Any]", rival: pd.DataFrame, column: str) -> list[str]:
    """A precision with its spread, its gain over ResNet-50's where that was trained, and the published gain."""
    gain = "-" if rival.empty else f"{row[column] - rival[column].iloc[0]:+.1f}"
    published = published_gain(row["model"], column)
    said = f"{row[column]:.1f} ± {row[f'{column}_spread']:.1f}"
    return [said, gain, "-" if published is None else f"{published:+.1f}"]

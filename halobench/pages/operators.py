"""Operators as tables of pages: the backends at the reference point, and the share of the floor at HaloNet's stages."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from halobench.figures.pairs import milliseconds
from halobench.figures.selection import Selection, commit_of, held, measured
from halobench.figures.summary import markdown
from halobench.records.table import DIRECTIONS

STAGES_BATCH = 64


def reference(chosen: Sequence[Selection]) -> str:
    """The rows that the figure of speed-ups draws, a line a backend, the fastest first."""
    return "\n\n".join(at_reference(one) for one in chosen if not measured(one.reference).empty)


def reference_briefly(chosen: Sequence[Selection]) -> str:
    """Those of the machine that was measured last."""
    return at_reference(latest(chosen))


def latest(chosen: Sequence[Selection]) -> Selection:
    """The machine and dtype whose reference point was measured last."""

    def date(one: Selection) -> str:
        files = set(measured(one.reference)["file"])
        return max((header.datetime or "" for header in one.headers if header.file in files), default="")

    return max(chosen, key=date)


def at_reference(one: Selection) -> str:
    """The table of one machine and dtype, and what it was measured on."""
    rows = measured(one.reference)
    both = {way: rows[rows["direction"] == way].set_index("variant") for way in DIRECTIONS}
    names = both["forward"].sort_values("median_ms").index
    head = ["backend", "forward", "training", "peak memory, training", "share of the floor, forward / training"]
    lines = []
    for name in names:
        forward, training = both["forward"].loc[name], both["training"].loc[name]
        memory, shares = f"{training['peak_bytes'] / 2**20:.0f} MiB", f"{share(forward)} / {share(training)} %"
        times = (milliseconds(row["median_ms"]) for row in (forward, training))
        lines.append([f"`{name}`", *times, memory, shares])
    return f"{markdown(head, lines)}\n\n*{held(rows)}. {measured_on(one, rows)}*"


def stages(chosen: Sequence[Selection]) -> str:
    """The share of the floor at every stage, of the fastest attention there: forward / training in per cent."""
    return "\n\n".join(of_stages(one) for one in chosen if not stage_rows(one).empty)


def of_stages(one: Selection) -> str:
    """A line a network, a column a stage."""
    rows = stage_rows(one)
    best = rows.sort_values("median_ms").drop_duplicates(["network", "stage", "direction"])
    numbers = sorted(best["stage"].unique())
    lines = []
    for (network, block, halo), of in best.groupby(["network", "block", "halo"], sort=True):
        line = [f"{network}, block {block}, halo {halo}"]
        for number in numbers:
            by = of[of["stage"] == number].set_index("direction")
            line.append(" / ".join(share(by.loc[way]) for way in DIRECTIONS if way in by.index))
        lines.append(line)
    backends = ", ".join(f"`{name}`" for name in sorted(best["variant"].unique()))
    head = ["", *(f"stage {number}" for number in numbers)]
    return f"{markdown(head, lines)}\n\n*{backends}, batch {STAGES_BATCH}. {measured_on(one, best)}*"


def stage_rows(one: Selection) -> pd.DataFrame:
    """The attention of the stages, with ``network`` and ``stage`` apart."""
    rows = measured(one.rows("operator", "stages"), "floor_share")
    rows = rows[(rows["batch"] == STAGES_BATCH) & (rows["backend"] != "conv")]
    parts = rows["label"].str.extract(r"^(\w+) stage (\d+)$")
    return rows.assign(network=parts[0], stage=parts[1]).dropna(subset=["network"])


def share(row: "pd.Series[Any]") -> str:
    """The share of the floor in per cent, without a unit."""
    value = 100 * row["floor_share"]
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def measured_on(one: Selection, rows: pd.DataFrame) -> str:
    """The machine, and the files of these rows with their commits."""
    by_commit: dict[str, list[str]] = {}
    for header in sorted(one.headers, key=lambda header: header.file):
        if header.file in set(rows["file"]):
            by_commit.setdefault(commit_of(header), []).append(header.file)
    files = "; ".join(f"{', '.join(names)} ({commit})" for commit, names in by_commit.items())
    torch = ", ".join(sorted(set(rows["torch"].dropna())))
    return f"{one.machine}, {one.dtype}, torch {torch}. Medians, from {files}."

"""The numbers as text: all rows in ``summary.csv`` and ``networks.csv``, an extract and failures in ``summary.md``."""

from pathlib import Path
from typing import Any

import pandas as pd

from halobench.figures.bars import with_speedup
from halobench.figures.scale import three_digits
from halobench.figures.scaling import in_order
from halobench.figures.selection import Selection, held
from halobench.records.table import DIRECTIONS, OK, Results


def write(results: Results, chosen: list[Selection], of_networks: list[Selection], output: Path) -> None:
    """Write ``summary.csv``, ``networks.csv`` where there are networks, and ``summary.md`` to the folder ``output``."""
    if of_networks:
        results.networks.to_csv(output / "networks.csv", index=False, lineterminator="\n")
    results.table.to_csv(output / "summary.csv", index=False, lineterminator="\n")
    parts = ["# Summary"]
    for selection in chosen:
        parts += [f"## {selection.machine}, {selection.dtype}", selection.footer(selection.table)]
        parts += [f"{doubt}." for doubt in selection.doubts]
        parts += [*reference(selection), *failures(selection)]
    for selection in of_networks:
        parts += [f"## Networks: {selection.machine}, {selection.dtype}", selection.footer(selection.table)]
        parts += [f"{doubt}." for doubt in selection.doubts]
        rows = selection.table[selection.table["status"] == OK]
        parts += [*([markdown(*network_lines(rows))] if len(rows) else []), *failures(selection)]
    (output / "summary.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def reference(selection: Selection) -> list[str]:
    """The reference point, a line per variant."""
    rows = with_speedup(selection.reference)
    if rows.empty:
        return ["No row belongs to the groups side, block and halo: there is no reference point."]
    head = ("backend", *[f"{name} ms [95 %]" for name in DIRECTIONS], *[f"{name} speed-up" for name in DIRECTIONS])
    head += tuple(f"{name} peak MiB" for name in DIRECTIONS) + tuple(f"{name} share of floor %" for name in DIRECTIONS)
    lines = []
    for name in in_order(selection, rows):
        of = rows[rows["variant"] == name]
        found = [of[of["direction"] == direction] for direction in DIRECTIONS]
        both = [one.iloc[0] if len(one) else None for one in found]
        cells = [column(row) for column in (time, speedup, memory, share) for row in both]
        notes = [f"{row['direction']}: {standing(row)}" for row in both if row is not None and standing(row) != OK]
        lines.append([name, *cells, "; ".join(notes) or OK])
    return [f"### Reference point: {held(rows)}", markdown([*head, "status"], lines)]


def standing(row: "pd.Series[Any]") -> str:
    """A row's status, and what else was at work while it was measured."""
    return f"{row['status']}, {row['disturbed_by']}" if pd.notna(row["disturbed_by"]) else str(row["status"])


def network_lines(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of a table of networks that were measured."""
    head = ["network", "backend", "direction", "batch", "ms [95 %]", "images/s", "peak GiB", "J/image"]
    head += ["first step s", "over its rival [95 %]", "rival"]
    lines = []
    for _, row in rows.sort_values(["direction", "side", "model", "mode", "case"]).iterrows():
        ratio = "-"
        if pd.notna(row["ratio"]):
            ratio = f"{row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"
        lines.append(
            [
                row["case"].rpartition("/")[2],
                row["backend"],
                row["direction"],
                number(row["batch"]),
                time(row),
                number(row["images_per_s"]),
                number(row["peak_bytes"] / 2**30, 3),
                number(row["joules_per_image"], 3),
                number(row["first_step_s"], 3),
                ratio,
                str(row["rival"]) if pd.notna(row["rival"]) else "-",
            ]
        )
    return head, lines


def number(value: float, digits: int = 4) -> str:
    """A number in a few digits, or a dash."""
    return "-" if pd.isna(value) else f"{value:.{digits}g}"


def failures(selection: Selection) -> list[str]:
    """The cases that gave no time, and why."""
    rows = selection.table[selection.table["status"] != OK]
    if rows.empty:
        return ["Every case in these files was measured."]
    columns = ["suite", "variant", "direction", "status", "reason"]
    lines = []
    for values, of in rows.fillna({"reason": ""}).groupby(columns, sort=True):
        lines.append([*[str(value) for value in values], str(len(of)), f"`{of['case'].min()}`"])
    return ["### Cases without a time", markdown([*columns, "cases", "the first"], lines)]


def time(row: "pd.Series[Any] | None") -> str:
    """The median with its interval."""
    if row is None or pd.isna(row["median_ms"]):
        return "-"
    interval = f" [{three_digits(row['low_ms'])}, {three_digits(row['high_ms'])}]" if pd.notna(row["low_ms"]) else ""
    return f"{three_digits(row['median_ms'])}{interval}"


def speedup(row: "pd.Series[Any] | None") -> str:
    """The speed-up over the naive backend."""
    return "-" if row is None or pd.isna(row["speedup"]) else f"{three_digits(row['speedup'])} x"


def memory(row: "pd.Series[Any] | None") -> str:
    """The peak in MiB."""
    return "-" if row is None or pd.isna(row["peak_bytes"]) else f"{row['peak_bytes'] / 2**20:.4g}"


def share(row: "pd.Series[Any] | None") -> str:
    """The share of the floor in per cent."""
    return "-" if row is None or pd.isna(row["floor_share"]) else f"{100 * row['floor_share']:.3g}"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table; what would end a cell or a line in it is escaped."""
    table = [
        head,
        ["---"] * len(head),
        *[[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)

"""The table behind the charts and the list of cases: a row a case, in the units that people read."""

import pandas as pd

from halobench.figures.selection import commit_of, selections, variant
from halobench.results import Header, Results

METRICS = {
    "median_ms": "latency (ms)",
    "host_ms": "host time (ms)",
    "peak_mib": "peak memory (MiB)",
    "floor_percent": "share of the floor (%)",
    "useful_tflops": "useful TFLOP/s",
    "energy_joules": "energy (J)",
}
"""What a chart may draw, with its label. Latency comes first: it is what charts begin with."""
SHOWN = ("case", "variant", "status", "interval", "environment")
"""What hovering shows beside the values."""


def points(results: Results) -> pd.DataFrame:
    """The newest row of each case, machine and dtype: what charts draw."""
    return pd.concat(
        [converted(selection.table, results) for selection in selections(results)] or [every(results).head(0)],
        ignore_index=True,
    )


def every(results: Results) -> pd.DataFrame:
    """All rows of all files."""
    return converted(results.table, results)


def converted(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Rows in readable units, with what hovering shows of them."""
    described = {file: environment(header) for file, header in results.headers.items()}
    intervals = zip(table["low_ms"], table["high_ms"], strict=True)
    task = table["case"].str.split("/", n=3)
    return table.assign(
        variant=[variant(*of) for of in zip(table["backend"], table["border"], table["stride"], strict=True)],
        task=[f"{parts[0]}: {parts[-1]}" for parts in task],
        on=table["machine"] + ", " + table["dtype"],
        side=(table["height"] * table["width"]) ** 0.5,
        peak_mib=table["peak_bytes"] / 2**20,
        closed_form_mib=table["closed_form_bytes"] / 2**20,
        floor_percent=100 * table["floor_share"],
        useful_tflops=table["useful_flops"] / table["median_ms"] * 1e-9,
        useful_gflop=table["useful_flops"] * 1e-9,
        executed_gflop=table["executed_flops"] * 1e-9,
        intensity=table["useful_flops"] / table["useful_bytes"].where(table["useful_bytes"] > 0),
        interval=[f"{low:.4g} to {high:.4g} ms" if pd.notna(low) else "none" for low, high in intervals],
        environment=table["file"].map(described),
    )


def environment(header: Header) -> str:
    """What a file was measured with, in a line."""
    parts = [f"torch {header.torch or 'unknown'}", commit_of(header), f"tier {header.tier}", header.file]
    return ", ".join([*parts, *(["the run did not finish"] if not header.complete else [])])

"""The table behind the charts and the list of cases: a row a case, in the units that people read."""

import pandas as pd

from halobench.figures.selection import commit_of, networks, newest, operators
from halobench.records.table import Header, Results

METRICS = {
    "median_ms": "latency (ms)",
    "host_ms": "host time (ms)",
    "images_per_s": "images a second",
    "peak_mib": "peak memory (MiB)",
    "floor_percent": "share of the floor (%)",
    "useful_tflops": "useful TFLOP/s",
    "energy_joules": "energy (J)",
}
"""What a chart may draw, with its label. Latency comes first: it is what charts begin with."""
SHOWN = ("case", "variant", "status", "interval", "environment")
"""What hovering shows beside the values."""
STEPS = {"training": "training step", "forward": "inference"}
"""What a direction is called where whole networks are meant."""


def points(results: Results) -> pd.DataFrame:
    """The newest row of each case, machine and dtype: what charts draw."""
    return newest(every(results), results)


def every(results: Results) -> pd.DataFrame:
    """All rows of all files, those about networks after the others; ``model`` is null where there is no network."""
    kinds = [operators(results), of_networks(results)]
    columns = list(dict.fromkeys(name for kind in kinds for name in kind.columns))
    rows = pd.concat([kind for kind in kinds if len(kind)] or kinds[:1], ignore_index=True)
    return converted(rows.reindex(columns=columns), results)


def of_networks(results: Results) -> pd.DataFrame:
    """The rows about networks, with numbers where the rows about operators have numbers."""
    rows = networks(results)
    return rows.assign(
        network=[case.rpartition("/")[2] for case in rows["case"]],
        height=rows["side"],
        width=rows["side"],
        block=pd.to_numeric(rows["block"], errors="coerce"),
        halo=pd.to_numeric(rows["halo"], errors="coerce"),
    )


def converted(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Rows in readable units, with what hovering shows of them."""
    described = {file: environment(header) for file, header in results.headers.items()}
    task = table["case"].str.split("/", n=3)
    return table.assign(
        task=[f"{parts[0]}: {parts[-1]}" for parts in task],
        on=table["machine"] + ", " + table["dtype"],
        images_per_s=table["batch"] / table["median_ms"] * 1e3,
        peak_mib=table["peak_bytes"] / 2**20,
        closed_form_mib=table["closed_form_bytes"] / 2**20,
        floor_percent=100 * table["floor_share"],
        useful_tflops=table["useful_flops"] / table["median_ms"] * 1e-9,
        useful_gflop=table["useful_flops"] * 1e-9,
        executed_gflop=table["executed_flops"] * 1e-9,
        intensity=table["useful_flops"] / table["useful_bytes"].where(table["useful_bytes"] > 0),
        interval=intervals(table, "low_ms", "high_ms", " ms"),
        environment=table["file"].map(described),
        commit=table["file"].map({file: commit_of(header) for file, header in results.headers.items()}),
    )


def intervals(table: pd.DataFrame, low: str, high: str, unit: str = "") -> list[str]:
    """The intervals of two columns as text."""
    ends = zip(table[low], table[high], strict=True)
    return [f"{least:.4g} to {most:.4g}{unit}" if pd.notna(least) else "none" for least, most in ends]


def environment(header: Header) -> str:
    """What a file was measured with, in a line."""
    parts = [f"torch {header.torch or 'unknown'}", commit_of(header), f"tier {header.tier}", header.file]
    return ", ".join([*parts, *(["the run did not finish"] if not header.complete else [])])

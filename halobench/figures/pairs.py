"""HaloNet beside EfficientNet in a table: which rows stand for a pair, and what is said of each."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from halobench.figures.names import pair_name
from halobench.figures.networks import SUITE
from halobench.figures.scale import three_digits
from halobench.figures.selection import Selection, measured

HEAD = ("pair", "image sides", "batch", "HaloNet", "EfficientNet", "ratio of times", "of peak memory")


def compiled_pairs(one: Selection) -> pd.DataFrame:
    """The compiled training step of every pair, of the backend that is fastest there, with the name of the ``pair``."""
    rows = measured(one.rows(SUITE, "pairs", "training"), "ratio") if "ratio" in one.table else one.table.iloc[:0]
    rows = rows.assign(pair=rows["model"].map(pair_name))
    best = rows[rows["mode"] == "compiled"].sort_values("median_ms").drop_duplicates("pair")
    return best[best["pair"].astype(str).str.contains(" : ")].sort_values("pair")


def pair_line(one: Selection, row: "pd.Series[Any]", times_as: Callable[["pd.Series[Any]"], str]) -> list[str]:
    """A pair: both times, their paired ratio, and the quotient of both peaks of memory, if the rival has a row too."""
    rivals = measured(one.rows(SUITE, "pairs", "training"), "peak_bytes")
    for name, value in (("model", row["rival"]), ("mode", row["mode"]), ("batch", row["batch"])):
        rivals = rivals[rivals[name] == value]
    sides, memory = f"{row['side']} : -", "-"
    for _, rival in rivals.head(1).iterrows():
        sides, memory = f"{row['side']} : {rival['side']}", f"{row['peak_bytes'] / rival['peak_bytes']:.2f}"
    times = [milliseconds(row[name]) for name in ("median_ms", "rival_ms")]
    return [row["pair"], sides, f"{row['batch']:g}", *times, times_as(row), memory]


def milliseconds(value: float) -> str:
    """A time with its unit."""
    return f"{three_digits(value)} ms"

"""HaloNet beside EfficientNet in a table: which rows stand for a pair, and what is said of each."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from halobench.figures.names import pair_name
from halobench.figures.rivals import FUSED, SUITE, ratio_to_written, row_of_rival
from halobench.figures.scale import three_digits
from halobench.figures.selection import Selection, measured

HEAD = ("pair", "image sides", "batch", "HaloNet", "EfficientNet", "ratio of times", "of peak memory")
HEAD_OF_BOTH = (
    "pair",
    "image sides",
    "batch",
    "HaloNet",
    "EfficientNet as timm wrote it",
    "with fused normalisation",
    "ratio to the faster",
    "to the other",
    "of peak memory",
)
Said = Callable[["pd.Series[Any]"], str]


def compiled_pairs(one: Selection) -> pd.DataFrame:
    """The compiled training step of every pair, of the backend that is fastest there, with the name of the ``pair``."""
    rows = measured(one.rows(SUITE, "pairs", "training"), "ratio") if "ratio" in one.table else one.table.iloc[:0]
    rows = rows.assign(pair=rows["model"].map(pair_name))
    best = rows[rows["mode"] == "compiled"].sort_values("median_ms").drop_duplicates("pair")
    return best[best["pair"].astype(str).str.contains(" : ")].sort_values("pair")


def pair_table(one: Selection, pairs: pd.DataFrame, times_as: Said) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table of pairs. Where there are fused rivals, a rival as it was written has its own place."""
    both = bool(pairs["rival"].str.startswith(FUSED).any())
    lines = [pair_line(one, row, times_as, both=both) for _, row in pairs.iterrows()]
    return list(HEAD_OF_BOTH if both else HEAD), lines


def pair_line(one: Selection, row: "pd.Series[Any]", times_as: Said, *, both: bool) -> list[str]:
    """A pair: both times, their paired ratio, and the quotient of both peaks of memory, if the rival's are known."""
    rival = row_of_rival(one, row)
    side, peak = of_rival(row, rival, "side"), of_rival(row, rival, "peak_bytes")
    sides = f"{row['side']} : {'-' if side is None else f'{side:g}'}"
    memory = "-" if peak is None else f"{row['peak_bytes'] / peak:.2f}"
    start = [row["pair"], sides, f"{row['batch']:g}", milliseconds(row["median_ms"])]
    if both:
        return [*start, *beside_both(row, rival, times_as), memory]
    return [*start, milliseconds(row["rival_ms"]), times_as(row), memory]


def of_rival(row: "pd.Series[Any]", rival: "pd.Series[Any] | None", column: str) -> float | None:
    """A column of the rival's: what the network's own row says of it, or the rival's row, or nothing."""
    own = row.get(f"rival_{column}")
    if not pd.isna(own):
        return float(own)
    return None if rival is None or pd.isna(rival[column]) else float(rival[column])


def beside_both(row: "pd.Series[Any]", rival: "pd.Series[Any] | None", times_as: Said) -> list[str]:
    """The rival's times as timm wrote it and fused, and the ratios to the faster of them and to the other."""
    if not row["rival"].startswith(FUSED):
        return [milliseconds(row["rival_ms"]), "-", times_as(row), "-"]
    to_written = ratio_to_written(row, rival)
    if rival is None or to_written is None:
        return ["-", milliseconds(row["rival_ms"]), times_as(row), "-"]
    times = [milliseconds(rival["rival_ms"]), milliseconds(row["rival_ms"])]
    ratios = [times_as(row), f"{to_written:.2f}"]
    return [*times, *(reversed(ratios) if rival["ratio"] > 1 else ratios)]


def milliseconds(value: float) -> str:
    """A time with its unit."""
    return f"{three_digits(value)} ms"

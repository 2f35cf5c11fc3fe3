"""A rival at its best has a row of its own, in turn with itself as timm wrote it: what that says of a network."""

from typing import Any

import pandas as pd

from halobench.figures.selection import Selection, in_group, measured

SUITE = "training"
FUSED = "fused_"  # begins the name of a network of timm's with our normalisation


def row_of_rival(one: Selection, row: "pd.Series[Any]") -> "pd.Series[Any] | None":
    """The rival's own row, in its mode and at the same batch, if there is one."""
    rows = measured(one.rows(SUITE, direction=row["direction"]), "peak_bytes")
    rows = rows[in_group(rows, "pairs") | in_group(rows, "accelerate")]
    mode = row["mode"] if pd.isna(row["rival_compile_mode"]) else row["rival_compile_mode"]
    for name, value in (("model", row["rival"]), ("mode", mode), ("batch", row["batch"])):
        rows = rows[rows[name] == value]
    return None if rows.empty else rows.iloc[0]


def ratio_to_written(row: "pd.Series[Any]", rival: "pd.Series[Any] | None") -> float | None:
    """A network's time over that of its fused rival as timm wrote it, where that is known.

    The fused rival was taken in turn with the network, and in another turn with itself as timm wrote it; so the ratio
    to that is the product of two.
    """
    if rival is None or pd.isna(rival["ratio"]) or not row["rival"].startswith(FUSED):
        return None
    return float(row["ratio"] * rival["ratio"])

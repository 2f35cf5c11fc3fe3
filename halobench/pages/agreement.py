"""How far the medians of two runs of one commit are apart, as a table of a page."""

import pandas as pd

from halobench.figures.selection import measured
from halobench.figures.summary import markdown
from halobench.records.table import Results

SHORT_MS = 0.05
WITHIN = (0.0025, 0.005, 0.01, 0.02, 0.05)


def table(one: Results, other: Results) -> str:
    """The share of cases whose medians agree within a bound; calls of up to 50 us apart."""
    both = measured(one.table).merge(measured(other.table), on="case", suffixes=("", "_again"))
    apart = (both["median_ms_again"] / both["median_ms"] - 1).abs()
    short = both["median_ms"] <= SHORT_MS
    head = ["medians that agree within", *(f"{100 * bound:g} %" for bound in WITHIN), "cases"]
    lines = [line("over 50 us", apart[~short]), line("shorter", apart[short])]
    files = " and ".join(file for results in (one, other) for file in results.headers)
    return f"{markdown(head, lines)}\n\n*Of {files}.*"


def line(name: str, apart: "pd.Series[float]") -> list[str]:
    """The shares of a group of cases."""
    return [name, *(f"{100 * (apart <= bound).mean():.1f} %" for bound in WITHIN), str(len(apart))]

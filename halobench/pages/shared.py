"""One image on several ranks as tables of pages: times, efficiency, and what the exchange takes."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from halobench.figures.scale import three_digits
from halobench.figures.selection import Selection, measured
from halobench.figures.shared import SUITE, named, ranks
from halobench.figures.summary import markdown
from halobench.pages.operators import measured_on
from halobench.records.table import DIRECTIONS

PLACE = ["subject", "side", "ranks", "grid"]


def table(chosen: Sequence[Selection]) -> str:
    """Of every machine and dtype a line for each layer and map, or network and image, and number of ranks.

    Both directions stand beside one another.
    """
    columns: list[str] = []
    for way in DIRECTIONS:
        columns += [f"{way}, one rank (ms)", "several (ms)", "efficiency", "exchange alone / exposed (µs)"]
    made = []
    for one in chosen:
        rows = measured(one.rows(SUITE))
        if not rows.empty:
            places = ["network", "side of the image"] if "model" in rows else ["layer", "side of the map"]
            head = [*places, "ranks", *columns]
            made.append(f"{markdown(head, [*lines(named(rows))])}\n\n*{measured_on(one, rows)}*")
    return "\n\n".join(made)


def lines(rows: pd.DataFrame) -> Iterator[list[str]]:
    """The lines, by layer and map; without a time of one rank there is nothing to say of several."""
    single = rows[rows["ranks"] == 1].rename(columns={"median_ms": "single_ms"})
    both = rows[rows["ranks"] > 1].merge(single[["subject", "side", "direction", "single_ms"]])
    for _, part in both.groupby(PLACE, dropna=False):
        first, by_way = part.iloc[0], {row["direction"]: row for _, row in part.iterrows()}
        line = [first["subject"], f"{first['side']:g}", ranks(first).removesuffix(" ranks")]
        for way in DIRECTIONS:
            line += cells(by_way[way]) if way in by_way else ["-"] * 4
        yield line


def cells(row: "pd.Series[Any]") -> list[str]:
    """A direction of a line."""
    times = three_digits(row["single_ms"]), three_digits(row["median_ms"])
    exchange = f"{1e3 * row['communication_ms']:.0f} / {1e3 * row['exposed_ms']:.0f}"
    return [*times, f"{row['efficiency']:.0%}", exchange]

"""Training steps with a part of the batch on each rank as a table of pages: times, efficiency, and the all-reduce."""

from collections.abc import Iterator, Sequence

import pandas as pd

from halobench.figures.ranks import SUITE
from halobench.figures.scale import three_digits
from halobench.figures.selection import NO_BACKEND, Selection, measured
from halobench.pages.networks import with_source

HEAD = [
    "network", "scaling", "ranks", "images of all", "one rank (ms)", "several (ms)", "efficiency",
    "all-reduce alone / exposed (µs)",
]  # fmt: skip
KEYS = ["model", "backend", "mode", "file"]  # points of other files took no turns with these


def table(chosen: Sequence[Selection]) -> str:
    """Of every machine and dtype a line for each network, kind of scaling and number of ranks."""
    made = []
    for one in chosen:
        rows = measured(one.rows(SUITE), "efficiency")
        found = [*lines(rows)]
        if found:
            made.append(with_source(HEAD, found, one, rows))
    return "\n\n".join(made)


def lines(rows: pd.DataFrame) -> Iterator[list[str]]:
    """The lines, by network, kind of scaling and ranks; one rank's step is of both kinds."""
    single = rows[rows["ranks"] == 1].rename(columns={"median_ms": "single_ms"})
    several = rows[rows["ranks"] > 1].merge(single[[*KEYS, "single_ms"]])
    for _, row in several.sort_values([*KEYS, "scaling", "ranks"]).iterrows():
        name = [row["model"], *([] if row["backend"] == NO_BACKEND else [row["backend"]]), row["mode"]]
        name += ["flat"] if row["gradients"] == "flat" else []
        interval = f"[{row['efficiency_low']:.1%}, {row['efficiency_high']:.1%}]"
        yield [
            ", ".join(name), row["scaling"], f"{row['ranks']:g}", f"{row['batch']:g}",
            three_digits(row["single_ms"]), three_digits(row["median_ms"]),
            f"{row['efficiency']:.1%} {interval}",
            f"{1e3 * row['communication_ms']:.0f} / {1e3 * row['exposed_ms']:.0f}",
        ]  # fmt: skip

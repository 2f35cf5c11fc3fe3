"""What a run says in a sentence for each machine and dtype, and the table behind it."""

from dataclasses import dataclass

import pandas as pd

from halobench.figures.bars import with_speedup
from halobench.figures.selection import Selection, held, in_group, measured, network_selections, selections
from halobench.figures.summary import memory, network_lines, number, share, speedup, time
from halobench.records.table import DIRECTIONS, Results
from halobench.report.points import STEPS
from halobench.report.tables import Plain
from halobench.wording import times_as

FLOOR = (
    "Medians with their 95 % intervals. The floor is the least time in which the machine could do the useful work at "
    "the best rates measured in the same run."
)
PAIRED = (
    "Medians with their 95 % intervals. The steps of a network and of its rival are taken in turn, at the same batch "
    "and in the same mode; the ratio is the median over these pairs, above one where the rival is faster."
)


@dataclass(frozen=True)
class Headline:
    """A sentence, the table behind it, and how to read it."""

    sentence: str
    table: Plain
    note: str


def headlines(results: Results) -> list[Headline]:
    """For each machine and dtype, what its reference point says, then where its networks stand against their rivals."""
    at_reference = [of_reference(one) for one in selections(results) if not one.reference.empty]
    return at_reference + [of_networks(one) for one in network_selections(results) if not measured(one.table).empty]


def of_reference(one: Selection) -> Headline:
    """The backends at the reference point."""
    rows = with_speedup(one.reference)
    kinds = ("ms", "speed-up", "peak MiB", "% of floor")
    head = ["backend", *(f"{way} {what}" for what in kinds for way in DIRECTIONS)]
    lines = []
    for name, of in rows.groupby("variant", sort=True):
        both = [next((row for _, row in of[of["direction"] == way].iterrows()), None) for way in DIRECTIONS]
        lines.append([str(name), *(column(row) for column in (time, speedup, memory, share) for row in both)])
    note = " ".join([FLOOR, *(f"{doubt}." for doubt in one.doubts)])
    return Headline(fastest(rows), Plain(f"{one.machine}, {one.dtype}: {held(rows)}", head, lines), note)


def fastest(rows: pd.DataFrame) -> str:
    """The fastest attention of each direction at the reference point, in words."""
    parts = []
    for way in DIRECTIONS:
        timed = measured(rows[(rows["direction"] == way) & (rows["backend"] != "conv")])
        if timed.empty:
            continue
        best = timed.sort_values("median_ms").iloc[0]
        than = f", {best['speedup']:.3g} x the speed of naive_unfold" if pd.notna(best["speedup"]) else ""
        of = f", {100 * best['floor_share']:.2g} % of what the machine allows" if pd.notna(best["floor_share"]) else ""
        parts.append(f"{way}: {best['variant']} is fastest with {time(best)} ms{than}{of}")
    return "; ".join(parts) or "no case of the reference point has a time"


def of_networks(one: Selection) -> Headline:
    """The networks beside their rivals: the pairs, or what else was measured in turn; else all that were measured."""
    paired = measured(one.table, "ratio")
    pairs = paired[in_group(paired, "pairs")]
    rows = next(rows for rows in (pairs, paired, measured(one.table)) if not rows.empty)
    keys = ["direction", "model", "side", "batch"]
    best = rows.sort_values("median_ms").drop_duplicates(keys).sort_values(keys)
    head, lines = network_lines(best)
    return Headline(
        standing(best), Plain(f"{one.machine}, {one.dtype}: the fastest of each network", head, lines), PAIRED
    )


def standing(best: pd.DataFrame) -> str:
    """How the fastest step of each network compares with its rival's, in words."""
    parts = []
    for way in DIRECTIONS:
        said = [
            f"{row['model']} takes {times_as(row['ratio'], 'long')} {row['rival']} ({row['variant']}, "
            f"{row['mode']}, batch {number(row['batch'])}, side {row['side']})"
            for _, row in measured(best[best["direction"] == way], "ratio").iterrows()
        ]
        if said:
            parts.append(f"{STEPS[way]}: {', '.join(said)}")
    return "; ".join(parts) or "no network was measured in turn with a rival"

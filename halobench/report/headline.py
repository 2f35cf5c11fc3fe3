"""What a run says first, for each machine and dtype: a picture, and the table behind it."""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import pandas as pd

from halobench.figures import bars, networks
from halobench.figures.bars import with_speedup
from halobench.figures.pairs import compiled_pairs, pair_table
from halobench.figures.selection import Drawn, Selection, held, measured, network_selections, selections
from halobench.figures.style import look, png
from halobench.figures.summary import memory, network_lines, share, speedup, time
from halobench.records.table import DIRECTIONS, Results
from halobench.report.tables import Plain

FLOOR = (
    "Medians with their 95 % intervals. The floor is the least time in which the machine could do the useful work at "
    "the best rates measured in the same run."
)
PAIRED = (
    "Medians with their 95 % intervals. The steps of a network and of its rival are taken in turn, at the same batch "
    "and in the same mode; the ratio is the median over these pairs, above one where the rival is faster."
)


@dataclass(frozen=True)
class Picture:
    """An image as a data URL, and its alternative text."""

    source: str
    text: str


@dataclass(frozen=True)
class Headline:
    """A table, how to read it, and the picture of it where one could be drawn."""

    table: Plain
    note: str
    picture: Picture | None


def headlines(results: Results) -> list[Headline]:
    """For each machine and dtype, its reference point, then its networks beside their rivals."""
    at_reference = [of_reference(one) for one in selections(results) if not one.reference.empty]
    return at_reference + [of_networks(one) for one in network_selections(results) if not measured(one.table).empty]


def of_reference(one: Selection) -> Headline:
    """The backends at the reference point."""
    rows = with_speedup(one.reference)
    kinds = ("ms", "speed-up", "peak MiB", "% of floor")
    head = ["backend", *(f"{way} {what}" for what in kinds for way in DIRECTIONS)]
    lines = []
    fastest_first = rows.sort_values(["direction", "median_ms"], na_position="last")["variant"].unique()
    for name in fastest_first:
        of = rows[rows["variant"] == name]
        both = [next((row for _, row in of[of["direction"] == way].iterrows()), None) for way in DIRECTIONS]
        lines.append([str(name), *(column(row) for column in (time, speedup, memory, share) for row in both)])
    table = Plain(f"{one.machine}, {one.dtype}: {held(rows)}", head, lines)
    note = " ".join([FLOOR, *(f"{doubt}." for doubt in one.doubts)])
    return Headline(table, note, picture(bars.draw_speedup(one)))


def of_networks(one: Selection) -> Headline:
    """The networks beside their rivals: the pairs, or what else was measured in turn; else all that were measured."""
    drawn = picture(networks.draw(one))
    pairs = compiled_pairs(one)
    if len(pairs):
        backends = " and ".join(sorted(pairs["variant"].unique()))
        caption = f"{one.machine}, {one.dtype}: compiled training steps, HaloNet with {backends}"
        return Headline(Plain(caption, *pair_table(one, pairs, times_as)), PAIRED, drawn)
    paired = measured(one.table, "ratio")
    rows = next(rows for rows in (paired, measured(one.table)) if not rows.empty)
    keys = ["direction", "model", "side", "batch"]
    best = rows.sort_values("median_ms").drop_duplicates(keys).sort_values(keys)
    caption = f"{one.machine}, {one.dtype}: the fastest of each network"
    return Headline(Plain(caption, *network_lines(best)), PAIRED, drawn)


def times_as(row: "pd.Series[Any]") -> str:
    """A ratio with its interval."""
    return f"{row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"


def picture(drawn: Drawn) -> Picture | None:
    """The first of these figures, if it could be drawn."""
    with look():
        _, figure = next(drawn)
        if isinstance(figure, str):
            return None
        title, held = (figure.texts[number].get_text() for number in range(2))
        return Picture("data:image/png;base64," + b64encode(png(figure)).decode(), f"{title}; {held}")

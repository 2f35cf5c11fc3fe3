"""The shares of a whole run under one truth: the ceilings as the fastest of all its calls left them.

A row is on disk before the next case begins, so the shares of early rows may stand under ceilings that a later call
beat. Whoever ends a run, or reads the journal of one that did not end, settles its rows first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from halobench.records.roofline import BOUNDS, RATES, Amounts, Ceilings, best_of, floor, raised
from halobench.records.schema import Json, fits
from halobench.wording import told_apart

NOTHING: Json = {"ms": None, "share": None, "bound": None}


def settled(ceilings: Json | None, rows: Sequence[Json]) -> tuple[Json | None, list[Json]]:
    """The ceilings of a run, raised by each row that beats them, and its rows with their floors under those.

    What is unknown, or is no possible value, stays as it is.
    """
    final = parsed(ceilings)
    if final is None:
        return ceilings, list(rows)
    for row in rows:
        passes, ms = passes_of(row), median_of(row)
        if passes and ms:
            final = raised(final, passes, ms, str(row.get("case")))
    return asdict(final), [with_floor(row, final) for row in rows]


def with_floor(row: Json, ceilings: Ceilings) -> Json:
    """A row with its floor and its share under these ceilings."""
    passes, ms = passes_of(row), median_of(row)
    if not passes or not ms:
        return row
    least = floor(passes, ceilings)
    found = NOTHING if least is None else {"ms": least.ms, "share": least.ms / ms, "bound": least.bound}
    return {**row, "floor": {**row["floor"], **found}}


def higher(one: Json | None, other: Json | None) -> Json | None:
    """The higher of what two parts of a run measured of the same device and dtype."""
    mine, theirs = parsed(one), parsed(other)
    if mine is None or theirs is None or (mine.device, mine.dtype) != (theirs.device, theirs.dtype):
        return one
    return asdict(best_of(mine, theirs))


def notes(ceilings: Json | None) -> list[str]:
    """What there is to say of ceilings that measured cases raised, a line each."""
    found = parsed(ceilings)
    if found is None:
        return []
    return [
        f"the ceiling of {bound} was raised from {before} to {now} a second by {given['by']}, "
        "which was faster than anything measured at the start; shares are under the raised one"
        for bound in BOUNDS
        if (given := found.raised.get(bound)) is not None and (rate := found.rate(bound)) is not None
        for before, now in [told_apart(given["measured"], rate)]
    ]


def parsed(ceilings: Any) -> Ceilings | None:
    """The ceilings of a results file, or ``None`` where there are none, or none that are possible."""
    if not isinstance(ceilings, dict) or not all(isinstance(ceilings.get(name), str) for name in ("device", "dtype")):
        return None
    rates: list[float | None] = [ceilings.get(name) for name in RATES.values()]
    if not all(rate is None or fits(rate, "positive") for rate in rates):
        return None
    given = {name: items(ceilings.get(name)) for name in ("routes", "raised")}
    routes = {bound: route for bound, route in given["routes"] if isinstance(route, str)}
    lifted = {
        bound: dict(by)
        for bound, by in given["raised"]
        if isinstance(by, dict) and fits(by.get("measured"), "positive")
    }
    copy, matmul, exponentials = rates
    taken_over = ceilings.get("taken_over") is True
    return Ceilings(ceilings["device"], ceilings["dtype"], copy, matmul, exponentials, routes, lifted, taken_over)


def items(part: Any) -> Iterable[tuple[str, Any]]:
    """The items of an object that are about a kind of work."""
    return [(key, value) for key, value in part.items() if key in BOUNDS] if isinstance(part, dict) else []


def passes_of(row: Any) -> list[Amounts] | None:
    """The useful work of a row's passes, or ``None`` where it does not say, or says the impossible."""
    least = row.get("floor") if isinstance(row, dict) else None
    given = least.get("passes") if isinstance(least, dict) else None
    if not isinstance(given, list):
        return None
    passes = []
    for work in given:
        if not isinstance(work, dict) or not all(fits(work.get(bound), "number") for bound in BOUNDS):
            return None
        passes.append(Amounts(*(work[bound] for bound in BOUNDS)))
    return passes


def median_of(row: Json) -> float | None:
    """The median of a row's samples in ms, or ``None``."""
    latency = row.get("latency")
    ms = latency.get("median_ms") if isinstance(latency, dict) else None
    return ms if fits(ms, "positive") else None

"""What a calibration says of the gate: false alarms, slowdowns found, and cases too noisy to gate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import median
from typing import Any

import numpy as np

from halobench.ab.protocol import CONFIRMATION_ROUNDS, SCREENING_ROUNDS
from halobench.calibrate.campaign import PLAIN, Campaign
from halobench.calibrate.rehearsal import PROTOCOLS, Draw, Pool
from halobench.compare.settings import Settings

DRAWS = 300
Json = dict[str, Any]
MOST_FALSE_ALARMS = 0.01
LEAST_FOUND = {0.02: 0.9, 0.05: 0.99, 0.1: 1.0}
JUDGED_BY = "ab"  # the protocol that decides whether a case can be gated


def check(plain: int, planted: int) -> None:
    """Refuse too few processes for the comparisons that are drawn from them.

    Raises:
        ValueError: there are too few.
    """
    stages = SCREENING_ROUNDS + CONFIRMATION_ROUNDS
    if plain < 3 * stages or planted < stages:
        raise ValueError(
            f"needed are {3 * stages} plain processes and {stages} of each planted level, got {plain} and {planted}"
        )


def judge(campaign: Campaign, settings: Settings) -> Json:
    """The summary of a calibration, for JSON: all shares by protocol, gated cases and short ones apart.

    First it finds the cases that are too noisy to gate; then it judges the gate with these as advisory ones.
    """
    pool = Pool.of(campaign)
    check(len(pool.levels[PLAIN]), min(len(pool.levels[level]) for level in pool.planted))
    names = list(pool.levels[PLAIN][0]["cases"])
    first = {JUDGED_BY: drawn(JUDGED_BY, pool, settings)}
    before = {name: of_case(name, pool, settings, first) for name in names}
    noisy = [
        name
        for name, case in before.items()
        if case["advisory"] is None and not good_enough(case["protocols"][JUDGED_BY])
    ]
    settings = replace(settings, advisory=(*settings.advisory, *noisy))
    draws = {name: drawn(name, pool, settings) for name in PROTOCOLS}
    cases = {name: of_case(name, pool, settings, draws) for name in names}
    gated = [name for name, case in cases.items() if case["advisory"] is None]
    short = [name for name in names if name not in gated and name not in noisy]
    return {
        "plan": campaign.header["plan"],
        "fingerprint": campaign.header["fingerprint"],
        "processes": {str(level): len(group) for level, group in sorted(pool.levels.items())},
        "draws": DRAWS,
        "protocols": {name: of_protocol(some, pool, gated, short) for name, some in draws.items()},
        "too_noisy": noisy,
        "cases": cases,
    }


def drawn(protocol: str, pool: Pool, settings: Settings) -> list[Draw]:
    """The outcomes of comparisons after a protocol, always the same ones."""
    random = Random(0)  # noqa: S311 - a sample, not a secret
    return [PROTOCOLS[protocol](pool, settings, random) for _ in range(DRAWS)]


def of_case(name: str, pool: Pool, settings: Settings, draws: Mapping[str, Sequence[Draw]]) -> Json:
    """What is said of one case: its time, how far its processes are apart, what was really planted, what was found."""
    plain = times(pool, PLAIN, name)
    low, high = np.quantile(plain, [0.025, 0.975])
    middle = median(plain)
    planted = [level for level in pool.planted if pool.can_plant(level, name)]
    return {
        "median_ms": middle,
        "spread_percent": float(high - low) / middle * 100,
        "advisory": settings.advised(name, middle),
        "planted_percent": {str(level): (median(times(pool, level, name)) / middle - 1) * 100 for level in planted},
        "protocols": {
            protocol: {
                "false_alarms": share(name in draw.slower for draw in some),
                "found": {str(level): share(name in draw.found[level] for draw in some) for level in planted},
            }
            for protocol, some in draws.items()
        },
    }


def of_protocol(draws: Sequence[Draw], pool: Pool, gated: Sequence[str], short: Sequence[str]) -> Json:
    """What is said of a protocol: of whole runs, and of the slowdowns planted in gated and in short cases."""
    return {
        "runs_with_a_false_alarm": share(not draw.inconclusive and bool(draw.slower & set(gated)) for draw in draws),
        "inconclusive_runs": share(draw.inconclusive for draw in draws),
        "found": {str(level): found(draws, pool, level, gated) for level in pool.planted},
        "found_in_short_cases": {str(level): found(draws, pool, level, short) for level in pool.planted},
    }


def found(draws: Sequence[Draw], pool: Pool, level: float, names: Sequence[str]) -> float | None:
    """The share of planted slowdowns that were found, over comparisons and cases; ``None`` if none could be planted.

    What an inconclusive comparison found does not count.
    """
    possible = [name for name in names if pool.can_plant(level, name)]
    return (
        share(not draw.inconclusive and name in draw.found[level] for draw in draws for name in possible)
        if possible
        else None
    )


def good_enough(case: Json) -> bool:
    """Whether the gate can be trusted with a case."""
    enough = all(case["found"].get(str(level), 1.0) >= least for level, least in LEAST_FOUND.items())
    return bool(enough and case["false_alarms"] <= MOST_FALSE_ALARMS)


def times(pool: Pool, level: float, name: str) -> list[float]:
    """The medians of a case over the processes of a level, ms."""
    return [process["cases"][name]["ms"] for process in pool.levels[level]]


def share(events: Iterable[bool]) -> float:
    """The share of events that happened."""
    happened = list(events)
    return sum(happened) / len(happened)

"""What was measured of a case on both sides: runs against runs, or the samples within them where there are few."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from halobench.compare.sides import Repeated
from halobench.compare.statistics import Estimate, estimate

ENOUGH_RUNS = 4
"""With fewer runs on either side an interval over runs means nothing: the samples within them must do."""


@dataclass(frozen=True)
class Evidence:
    """What was measured of a case on both sides: medians, head over base in time and in cycles.

    ``replicates``, (base, head), counts what the rank test ranks: runs, or the samples within them where there are
    ``few_runs``.
    """

    base_ms: float
    head_ms: float
    replicates: tuple[int, int]
    few_runs: bool
    time: Estimate
    cycles: Estimate | None


def weigh(names: Sequence[str], base: Mapping[str, Repeated], head: Mapping[str, Repeated]) -> dict[str, Evidence]:
    """The statistics of the cases that both sides measured."""
    times = estimates(names, base, head, lambda case: case.medians_ms, lambda case: case.samples_ms)
    clocked = [name for name in names if clock_known(base[name]) and clock_known(head[name])]
    cycles = estimates(clocked, base, head, lambda case: case.cycles, cycles_within)
    return {
        name: Evidence(
            float(np.median(base[name].medians_ms)),
            float(np.median(head[name].medians_ms)),
            (replicates(base[name], head[name]), replicates(head[name], base[name])),
            not enough(base[name], head[name]),
            times[name],
            cycles.get(name),
        )
        for name in names
    }


def estimates(
    names: Sequence[str],
    base: Mapping[str, Repeated],
    head: Mapping[str, Repeated],
    between: Callable[[Repeated], Sequence[float]],
    within: Callable[[Repeated], Sequence[Sequence[float]]],
) -> dict[str, Estimate]:
    """Estimates over runs where there are enough of them, else over the samples within them; equal shapes together."""
    shapes: dict[tuple[int, int], list[str]] = defaultdict(list)
    values: dict[str, tuple[list[float], list[float]]] = {}
    for name in names:
        sides = (base[name], head[name])
        if enough(*sides):
            one, other = ([*between(side)] for side in sides)
        else:
            one, other = ([value for run in within(side) for value in run] for side in sides)
        values[name] = one, other
        shapes[len(one), len(other)].append(name)
    found: dict[str, Estimate] = {}
    for alike in shapes.values():
        first, second = (np.array([values[name][side] for name in alike], dtype=float) for side in (0, 1))
        found |= dict(zip(alike, estimate(first, second), strict=True))
    return found


def enough(base: Repeated, head: Repeated) -> bool:
    """Whether there are runs enough to compare run with run."""
    return min(len(base.samples_ms), len(head.samples_ms)) >= ENOUGH_RUNS


def replicates(side: Repeated, other: Repeated) -> int:
    """What the rank test counts of a side: its runs where both have enough, else their samples."""
    return len(side.samples_ms) if enough(side, other) else sum(map(len, side.samples_ms))


def clock_known(case: Repeated) -> bool:
    """Whether the clock was read in every run."""
    return len(case.cycles) == len(case.samples_ms)


def cycles_within(case: Repeated) -> list[list[float]]:
    """Samples in cycles: each run's samples times its clock."""
    return [
        [sample * cycles / middle for sample in samples]
        for samples, cycles, middle in zip(case.samples_ms, case.cycles, case.medians_ms, strict=True)
    ]

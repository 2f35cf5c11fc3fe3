"""Comparisons drawn from a calibration's processes, decided as ``compare`` and ``ab`` would decide them.

Base, head and control of a comparison are disjoint groups of processes. A slowdown is planted in one case at a time,
all others unchanged: alone, it must survive the correction for many cases. Comparisons share processes with one
another, so their number says how finely the shares are resolved, not how much was measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from halobench.ab.protocol import (
    CONFIRMATION_ROUNDS,
    SCREENING_ROUNDS,
    Stage,
    looks,
    suspects,
    undecided,
)
from halobench.calibrate.campaign import PLAIN, Campaign
from halobench.compare.evidence import Evidence, weigh
from halobench.compare.settings import Settings
from halobench.compare.sides import Repeated
from halobench.compare.verdict import Judged, Verdict, conclude

RUNS = CONFIRMATION_ROUNDS
Json = dict[str, Any]
Group = Sequence[Json]
Cases = dict[str, Repeated]


@dataclass(frozen=True)
class Draw:
    """One comparison's outcome: cases found slower and faster with nothing planted, and those found when planted.

    ``inconclusive`` says that the control fired, so that nothing of it counts.
    """

    slower: frozenset[str]
    faster: frozenset[str]
    inconclusive: bool
    found: Mapping[float, frozenset[str]]


@dataclass(frozen=True)
class Pool:
    """The processes of a campaign by level, in the order they ran."""

    levels: Mapping[float, Group]
    amounts: Mapping[str, Mapping[str, float | None]]

    @classmethod
    def of(cls, campaign: Campaign) -> "Pool":
        """The pool of a campaign."""
        found: dict[float, list[Json]] = {}
        for process in campaign.processes:
            found.setdefault(process["level"], []).append(process)
        return cls(found, campaign.header["amounts"])

    @property
    def planted(self) -> list[float]:
        """The levels above 0, lowest first."""
        return sorted(level for level in self.levels if level != PLAIN)

    def can_plant(self, level: float, case: str) -> bool:
        """Whether the case could be slowed by so little."""
        return self.amounts[str(level)].get(case) is not None


Protocol = Callable[[Pool, Settings, Random], Draw]


def repeated(group: Group, *, whole: bool = True) -> Cases:
    """The cases of a group of processes. ``whole`` stands for each process by its median, else by its samples."""
    cases: Cases = {}
    for process in group:
        for name, row in process["cases"].items():
            case = cases.setdefault(name, Repeated())
            case.samples_ms.append((row["ms"],) if whole else tuple(row["samples_ms"]))
            if row["mhz"]:
                case.cycles.append(row["ms"] * row["mhz"] * 1e3)
    return cases


def dealt(group: Group, sizes: Sequence[int], random: Random) -> Iterator[Group]:
    """Disjoint groups of these sizes, drawn at random."""
    drawn = random.sample(list(group), sum(sizes))
    for size in sizes:
        yield drawn[:size]
        drawn = drawn[size:]


def folders(pool: Pool, settings: Settings, random: Random) -> Draw:
    """``compare`` of two folders, whose processes took turns."""
    base, head = dealt(pool.levels[PLAIN], (RUNS, RUNS), random)
    return compared(pool, settings, base, head, planted_groups(pool, RUNS, random))


def consecutive(pool: Pool, settings: Settings, random: Random) -> Draw:
    """``compare`` of two folders, all of the base before all of the head. Planted processes have no such order."""
    start = random.randrange(len(pool.levels[PLAIN]) - 2 * RUNS + 1)
    plain = pool.levels[PLAIN][start : start + 2 * RUNS]
    return compared(pool, settings, plain[:RUNS], plain[RUNS:], planted_groups(pool, RUNS, random))


def single(pool: Pool, settings: Settings, random: Random) -> Draw:
    """``compare`` of two files: one process a side."""
    base, head = dealt(pool.levels[PLAIN], (1, 1), random)
    return compared(pool, settings, base, head, planted_groups(pool, 1, random), whole=False)


def planted_groups(pool: Pool, size: int, random: Random) -> dict[float, Group]:
    """A group of each planted level."""
    return {level: next(dealt(pool.levels[level], (size,), random)) for level in pool.planted}


def compared(
    pool: Pool, settings: Settings, base: Group, head: Group, planted: Mapping[float, Group], *, whole: bool = True
) -> Draw:
    """One comparison without, and for each level and case one with a slowdown in that case alone."""
    cases = repeated(base, whole=whole)
    names = list(cases)
    null = weigh(names, cases, repeated(head, whole=whole))
    judged = conclude(null, settings)
    found = {}
    for level, group in planted.items():
        slowed = weigh(names, cases, repeated(group, whole=whole))
        found[level] = found_alone(null, slowed, settings, [name for name in names if pool.can_plant(level, name)])
    return Draw(of(judged, Verdict.SLOWER), of(judged, Verdict.FASTER), inconclusive=False, found=found)


def found_alone(
    null: Mapping[str, Evidence], slowed: Mapping[str, Evidence], settings: Settings, names: Sequence[str]
) -> frozenset[str]:
    """The cases that are found slower if each is slowed alone."""
    return frozenset(
        name for name in names if name in of(conclude({**null, name: slowed[name]}, settings), Verdict.SLOWER)
    )


def as_measured(stage: Stage, names: Sequence[str], settings: Settings) -> Stage:
    """The confirmation of suspects with no more runs of each than were taken before it was dropped."""
    runs = {name: rounds_of(name, stage, settings) for name in names}
    return Stage(*({name: first(side[name], runs[name]) for name in names if name in side} for side in sides(stage)))


def rounds_of(name: str, stage: Stage, settings: Settings) -> int:
    """After how many rounds a suspect is dropped, or all of them."""
    for rounds in looks():
        so_far = Stage(*({name: first(side[name], rounds)} if name in side else {} for side in sides(stage)))
        if not undecided(name, so_far, settings):
            return rounds
    return CONFIRMATION_ROUNDS


def first(case: Repeated, runs: int) -> Repeated:
    """The first runs of a case."""
    return replace(case, samples_ms=case.samples_ms[:runs], cycles=case.cycles[:runs])


def sides(stage: Stage) -> tuple[Mapping[str, Repeated], ...]:
    """Base, head and control."""
    return stage.base, stage.head, stage.control


def in_turns(pool: Pool, settings: Settings, random: Random) -> Draw:
    """``ab``: a screening, a confirmation of its suspects by other processes, and the control of both.

    Advisory cases, which ``ab`` does not confirm, are confirmed here: that says what it could see of them.
    """
    sizes = (SCREENING_ROUNDS,) * 3 + (CONFIRMATION_ROUNDS,) * 3
    screening, confirmation = _stages([repeated(group) for group in dealt(pool.levels[PLAIN], sizes, random)])
    suspected = suspects(screening, settings)
    confirmed = as_measured(confirmation, suspected, settings)
    null = weigh(suspected, confirmed.base, confirmed.head)
    judged = conclude(null, settings)
    control = conclude(weigh(suspected, confirmed.base, confirmed.control), settings)
    gated = [case for case in control if case.advisory is None]
    fired = bool(of(gated, Verdict.SLOWER) | of(gated, Verdict.FASTER))
    found = {}
    for level in pool.planted:
        groups = dealt(pool.levels[level], (SCREENING_ROUNDS, CONFIRMATION_ROUNDS), random)
        screened, head = (repeated(group) for group in groups)
        names = [name for name in screened if pool.can_plant(level, name)]
        caught = suspects(Stage(screening.base, {name: screened[name] for name in names}, {}), settings)
        planted = as_measured(Stage(confirmation.base, head, confirmation.control), caught, settings)
        found[level] = found_alone(null, weigh(caught, planted.base, planted.head), settings, caught)
    return Draw(of(judged, Verdict.SLOWER), of(judged, Verdict.FASTER), inconclusive=fired, found=found)


def _stages(groups: Sequence[Cases]) -> tuple[Stage, Stage]:
    return Stage(*groups[:3]), Stage(*groups[3:])


def of(judged: Sequence[Judged], verdict: Verdict) -> frozenset[str]:
    """The cases of a verdict."""
    return frozenset(case.case for case in judged if case.verdict is verdict)


PROTOCOLS: dict[str, Protocol] = {
    "ab": in_turns,
    "compare, folders in turns": folders,
    "compare, folders one after the other": consecutive,
    "compare, single files": single,
}

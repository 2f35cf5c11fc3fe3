"""The order of measuring, and what is made of it: a screening, a confirmation of suspects, a control throughout.

Three streams are measured in turns: the base, the head, and the control, which is the base once more. Every two
rounds mirror one another (ABC CBA), so that a steady drift adds the same to all three; over six rounds each stream
has stood in every place equally often.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Protocol

from halobench.compare import sides
from halobench.compare.settings import Settings
from halobench.compare.sides import Repeated, Side
from halobench.compare.verdict import Judged, Verdict, judge

BASE, HEAD, CONTROL = "base", "head", "control"
STREAMS = (BASE, HEAD, CONTROL)
SCREENING_ROUNDS = 4
CONFIRMATION_ROUNDS = 12  # at most: suspects are dropped on the way
LOOK_AFTER, LOOK_EVERY = 4, 2  # rounds of a confirmation, before the first look at it and between looks
LEAN = 0.75  # the share of pairs of runs, less than what the rank test asks of twelve rounds (0.79)


Starts = Callable[[str], None]


class Measure(Protocol):
    """Measures a checkout into a results file; ``cases`` narrows it to these."""

    def __call__(self, folder: Path, output: Path, cases: Sequence[str] = ()) -> None:
        """Measure."""


Cases = Mapping[str, Repeated]


@dataclass(frozen=True)
class Stage:
    """The three streams of a stage: cases by name."""

    base: Cases
    head: Cases
    control: Cases


def order(rounds: Iterable[int]) -> Iterator[tuple[int, str]]:
    """The runs of these rounds, (round, stream): A B C, C B A, B C A, A C B, C A B, B A C, and again."""
    for number in rounds:
        turn = number // 2 % len(STREAMS)
        streams = STREAMS[turn:] + STREAMS[:turn]
        for stream in reversed(streams) if number % 2 else streams:
            yield number, stream


def measure_rounds(
    measure: Measure,
    folders: Mapping[str, Path],
    output: Path,
    rounds: Iterable[int],
    starts: Starts,
    cases: Sequence[str] = (),
) -> dict[str, Side]:
    """Rounds of a stage, their results files in a folder for each stream: all that is there by now.

    Args:
        measure: measures one checkout.
        folders: the checkout of each stream.
        output: where the results go.
        rounds: the numbers of the rounds.
        starts: told the stream of each run before it starts.
        cases: test ids to narrow it to.
    """
    for number, stream in order(rounds):
        starts(stream)
        measure(folders[stream], output / stream / f"{number:02}.json", cases)
    return {stream: sides.load(output / stream) for stream in STREAMS}


def staged(streams: Mapping[str, Side]) -> Stage:
    """The cases of a stage's streams."""
    return Stage(*(streams[stream].cases for stream in STREAMS))


def confirm(
    measure: Measure,
    folders: Mapping[str, Path],
    output: Path,
    test_ids: Mapping[str, str],
    settings: Settings,
    starts: Starts,
) -> Stage:
    """Fresh runs of the suspects, given with their test ids: of each as long as they may still decide something.

    After four rounds, and after every two more, a suspect is dropped if neither its head nor its control leans away
    from the base: what is left to measure would not show a change. So it is if something else was at work in so many
    runs of the base that its times will not be judged. Dropping can lose a finding and never makes one: no verdict is
    drawn early, and all suspects count in the correction for many cases.
    """
    left, stage = list(test_ids), Stage({}, {}, {})
    for done, following in pairwise([0, *looks()]):
        if not left:
            break
        ids = [test_ids[name] for name in left]
        stage = staged(measure_rounds(measure, folders, output, range(done, following), starts, ids))
        left = [name for name in left if undecided(name, stage, settings)]
    return stage


def looks() -> list[int]:
    """After how many rounds a confirmation is looked at; the last is its end."""
    return [*range(LOOK_AFTER, CONFIRMATION_ROUNDS, LOOK_EVERY), CONFIRMATION_ROUNDS]


def undecided(name: str, stage: Stage, settings: Settings) -> bool:
    """Whether more runs of a suspect may show that its head, or its control, differs from the base."""
    base, others = stage.base[name], [side[name] for side in (stage.head, stage.control) if name in side]
    if not base.samples_ms or 2 * len(base.disturbed) >= CONFIRMATION_ROUNDS:
        return False
    return any(leans(base, other, least(name, base, settings)) for other in others if other.samples_ms)


def leans(base: Repeated, other: Repeated, threshold: float) -> bool:
    """Whether a side left the base by more than the threshold, and three of four pairs of runs agree in which way."""
    pairs = list(product(base.medians_ms, other.medians_ms))
    slower, faster = (sum(sign * (two - one) > 0 for one, two in pairs) / len(pairs) for sign in (1, -1))
    ratio = middle(other) / middle(base)
    return (ratio > 1 + threshold and slower >= LEAN) or (ratio < 1 / (1 + threshold) and faster >= LEAN)


def least(name: str, base: Repeated, settings: Settings) -> float:
    """The relative change that counts, of a case that takes so long."""
    return max(settings.threshold(name), settings.threshold_us / 1e3 / middle(base))


def suspects(stage: Stage, settings: Settings) -> list[str]:
    """The cases whose head or control left the base by more than the threshold, in the middle of its few runs."""
    found = []
    for name, base in stage.base.items():
        for side in (stage.head, stage.control):
            other = side.get(name)
            if other is None or not other.samples_ms or not base.samples_ms:
                continue
            most = 1 + least(name, base, settings)
            if not 1 / most <= middle(other) / middle(base) <= most:
                found.append(name)
                break
    return found


def gated(names: Sequence[str], stage: Stage, settings: Settings) -> list[str]:
    """Those of the cases that can fail the gate: nothing is decided by the others."""
    return [name for name in names if settings.advised(name, middle(stage.base[name])) is None]


def undisturbed(names: Sequence[str], stage: Stage) -> list[str]:
    """Those of the cases of which some run of the base was undisturbed: on a machine so busy nothing is decided."""
    return [name for name in names if len(stage.base[name].disturbed) < len(stage.base[name].samples_ms)]


def middle(case: Repeated) -> float:
    """The median of the runs' medians, ms."""
    ordered = sorted(case.medians_ms)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def verdicts(screening: Stage, confirmation: Stage | None, settings: Settings) -> tuple[list[Judged], list[Judged]]:
    """The verdicts of head and control against the base.

    Suspects are judged by their confirmation alone: what made a case a suspect is no evidence against it any more.
    """
    head = judge(screening.base, screening.head, settings)
    control = judge(screening.base, screening.control, settings)
    if confirmation is None:
        return head, control
    return (
        combined(head, judge(confirmation.base, confirmation.head, settings)),
        combined(control, judge(confirmation.base, confirmation.control, settings)),
    )


def combined(screened: Sequence[Judged], confirmed: Sequence[Judged]) -> list[Judged]:
    """The verdicts of the screening, those of the confirmation in their place. A failure anywhere stays one."""
    final = {case.case: case for case in confirmed}
    return [case if case.verdict is Verdict.FAILED else final.get(case.case, case) for case in screened]

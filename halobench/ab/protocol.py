"""The order of measuring, and what is made of it: a screening, a confirmation of suspects, a control throughout.

Three streams are measured in turns: the base, the head, and the control, which is the base once more. Every two
rounds mirror one another (ABC CBA), so that a steady drift adds the same to all three; over six rounds each stream
has stood in every place equally often.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from halobench.compare import sides
from halobench.compare.settings import Settings
from halobench.compare.sides import Repeated, Side
from halobench.compare.verdict import Judged, Verdict, judge

BASE, HEAD, CONTROL = "base", "head", "control"
STREAMS = (BASE, HEAD, CONTROL)
SCREENING_ROUNDS = 4
CONFIRMATION_ROUNDS = 12


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


def order(rounds: int) -> Iterator[tuple[int, str]]:
    """The runs of a stage, (round, stream): A B C, C B A, B C A, A C B, C A B, B A C, and again."""
    for number in range(rounds):
        turn = number // 2 % len(STREAMS)
        streams = STREAMS[turn:] + STREAMS[:turn]
        for stream in reversed(streams) if number % 2 else streams:
            yield number, stream


def measure_stage(
    measure: Measure,
    folders: Mapping[str, Path],
    output: Path,
    rounds: int,
    said: Callable[[str], None],
    cases: Sequence[str] = (),
) -> dict[str, Side]:
    """All runs of a stage, their results files in a folder for each stream.

    Args:
        measure: measures one checkout.
        folders: the checkout of each stream.
        output: where the results go.
        rounds: runs of each stream.
        said: told of each run before it starts, and from the second on how long the rest will take.
        cases: test ids to narrow it to.
    """
    total, started = rounds * len(STREAMS), time.monotonic()
    for count, (number, stream) in enumerate(order(rounds), 1):
        said(f"{output.name} {count}/{total}: {stream}{left(count - 1, total, time.monotonic() - started)}")
        measure(folders[stream], output / stream / f"{number:02}.json", cases)
    return {stream: sides.load(output / stream) for stream in STREAMS}


def left(done: int, total: int, elapsed_s: float) -> str:
    """How long the rest of a stage will take, from what its processes took so far; nothing before the first is done."""
    if not done:
        return f", the first of {total} processes says how long they will take"
    each_s = elapsed_s / done
    return f", {total - done} processes of {each_s:.0f} s: {each_s * (total - done) / 60:.1f} min left"


def suspects(stage: Stage, settings: Settings) -> list[str]:
    """The cases whose head or control left the base by more than the threshold, in the middle of its few runs."""
    found = []
    for name, base in stage.base.items():
        for side in (stage.head, stage.control):
            other = side.get(name)
            if other is None or not other.samples_ms or not base.samples_ms:
                continue
            before, after = middle(base), middle(other)
            least = max(settings.threshold(name), settings.threshold_us / 1e3 / before)
            if not 1 / (1 + least) <= after / before <= 1 + least:
                found.append(name)
                break
    return found


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

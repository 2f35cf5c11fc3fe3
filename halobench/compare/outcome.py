"""What all verdicts mean together, and the exit status that says so."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from halobench.compare.settings import Settings
from halobench.compare.statistics import CONFIDENCE, SIGNIFICANCE
from halobench.compare.verdict import Judged, Verdict
from halobench.records.schema import ResultsError
from halobench.wording import counted

ORDER = (
    Verdict.FAILED,
    Verdict.SLOWER,
    Verdict.LARGER,
    Verdict.DISTURBED,
    Verdict.AMBIGUOUS,
    Verdict.FASTER,
    Verdict.MISSING,
    Verdict.NEW,
    Verdict.SAME,
)


class Exit(IntEnum):
    """Exit statuses; 2, unusable arguments or input, is that of every command."""

    FINE = 0
    REGRESSION = 1
    UNUSABLE = 2
    INCONCLUSIVE = 3


@dataclass(frozen=True)
class Outcome:
    """A comparison. ``control`` holds the verdicts of the base against itself, where that was measured.

    ``notes`` are what a reader must know before the verdicts: differences that were waved through, runs that did not
    finish, how few runs there were.

    Raises:
        ResultsError: there is nothing to compare.
    """

    base: str
    head: str
    cases: Sequence[Judged]
    settings: Settings
    control: Sequence[Judged] = ()
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if all(case.verdict in (Verdict.NEW, Verdict.MISSING) for case in self.cases):
            raise ResultsError(f"{self.base} and {self.head} have no case in common")

    @property
    def fired(self) -> list[Judged]:
        """The gated cases in which the base differs from itself."""
        changed = (Verdict.SLOWER, Verdict.FASTER, Verdict.FAILED)
        return [case for case in self.control if case.verdict in changed and case.advisory is None]

    @property
    def disturbed(self) -> list[Judged]:
        """The gated cases of which the times say nothing, because something else was at work."""
        return [case for case in self.cases if case.verdict is Verdict.DISTURBED and case.advisory is None]

    @property
    def status(self) -> Exit:
        """The exit status.

        What does not depend on time is a regression whatever the control says, and so is a case that nothing disturbed
        whatever disturbed others.
        """
        if any(case.exactly_regressed for case in self.cases):
            return Exit.REGRESSION
        if self.fired:
            return Exit.INCONCLUSIVE
        if any(case.regressed for case in self.cases):
            return Exit.REGRESSION
        return Exit.INCONCLUSIVE if self.disturbed else Exit.FINE

    @property
    def sorted(self) -> list[Judged]:
        """The cases by what matters: regressions first, then by verdict, the largest change first."""

        def weight(case: Judged) -> tuple[bool, int, float, str]:
            change = abs(case.time.ratio - 1) if case.time else 0.0
            return not case.regressed, ORDER.index(case.verdict), -change, case.case

        return sorted(self.cases, key=weight)

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        counts = Counter(case.verdict for case in self.cases)
        said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER if counts[verdict])
        regressed = sum(case.regressed for case in self.cases)
        opening = {
            Exit.FINE: "no regression",
            Exit.REGRESSION: counted(regressed, "regression"),
            Exit.INCONCLUSIVE: f"inconclusive: {self.unsettled}",
        }[self.status]
        return f"{opening} ({said})"

    @property
    def unsettled(self) -> str:
        """Why times cannot be judged."""
        if self.fired:
            return f"the base differs from itself in {counted(len(self.fired), 'case')}"
        return self.disturbed[0].reason if self.disturbed else "nothing"

    def document(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "status": self.status.name.lower(),
            "exit_status": int(self.status),
            "base": self.base,
            "head": self.head,
            "notes": self.notes,
            "settings": {**asdict(self.settings), "significance": SIGNIFICANCE, "confidence": CONFIDENCE},
            "cases": [described(case) for case in self.sorted],
            "control": [described(case) for case in self.control],
        }


def described(case: Judged) -> dict[str, Any]:
    """A case for JSON: its fields, and whether it regressed."""
    return {**asdict(case), "verdict": str(case.verdict), "regressed": case.regressed}

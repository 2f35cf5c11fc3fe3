"""How far a run is: a live line on a terminal, elsewhere a line a minute."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from halobench.fuzz.coverage import Coverage
from halobench.fuzz.pool import FAILURES, Plan

EVERY_S = 60.0


class Display:
    """Shows counts on stderr. A context manager, so that the terminal is left as it was."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.started = self.said = time.monotonic()
        self.console = Console(file=sys.stderr, highlight=False)
        self.bar: Progress | None = None
        if self.console.is_terminal:
            columns = (BarColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.description}"), console=self.console)
            self.task = self.bar.add_task("the workers start", total=1.0)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, coverages: dict[str, Coverage]) -> None:
        """Say how far it is, where it is time to."""
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=self.share(coverages, now), description=said(coverages))
        elif now - self.said >= EVERY_S:
            self.said = now
            self.console.print(f"[{(now - self.started) / 60:.0f} min] {said(coverages)}", markup=False, soft_wrap=True)

    def share(self, coverages: dict[str, Coverage], now: float) -> float:
        """The share of the run that is over."""
        shares = [0.0]
        if self.plan.seconds is not None:
            shares.append((now - self.started) / self.plan.seconds)
        if self.plan.cases is not None:
            tried = sum(min(each.tried, self.plan.cases) for each in coverages.values())
            shares.append(tried / (self.plan.cases * len(coverages)))
        return min(1.0, max(shares))


def said(coverages: dict[str, Coverage]) -> str:
    """The counts of each backend in a few words."""
    return "; ".join(
        f"{name}: {each.tried} tried, {each.statuses['UNSUPPORTED']} refused, "
        f"{sum(each.statuses[status] for status in FAILURES)} wrong"
        for name, each in coverages.items()
    )

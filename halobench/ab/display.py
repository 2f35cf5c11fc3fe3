"""Which process runs, and how long the rest will take: a bar on a terminal, else a line for each process."""

import sys
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from halobench.wording import counted


class Display:
    """The progress of a job, on stderr. A context manager: leaving it gives the terminal back.

    It writes between processes only, so that nothing of it runs beside a measurement.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.console = Console(file=sys.stderr, highlight=False)
        self.bar: Progress | None = None
        self.each_s: float | None = None  # what a process takes, as far as is known
        self.begin("", 0)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self.bar = Progress(*columns, console=self.console, auto_refresh=False)
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, stage: str, most: int, later: int = 0, *, early: bool = False) -> None:
        """A stage of so many processes begins, or fewer if it may end ``early``; ``later`` as many may follow."""
        self.stage, self.most, self.later, self.early = stage, most, later, early
        self.started, self.since = 0, self.clock()
        if self.bar is not None:
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.bar.add_task(stage, total=most)

    def starts(self, stream: str) -> None:
        """The next process begins, and so the one before is done."""
        if self.started:
            self.each_s = (self.clock() - self.since) / self.started
        text = f"{stream}, {estimate(self.each_s, self.most - self.started, self.later, early=self.early)}"
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[-1], completed=self.started, description=f"{self.stage}: {text}")
            self.bar.refresh()
        else:
            self.say(f"{self.stage} {self.started + 1}/{self.most}: {text}")
        self.started += 1

    def say(self, text: str) -> None:
        """A line, above the bar where there is one."""
        self.console.print(f"[{time.strftime('%H:%M:%S')}] {text}", markup=False, soft_wrap=True)


def estimate(each_s: float | None, left: int, later: int, *, early: bool = False) -> str:
    """How long a stage and what may follow take; ``each_s`` is what a process took, ``None`` before any has run."""
    processes = f"{'up to ' if early else ''}{counted(left, 'process', 'processes')}"
    if each_s is None:
        more = f", and up to {later} more where cases are suspected" if later else ""
        return f"the first of {processes} says how long they take{more}"
    more = f", and up to {each_s * later / 60:.1f} min more where cases are suspected" if later else ""
    return f"{processes} left of {each_s:.0f} s: {each_s * left / 60:.1f} min{more}"

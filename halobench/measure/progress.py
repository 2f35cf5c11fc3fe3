"""Progress of a run: a bar with the time left on a terminal, else a plain line for each case; and how it ended."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

NOT_MEASURED = "not measured"


class Progress:
    """Reports ``total`` cases one by one. It writes between captures only, so nothing refreshes in the background."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.started = time.monotonic()
        self.text = NOT_MEASURED
        self.console = Console(file=sys.stderr)
        self.bar: Bar | None = None
        if self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
            self.bar = Bar(*columns, TextColumn("{task.description}"), console=self.console, auto_refresh=False)
            self.task = self.bar.add_task("", total=total)
            self.bar.start()

    def note(self, row: dict[str, Any]) -> None:
        """Remember the case that was just measured."""
        self.text = describe(row)

    def advance(self) -> None:
        """Show that one more case is done."""
        self.done += 1
        text, self.text = self.text, NOT_MEASURED
        if self.bar is not None:
            self.bar.update(self.task, advance=1, description=text, refresh=True)
            return
        left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        self.console.print(
            f"[{self.done}/{self.total}, {left / 60:.1f} min left] {text}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()


def describe(row: dict[str, Any]) -> str:
    """A case and its outcome in one line."""
    name = row["case"].partition("/")[2]
    if row["status"] != "OK":
        return f"{name}: {row['status']} ({row['reason']})"
    latency = row.get("latency")
    said = f"{latency['median_ms']:.4g} ms" if latency else "correct"
    leaked = row.get("leaked_bytes")
    return f"{name}: {said}" + (f" (left {leaked / 2**30:.1f} GiB behind: a new worker follows)" if leaked else "")


def standing(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The operator's backends at the reference point, where all axes cross: a line a direction, the fastest first."""
    point = [row for row in rows if row["suite"] == "operator" and {"side", "block", "halo"}.issubset(row["groups"])]
    for direction in ("forward", "training"):
        here = [row for row in point if row["direction"] == direction and row.get("latency")]
        ranked = sorted(here, key=lambda row: float(row["latency"]["median_ms"]))
        if ranked:
            said = ", ".join(f"{row['backend']} {row['latency']['median_ms']:.3g} ms" for row in ranked)
            yield f"{direction} at the reference point: {said}"

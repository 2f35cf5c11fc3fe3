"""What a run tells while it goes on and leaves behind: progress, TensorBoard's logs, and its curves as a table."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from halobench.records import columns
from halobench.train.logs import Logs
from halobench.train.unusable import Unusable
from halobench.train.whole_file import write_table

Row = dict[str, Any]


class Curves(NamedTuple):
    """The table of a run, a row an epoch: its file's name, and its columns."""

    name: str
    columns: tuple[str, ...]


CURVES = Curves("curves.csv", tuple(columns.CURVES))


class Report:
    """Speaks for the first process; the others' are silent, but for what goes wrong in them (``warn``).

    A context manager, which ends bar and logs. The first step to come is ``begun``. What cannot be written raises
    ``Unusable``.
    """

    INTERVAL_S = 0.5
    LINE_S = 60.0  # between lines within an epoch, where no terminal shows a bar

    def __init__(self, folder: Path, *, silent: bool, begun: int = 1, curves: Curves = CURVES) -> None:
        self.folder, self.silent, self.begun, self.curves = folder, silent, begun, curves
        self.console = Console(quiet=silent)
        shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left")
        self.bar = Progress(*shown, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("")
        self.logs: Logs | None = None
        self.spoke, self.wrote = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        if not self.silent:
            self.logs = Logs(self.folder / "tensorboard", self.begun)
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if self.logs is None:
            return
        try:
            self.logs.close()
        except Unusable:
            if error is None:  # else the first error is the one to tell
                raise

    @property
    def due(self) -> bool:
        """Whether it is time to look at the loss, which makes the device wait, and to speak."""
        return time.monotonic() - self.spoke >= self.INTERVAL_S

    def begin(self, epoch: int, epochs: int, steps: int) -> None:
        """A new epoch (counted from 0) begins."""
        self.epoch, self.steps = f"epoch {epoch + 1}/{epochs}", steps
        self.bar.reset(self.task, total=steps, description=self.epoch)
        self.spoke = time.monotonic()

    def step(self, done: int, number: int, loss: float, images_per_s: float, learning_rate: float) -> None:
        """``done`` steps of the epoch are done; ``number`` of all."""
        state = f"loss {loss:.3f}, {images_per_s:.0f} images/s"
        self.bar.update(self.task, completed=done, description=f"{self.epoch}  {state}")
        if not self.console.is_terminal and time.monotonic() - self.wrote >= self.LINE_S:
            self.line(f"{self.epoch}, step {done}/{self.steps}: {state}")
        values = {"loss": loss, "images_per_s": images_per_s, "learning_rate": learning_rate}
        self.log({f"train/{name}": value for name, value in values.items()}, number)
        self.spoke = time.monotonic()

    def end(self, history: Sequence[Row], judged: Sequence[str], said: str) -> None:
        """An epoch has ended; its row is the history's last, ``judged`` is what the test tells, ``said`` in words."""
        row = history[-1]
        names = ("train_loss", *judged, "images_per_s")
        self.log({f"epoch/{name}": row[name] for name in names if row[name] is not None}, row["epoch"])
        self.line(
            f"{self.epoch}: loss {row['train_loss']:.3f}, {said}, {row['images_per_s']:.0f} images/s, "
            f"{row['seconds']:.1f} s since the start"
        )
        if not self.silent:
            write_table(self.folder / self.curves.name, self.curves.columns, history)

    def log(self, values: Mapping[str, float], number: int) -> None:
        """Write values to TensorBoard's logs, at a step or an epoch."""
        if self.logs is not None:
            self.logs.add(values, number)

    def warn(self, text: str) -> None:
        """Print a line to stderr, in any process."""
        show(Console(stderr=True), text)

    def line(self, text: str) -> None:
        """Print a line."""
        show(self.console, text)
        self.wrote = time.monotonic()


def show(console: Console, text: str) -> None:
    """Print a line as it is; of names that the terminal cannot show, or that are no text, the bytes."""
    safe = text.encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(safe, highlight=False, soft_wrap=True, markup=False)

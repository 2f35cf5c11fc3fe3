"""What a run tells while it goes on and leaves behind: progress, TensorBoard's logs, and its curves as a table."""

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

CURVES = (
    "model", "backend", "parameters", "seed", "machine", "torch", "halobench", "commit", "dirty", "processes", "batch",
    "image_size", "epoch", "step", "seconds", "learning_rate", "train_loss", "test_loss", "test_accuracy",
    "images_per_s",
)  # fmt: skip
Row = dict[str, Any]


class Report:
    """Speaks for the first process; the others' are silent. A context manager, which ends bar and logs."""

    INTERVAL_S = 0.5
    LINE_S = 60.0  # between lines within an epoch, where no terminal shows a bar

    def __init__(self, folder: Path, *, silent: bool) -> None:
        self.folder, self.silent = folder, silent
        self.console = Console(quiet=silent)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left")
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("")
        self.logs: SummaryWriter | None = None
        self.spoke, self.wrote = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        if not self.silent:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.logs = SummaryWriter(str(self.folder / "tensorboard"))
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if self.logs is not None:
            self.logs.close()

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
        if self.logs is not None:
            self.logs.add_scalar("train/loss", loss, number)
            self.logs.add_scalar("train/images_per_s", images_per_s, number)
            self.logs.add_scalar("train/learning_rate", learning_rate, number)
        self.spoke = time.monotonic()

    def end(self, history: Sequence[Row]) -> None:
        """An epoch has ended; its row is the history's last."""
        row = history[-1]
        if self.logs is not None:
            for name in ("train_loss", "test_loss", "test_accuracy", "images_per_s"):
                self.logs.add_scalar(f"epoch/{name}", row[name], row["epoch"])
        self.line(
            f"{self.epoch}: loss {row['train_loss']:.3f}, test loss {row['test_loss']:.3f}, "
            f"test accuracy {100 * row['test_accuracy']:.2f} %, {row['images_per_s']:.0f} images/s, "
            f"{row['seconds']:.1f} s since the start"
        )
        if not self.silent:
            write_curves(self.folder / "curves.csv", history)

    def line(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, soft_wrap=True)
        self.wrote = time.monotonic()


def write_curves(path: Path, history: Sequence[Row]) -> None:
    """Write a row an epoch, the whole file at once."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, CURVES, lineterminator="\n")
        table.writeheader()
        table.writerows(history)
    beside.replace(path)

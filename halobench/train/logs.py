"""TensorBoard's logs of a run: every step once, and one line where they cannot be written."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from halobench.train.unusable import Unusable
from halobench.train.whole_file import refusal


class Logs:
    """TensorBoard's logs in a folder. Events from step ``begun`` on, which an interrupted run left there, are hidden.

    All methods raise ``Unusable`` where nothing can be written.
    """

    def __init__(self, folder: Path, begun: int) -> None:
        self.folder = folder
        # What TensorBoard's thread meets, it keeps for the next call, and prints as well: one line is enough.
        self.hook, threading.excepthook = threading.excepthook, self.pass_over_writing
        with self.writing():
            folder.mkdir(parents=True, exist_ok=True)
            self.writer = SummaryWriter(str(folder), purge_step=begun)

    def add(self, values: Mapping[str, float], number: int) -> None:
        """Write values at a step, or at an epoch."""
        with self.writing():
            for name, value in values.items():
                self.writer.add_scalar(name, value, number)

    def close(self) -> None:
        """Write what is left."""
        try:
            with self.writing():
                self.writer.close()
        finally:
            threading.excepthook = self.hook

    def pass_over_writing(self, failed: threading.ExceptHookArgs) -> None:
        """Whatever threads print when they fail, but for files that TensorBoard's cannot write."""
        theirs = type(failed.thread).__module__.startswith("tensorboard.")
        if not (theirs and isinstance(failed.exc_value, OSError)):
            self.hook(failed)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Name the folder where it cannot be written to."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            cause = refusal(error)
            if cause is None:
                raise
            raise Unusable(f"{self.folder} cannot be written: {cause}") from error

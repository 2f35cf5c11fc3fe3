"""A command that trains: its options, its processes, and the one line that says what ends it too early."""

import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass

from halobench import terminal
from halobench.machine import memory
from halobench.train import trial
from halobench.train.checkpoint import CheckpointError
from halobench.train.processes import LOST, Processes
from halobench.train.run import Diverged, Run
from halobench.train.settings import Settings
from halobench.train.unusable import Unusable

STOPPED = 1
Parse = Callable[[Sequence[str] | None, int], tuple[Settings, bool]]
"""From arguments and the number of processes to the settings, and whether to resume."""


@dataclass(frozen=True)
class Command:
    """``python -m NAME``: what parses its arguments, and the kind of run that it is."""

    name: str
    parse: Parse
    run: type[Run]

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command. Exit status: 0 at the end, 1 the loss diverged, 2 something is unusable, 130 interrupted."""
        try:
            processes = Processes.of_environment()
        except Unusable as error:
            return terminal.refuse(self.name, error)
        return self.train(*self.chosen(arguments, processes), processes)

    def chosen(self, arguments: Sequence[str] | None, processes: Processes) -> tuple[Settings, bool]:
        """What the user chose; ends the program where that cannot be, which one of the processes tells."""
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                return self.parse(arguments, processes.count)
        except SystemExit:
            if processes.tells(said.getvalue()):
                sys.stderr.write(said.getvalue())
            raise

    def train(self, settings: Settings, resume: bool, processes: Processes) -> int:  # noqa: FBT001 - as ``chosen`` has it
        """Train in this process, and say what ends the run too early; the exit status."""
        device = processes.device(settings.device)
        try:
            with processes.joined(device):
                prepare_output(settings, processes, resume=resume)
                self.run(settings, processes, device, resume=resume).go()
        except Diverged as error:
            if processes.tells(str(error)):
                print(f"{self.name}: {error}", file=sys.stderr)
            return STOPPED
        except KeyboardInterrupt:
            left = "there is no checkpoint yet"
            if settings.checkpoint.exists():
                left = "the same command with --resume goes on"
            if processes.first:
                print(f"\n{self.name}: interrupted; {left}", file=sys.stderr)
            return terminal.INTERRUPTED
        except (Unusable, RuntimeError, MemoryError) as error:
            problem = problem_of(error, settings, processes)
            if problem is None:
                raise
            return terminal.refuse(self.name, problem) if processes.tells(problem) else terminal.UNUSABLE
        return 0


def problem_of(error: Exception, settings: Settings, processes: Processes) -> str | None:
    """What the user is to read about an error, or ``None`` where it is a fault of the program."""
    if isinstance(error, Unusable):
        return str(error)
    if memory.ran_out(error):
        return trial.reason(error, settings)
    if str(error).startswith("DataLoader worker"):
        return f"a process that reads images ended: {error}"
    return LOST if processes.lost(error) else None


def prepare_output(settings: Settings, processes: Processes, *, resume: bool) -> None:
    """Raise ``Unusable`` where nothing can be written to the output folder, or an old run would be overwritten."""
    if resume:
        return
    try:
        if settings.checkpoint.exists():
            raise CheckpointError(f"{settings.checkpoint} exists: go on with --resume, or give another --output")
        if processes.first:
            settings.output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=settings.output):
                pass
    except OSError as error:
        raise Unusable(f"--output {settings.output} cannot be written to: {error.strerror}") from error

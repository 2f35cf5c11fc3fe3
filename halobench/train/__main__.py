"""``python -m halobench.train``: train a model; under torchrun, on several GPUs and hosts."""

import sys
from collections.abc import Sequence
from pathlib import Path

from halobench import terminal
from halobench.train.checkpoint import CheckpointError
from halobench.train.data import DataError
from halobench.train.processes import Processes
from halobench.train.repeatable import NotRepeatable
from halobench.train.run import Diverged, Run
from halobench.train.settings import parse

STOPPED, INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 at the end, 1 the loss diverged, 2 something cannot be used, 130 interrupted."""
    processes = Processes.of_environment()
    settings, resume = parse(arguments, processes.count)
    device = processes.device(settings.device)
    try:
        with processes.joined(device):
            if not resume:
                refuse_existing(settings.checkpoint)
            Run(settings, processes, device, resume=resume).go()
    except (CheckpointError, DataError, NotRepeatable) as error:
        # A worker's exception arrives with its traceback in front of it.
        said = str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
        return terminal.refuse("halobench.train", said)
    except Diverged as error:
        print(f"halobench.train: {error}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        left = "there is no checkpoint yet"
        if settings.checkpoint.exists():
            left = "the same command with --resume goes on"
        print(f"\nhalobench.train: interrupted; {left}", file=sys.stderr)
        return INTERRUPTED
    return 0


def refuse_existing(path: Path) -> None:
    """Raise ``CheckpointError`` where a new run would overwrite an old one."""
    if path.exists():
        raise CheckpointError(f"{path} exists: go on with --resume, or give another --output")


if __name__ == "__main__":
    sys.exit(main())

"""``python -m halobench.train.time_to_accuracy``: how long networks of like size take to the same test accuracy.

MLPerf's habits: the clock starts before any data is touched and includes evaluation and checkpoints, nothing pauses,
every model runs several times with logged seeds, the runs of the models in turn, and a run that does not arrive
counts as one that did not. Starting Python and importing PyTorch come before.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halobench import models, terminal
from halobench.machine import cgroup
from halobench.records import columns
from halobench.train.processes import Processes
from halobench.train.run import Diverged, Run
from halobench.train.settings import FASHION_MNIST, SEEDS, Settings, complete
from halobench.train.unusable import Unusable
from halobench.train.whole_file import write_table

NAME = "halobench.train.time_to_accuracy"
MODELS = ("halonet_mini", "convnet_mini", "efficientnet_mini", "resnet_mini")
TABLE = "time-to-accuracy.csv"
COLUMNS = tuple(columns.TIMES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0 unless the data cannot be used or a choice is impossible."""
    command = parser()
    chosen = command.parse_args(arguments)
    if not 0 < chosen.target < 1:
        command.error(f"--target must be between 0 and 1, got {chosen.target}")
    if len(set(chosen.seeds)) < len(chosen.seeds) or not all(0 <= seed < SEEDS for seed in chosen.seeds):
        seeds = ", ".join(map(str, chosen.seeds))
        command.error(f"--seeds must be different numbers, at least 0 and below 2^63, got {seeds}")
    if (chosen.output / TABLE).exists():
        command.error(f"{chosen.output / TABLE} exists: give another --output")
    try:
        runs = [settings_of(chosen, name, seed) for seed in chosen.seeds for name in chosen.models]
        chosen.output.mkdir(parents=True, exist_ok=True)
        outcomes: list[dict[str, Any]] = []
        for settings in runs:
            outcomes.append(outcome(settings, chosen.target))
            write_table(chosen.output / TABLE, COLUMNS, outcomes)
            said = "reached" if outcomes[-1]["reached"] else "NOT reached"
            print(f"{settings.model}, seed {settings.seed}: {said} after {outcomes[-1]['seconds']:.1f} s", flush=True)
    except (Unusable, ValueError, OSError) as error:
        command.error(str(error))
    return 0


def settings_of(chosen: argparse.Namespace, name: str, seed: int) -> Settings:
    """The settings of one run of a model. Raises ``ValueError`` where they cannot be."""
    given = vars(chosen) | {"model": name, "seed": seed, "output": chosen.output / f"{name}-{seed}"}
    given |= {"optimizer": "sgd", "fast": True}  # nothing is resumed
    for other in ("target", "seeds", "models"):
        given.pop(other)
    if not models.entry(name).has_attention:
        given.pop("backend")
    return complete(given, Processes().count)


def outcome(settings: Settings, target: float) -> dict[str, Any]:
    """One run of a model: when it reached the target, or that it did not."""
    processes = Processes()
    run = Run(settings, processes, processes.device(settings.device), resume=False)
    try:
        history = run.go(target)
    except Diverged:
        history = run.history
    last: dict[str, Any] = history[-1] if history else {"seconds": None, "epoch": 0}
    best = max((row["test_accuracy"] for row in history), default=0.0)
    result = run.known | {
        "target": target,
        "reached": best >= target,
        "seconds": last["seconds"],
        "epochs": last["epoch"],
        "best_accuracy": best,
    }
    return {column: result[column] for column in COLUMNS}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Train models of like size on Fashion-MNIST until they reach the same test accuracy.",
        ["--output runs/times", "--output runs/pair --models halonet_mini convnet_mini --seeds 3 4"],
    )
    add = command.add_argument
    add("--data", type=Path, default=FASHION_MNIST, help="folder of Fashion-MNIST's files (default: %(default)s)")
    add("--output", type=Path, required=True, help="folder for the table and the curves of every run")
    add("--models", nargs="+", default=list(MODELS), metavar="MODEL", help="default: %(default)s")
    add("--backend", help="fills the attention slots (default: sdpa)")
    add("--target", type=float, default=0.91, help="test accuracy to reach (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="a run each (default: %(default)s)")
    add("--epochs", type=int, default=15, help="at most, and of the schedule (default: %(default)s)")
    add("--batch", type=int, default=256)
    add("--image-size", type=int, default=64, metavar="PIXELS")
    add("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    add("--workers", type=int, default=cgroup.workers(), help="processes that read images (default: one a core)")
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

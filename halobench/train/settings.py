"""What the user of ``python -m halobench.train`` may choose, and its checks."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from halobench import models, terminal
from halobench.attention import backends
from halobench.machine import cgroup
from halobench.models.catalogue import Detector

NAME = "halobench.train"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
OPTIMIZERS = ("sgd", "adamw")
LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3}  # for 256 images a step
WEIGHT_DECAYS = {"sgd": 2e-5, "adamw": 0.05}
WORKERS = min(4, cgroup.workers())  # that read images
SEEDS = 2**63  # one less is the largest that all generators take
MOST = 2**31  # of what is counted; sizes that tensors can have are below
RANGES = (
    (("epochs", "batch", "image_size"), 1, MOST, "at least 1 and below 2^31"),
    (("workers", "skip_unreadable"), 0, MOST, "at least 0 and below 2^31"),
    (("learning_rate", "weight_decay", "warm_up_epochs"), 0, math.inf, "a finite number, at least 0"),
    (("label_smoothing", "stochastic_depth", "ema"), 0, 1, "at least 0 and below 1"),
    (("randaugment",), 0, 11, "at least 0 and at most 10"),  # timm takes what is higher for 10
    (("seed",), 0, SEEDS, "at least 0 and below 2^63"),
)
"""Options, the least value of each, the first that is too large, and both in words."""


@dataclass(frozen=True)
class Settings:
    """A training run. ``batch`` counts images a step and process; ``learning_rate`` is the highest of the schedule.

    Raises:
        ValueError: a choice is impossible; the message names it.
    """

    data: Path
    output: Path
    model: str
    device: str
    dtype: str
    image_size: int
    learning_rate: float
    weight_decay: float
    backend: str | None = None
    epochs: int = 10
    batch: int = 256
    optimizer: str = "sgd"
    warm_up_epochs: float = 1.0
    label_smoothing: float = 0.1
    randaugment: int | None = None
    stochastic_depth: float = 0.0
    ema: float | None = None
    compile: bool = False
    fast: bool = False
    workers: int = WORKERS
    seed: int = 0
    check_data: bool = False
    skip_unreadable: int = 0

    def __post_init__(self) -> None:
        self.check_backend()
        self.check_numbers()
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no CUDA device on this machine")

    def check_backend(self) -> None:
        """Raise ``ValueError`` where there is no such model, it has no use for the backend, or that is not there."""
        entry = models.entry(self.model)  # raises where there is none
        if self.backend is None:
            return
        if not entry.has_attention:
            raise ValueError(f"--backend: {self.model} has no attention slots to fill, got {self.backend!r}")
        try:
            backends.load(self.backend)
        except ValueError as error:
            raise ValueError(f"--backend: {error}") from error
        except ImportError as error:
            raise ValueError(f"--backend {self.backend} cannot be loaded: {error}") from error

    def check_numbers(self) -> None:
        """Raise ``ValueError`` for the first number that is out of its range."""
        for names, low, high, wanted in RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not low <= value < high:  # as no comparison with NaN holds
                    raise ValueError(f"{flag(name)} must be {wanted}, got {value}")
        if self.warm_up_epochs > self.epochs:
            raise ValueError(f"--warm-up-epochs must be at most --epochs {self.epochs}, got {self.warm_up_epochs}")

    @property
    def checkpoint(self) -> Path:
        """Where the run keeps its last good state."""
        return self.output / "checkpoint.pt"

    def fixed(self) -> dict[str, Any]:
        """What a resumed run must share with the one that it goes on with, as plain values."""
        free = ("data", "output", "workers", "check_data", "skip_unreadable")  # who reads images, and from where
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in free}


def flag(name: str) -> str:
    """The command-line option of a field."""
    return f"--{name.replace('_', '-')}"


def parse(arguments: Sequence[str] | None, processes: int) -> tuple[Settings, bool]:
    """The settings of a command line for this many processes, and whether to resume.

    Ends the program with one line on stderr where a choice is impossible.
    """
    command = parser()
    chosen = vars(command.parse_args(arguments))
    resume = chosen.pop("resume")
    try:
        return complete(chosen, processes), resume
    except ValueError as error:
        sys.exit(terminal.refuse(NAME, error))


def complete(chosen: dict[str, Any], processes: int) -> Settings:
    """The settings, what was left open filled in: by the device, the model, the optimizer and the batch."""
    chosen = {name: value for name, value in chosen.items() if value is not None}
    entry, optimizer = models.entry(chosen["model"]), chosen["optimizer"]
    if isinstance(entry.recipe, Detector):
        raise ValueError(f"--model {entry.name} is a detector, which python -m halobench.detect trains")
    device = chosen.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    chosen.setdefault("dtype", half_precision() if device == "cuda" else "float32")
    chosen.setdefault("image_size", entry.image_size)
    images = min(chosen["batch"], MOST) * processes  # what is more is refused, and may be more than a float can be
    chosen.setdefault("learning_rate", LEARNING_RATES[optimizer] * images / 256)
    chosen.setdefault("weight_decay", WEIGHT_DECAYS[optimizer])
    if entry.has_attention:
        chosen.setdefault("backend", "sdpa")
    return Settings(**chosen)


def half_precision() -> str:
    """The dtype of two bytes that this GPU computes in: bfloat16 where it has it."""
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Train a model. Under torchrun, the same command trains on several GPUs and hosts.",
        [
            "--output runs/mini --ema 0.999",
            "--data IMAGES --output runs/h0 --model halonet_h0",
            "--output runs/mini --resume",
        ],
    )
    add = command.add_argument
    add("--data", type=Path, default=FASHION_MNIST, help="folder of train/ and val/ with a folder per class (see "
        "docs/training-data.md), or of Fashion-MNIST's four .gz files (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, required=True, help="folder for checkpoint, curves and TensorBoard logs")
    add("--model", default="halonet_mini", help="one of halobench.models.names() (default: %(default)s)")
    add("--backend", help="fills the attention slots (default: sdpa)")
    add("--image-size", type=int, metavar="PIXELS", help="default: the model's published one")
    add("--epochs", type=int, default=10)
    add("--batch", type=int, default=256, help="images a step and process (default: %(default)s)")
    add("--optimizer", choices=OPTIMIZERS, default="sgd", help="SGD with Nesterov momentum 0.9, or AdamW")
    add("--learning-rate", type=float, help="the schedule's highest (default: 0.1 or 0.001, times images a step / 256)")
    add("--weight-decay", type=float, help="default: 2e-5 (sgd), 0.05 (adamw); none on norms and biases")
    add("--warm-up-epochs", type=float, default=1.0, help="of linear warm-up; a cosine follows (default: %(default)s)")
    add("--label-smoothing", type=float, default=0.1)
    add("--randaugment", type=int, metavar="MAGNITUDE", help="0 to 10: two operations an image; default: none")
    add("--stochastic-depth", type=float, default=0.0, help="probability of skipping the last block")
    add("--ema", type=float, metavar="DECAY", help="evaluate an exponential moving average of the "
        "weights, whose decay grows up to this one")  # fmt: skip
    add("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    add("--dtype", choices=("bfloat16", "float16", "float32"), help="of autocast; default: bfloat16 on a GPU (float16, "
        "with scaled gradients, on one without bfloat16), float32 on a CPU")  # fmt: skip
    add("--compile", action="store_true", help="torch.compile the model")
    add("--fast", action="store_true", help="allow algorithms that do not repeat bit for bit")
    add("--workers", type=int, default=WORKERS, help="processes that read images (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--check-data", action="store_true", help="first read the headers of all images, and list those that "
        "cannot be read")  # fmt: skip
    add("--skip-unreadable", type=int, default=0, metavar="N", help="go on without up to N unreadable files; the next "
        "image takes the place of one in training (default: %(default)s)")  # fmt: skip
    add("--resume", action="store_true", help="go on with the checkpoint in --output; --epochs may grow, and the "
        "number of processes change, with --batch and --learning-rate")  # fmt: skip
    return command

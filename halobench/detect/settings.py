"""What the user of ``python -m halobench.detect`` may choose, and its checks."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from halobench import models, terminal
from halobench.models.catalogue import Detector
from halobench.train.settings import MOST, WORKERS, Settings, half_precision

NAME = "halobench.detect"
LEARNING_RATE = 0.02 / 16  # an image of a step
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class DetectorSettings(Settings):
    """A training run of a detector, by SGD. Its test is taken every so many epochs, and after the last.

    Raises:
        ValueError: a choice is impossible; the message names it.
    """

    evaluate_every: int = 1

    def __post_init__(self) -> None:
        if not isinstance(models.entry(self.model).recipe, Detector):
            raise ValueError(f"--model must be a detector, maskrcnn_ before a name, got {self.model!r}")
        if not 1 <= self.evaluate_every < MOST:
            raise ValueError(f"--evaluate-every must be at least 1 and below 2^31, got {self.evaluate_every}")
        super().__post_init__()


def parse(arguments: Sequence[str] | None, processes: int) -> tuple[DetectorSettings, bool]:
    """The settings of a command line for this many processes, and whether to resume.

    Ends the program with one line on stderr where a choice is impossible.
    """
    chosen = vars(parser().parse_args(arguments))
    resume = chosen.pop("resume")
    try:
        return complete(chosen, processes), resume
    except ValueError as error:
        sys.exit(terminal.refuse(NAME, error))


def complete(chosen: dict[str, Any], processes: int) -> DetectorSettings:
    """The settings, what was left open filled in: by the device, the model and the batch."""
    chosen = {name: value for name, value in chosen.items() if value is not None}
    entry = models.entry(chosen["model"])
    device = chosen.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    chosen.setdefault("dtype", half_precision() if device == "cuda" else "float32")
    chosen.setdefault("image_size", entry.image_size)
    chosen.setdefault("learning_rate", LEARNING_RATE * min(chosen["batch"], MOST) * processes)
    if entry.has_attention:
        chosen.setdefault("backend", "sdpa")
    # Where RoIs are cut out, no gradient repeats bit for bit at this speed.
    return DetectorSettings(**chosen, fast=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Train Mask R-CNN on images in COCO's format. Under torchrun, the same command trains on several GPUs.",
        [
            "--data scenes --output runs/r50 --image-size 512",
            "--data coco --output runs/halo --model maskrcnn_seresnet50_halo_b8 --backend fused",
            "--data scenes --output runs/r50 --image-size 512 --resume",
        ],
    )
    add = command.add_argument
    add("--data", type=Path, required=True, help="folder with annotations/instances_train*.json and _val*.json, and "
        "their images in train*/ and val*/ (see docs/detection.md)")  # fmt: skip
    add("--output", type=Path, required=True, help="folder for checkpoint, table and TensorBoard logs")
    add("--model", default="maskrcnn_resnet50", help="maskrcnn_ before one of halobench.models.names() (default: "
        "%(default)s)")  # fmt: skip
    add("--backend", help="fills the attention slots (default: sdpa)")
    add("--image-size", type=int, metavar="PIXELS", help="side of the square that images are brought to "
        "(default: 1024)")  # fmt: skip
    add("--epochs", type=int, default=12)
    add("--batch", type=int, default=16, help="images a step and process (default: %(default)s)")
    add("--learning-rate", type=float, help="the schedule's highest (default: 0.02, times images a step / 16)")
    add("--weight-decay", type=float, default=WEIGHT_DECAY, help="none on norms and biases (default: %(default)s)")
    add("--warm-up-epochs", type=float, default=1.0, help="of linear warm-up; a cosine follows (default: %(default)s)")
    add("--evaluate-every", type=int, default=1, metavar="EPOCHS", help="between tests (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    add("--dtype", choices=("bfloat16", "float16", "float32"), help="of autocast; default: bfloat16 on a GPU (float16 "
        "on one without bfloat16), float32 on a CPU")  # fmt: skip
    add("--compile", action="store_true", help="torch.compile the backbone")
    add("--workers", type=int, default=WORKERS, help="processes that read images (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--check-data", action="store_true", help="first read the headers of all images, and list those that "
        "cannot be read")  # fmt: skip
    add("--skip-unreadable", type=int, default=0, metavar="N", help="go on without up to N images that cannot be read "
        "(default: %(default)s)")  # fmt: skip
    add("--resume", action="store_true", help="go on with the checkpoint in --output; --epochs may grow, and the "
        "number of processes change, with --batch and --learning-rate")  # fmt: skip
    return command

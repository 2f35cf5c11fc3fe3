"""What the user of ``python -m halobench.scale`` chooses."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from halobench import models, terminal
from halobench.attention import backends
from halobench.cases.network import Network

NAME = "halobench.scale"
PAIRS = tuple(name for number in range(8) for name in (f"halonet_h{number}", f"efficientnet_b{number}"))
SMALL = ("halonet_mini", "efficientnet_mini")  # what a CPU measures in seconds


@dataclass(frozen=True)
class Settings:
    """``batch`` counts images a rank under weak scaling, and all images under strong scaling.

    ``counts`` are the numbers of ranks, the first of them 1. Of each point ``rounds`` times ``steps`` are timed.
    """

    models: tuple[str, ...]
    backend: str
    device: str
    dtype: str
    batch: int
    counts: tuple[int, ...]
    steps: int
    rounds: int
    compiled: bool
    bucket_mib: int
    compress: bool
    sync_batch_norm: bool
    output: Path

    def network(self, model: str, batch: int) -> Network:
        """The network that each rank trains on ``batch`` images."""
        entry = models.entry(model)
        backend = self.backend if entry.has_attention else None
        return Network(model, entry.image_size, batch, self.dtype, backend, compiled=self.compiled)


def parse(arguments: Sequence[str] | None, world: int) -> Settings:
    """The settings for ``world`` ranks; ends the program where they cannot be."""
    command = parser()
    options = command.parse_args(arguments)
    gpu = (options.device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda"
    if gpu and not torch.cuda.is_available():
        command.error("argument --device: torch sees no CUDA device on this machine")
    names = tuple(options.models.split(",")) if options.models else PAIRS if gpu else SMALL
    backend = options.backend or ("fused_cuda" if gpu else "sdpa")
    try:
        for name in names:
            models.entry(name)
        backends.load(backend)
        counts = counts_of(options.ranks, world)
    except (ValueError, ModuleNotFoundError) as error:
        command.error(str(error))
    for name in ("batch", "steps", "rounds", "bucket_mib"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            command.error(f"argument --{name.replace('_', '-')}: must be at least 1, got {getattr(options, name)}")
    if options.sync_batch_norm and not gpu:
        command.error("argument --sync-batch-norm: PyTorch's SyncBatchNorm needs a GPU")
    return Settings(
        names, backend, "cuda" if gpu else "cpu", "bfloat16" if gpu else "float32",
        options.batch or (128 if gpu else 4), counts, options.steps or (20 if gpu else 2),
        options.rounds or (10 if gpu else 2), options.compiled, options.bucket_mib, options.compress,
        options.sync_batch_norm, options.output,
    )  # fmt: skip


def counts_of(text: str | None, world: int) -> tuple[int, ...]:
    """The numbers of ranks to measure: powers of two and all there are, unless ``1,3`` are given.

    Raises:
        ValueError: one of them cannot be.
    """
    if text is None:
        return tuple(sorted({*(2**power for power in range(world.bit_length())), world}))
    given = text.split(",")
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= world for part in given):
        raise ValueError(f"--ranks must be numbers from 1 to {world}, separated by commas, got {text!r}")
    return tuple(sorted({1, *map(int, given)}))  # efficiencies are over one rank


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Measure training steps on 1, 2, ... ranks in one run, under weak and strong scaling.\n"
        "Start it with torchrun, a process a GPU (or on a CPU):\n"
        "torchrun --nproc-per-node N -m halobench.scale --output FILE",
        ["--output results/mine-scaling.json", "--models halonet_h1,efficientnet_b1 --compiled --output mine.json"],
    )
    command.add_argument("--output", type=Path, required=True, metavar="FILE", help="the results file (.json)")
    command.add_argument("--models", metavar="A,B", help="default: H0 to H7 and B0 to B7; on a CPU, two small ones")
    command.add_argument("--backend", metavar="NAME", help="of attention slots; default: fused_cuda, sdpa on a CPU")
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: GPUs where there are some")
    command.add_argument(
        "--batch", type=int, metavar="N", help="images a rank (weak), of all ranks (strong); default: 128"
    )
    command.add_argument("--ranks", metavar="1,2", help="numbers of ranks; default: powers of two, and all")
    command.add_argument("--steps", type=int, metavar="N", help="steps of a round; default: 20, on a CPU 2")
    command.add_argument("--rounds", type=int, metavar="N", help="rounds in which points take turns; default: 10, 2")
    command.add_argument("--compiled", action="store_true", help="torch.compile each network")
    command.add_argument(
        "--bucket-mib", type=int, default=25, metavar="N", help="gradients of an all-reduce; default: 25"
    )
    command.add_argument("--compress", action="store_true", help="send gradients in bfloat16")
    command.add_argument("--sync-batch-norm", action="store_true", help="normalise over the batch of all ranks")
    return command

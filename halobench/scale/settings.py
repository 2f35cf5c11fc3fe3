"""What the user of ``python -m halobench.scale`` chooses."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from halobench import models, terminal
from halobench.attention import backends
from halobench.cases.network import Network
from halobench.models.architecture import Architecture
from halobench.wording import counted

NAME = "halobench.scale"
PAIRS = tuple(name for number in range(8) for name in (f"halonet_h{number}", f"efficientnet_b{number}"))
STEPS = "steps"
WHAT = {
    STEPS: "training steps, a part of the batch on each rank",
    "operator": "halo attention of one image that ranks share",
    "inference": "a network's inference on one image that ranks share",
    "training": "its training step",
}
SCALING = ("weak", "strong")
BUCKET_MIB = 25  # as DistributedDataParallel has it
MAP_DIVISOR = 32  # the side of an image over that of a HaloNet's last map
SHARED = {  # models and sides of an image, if the user names none: on a GPU, and on a CPU
    ("operator", True): (("halonet_h0",), (1024, 2048, 4096, 8192)),
    ("operator", False): (("halonet_mini",), (256,)),
    ("inference", True): (("halonet_h0",), (1024, 2048, 4096, 8192)),
    ("inference", False): (("halonet_mini",), (256,)),
    ("training", True): (("halonet_h0",), (1024, 2048, 4096)),
    ("training", False): (("halonet_mini",), (256,)),
}
SMALL = ("halonet_mini", "efficientnet_mini")  # what a CPU measures in seconds


@dataclass(frozen=True)
class Settings:
    """``batch`` counts images a rank under weak scaling, and all images under strong scaling.

    ``counts`` are the numbers of ranks, the first of them 1. Of each point ``rounds`` times ``steps`` are timed.
    ``what`` is one of ``WHAT``; ``sides`` are those of the image that ranks share. ``captured``: calls are replayed.
    ``grid`` are the rows and columns of ranks that share an image; without it all stand in rows. ``scaling``: of which
    kinds points with a part of the batch each are. ``flat``: gradients are averaged in one message, without
    ``DistributedDataParallel``.
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
    what: str = STEPS
    sides: tuple[int, ...] = ()
    captured: bool = False
    static_graph: bool = False
    flat: bool = False
    grid: tuple[int, int] | None = None
    scaling: tuple[str, ...] = SCALING

    def network(self, model: str, batch: int) -> Network:
        """The network that each rank trains on ``batch`` images."""
        entry = models.entry(model)
        backend = self.backend if entry.has_attention else None
        return Network(
            model,
            entry.image_size,
            batch,
            self.dtype,
            backend,
            compiled=self.compiled,
            captured=self.captured and not self.compiled,
        )


def parse(arguments: Sequence[str] | None, world: int) -> Settings:
    """The settings for ``world`` ranks; ends the program where they cannot be."""
    command = parser()
    options = command.parse_args(arguments)
    gpu = (options.device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda"
    shared = options.what != STEPS
    if gpu and not torch.cuda.is_available():
        command.error("argument --device: torch sees no CUDA device on this machine")
    usual, sides = SHARED[options.what, gpu] if shared else (PAIRS if gpu else SMALL, ())
    names = tuple(options.models.split(",")) if options.models else usual
    backend = options.backend or (("fused" if shared else "fused_cuda") if gpu else "sdpa")  # strips or not
    try:
        known = {name: models.entry(name) for name in names}
        (backends.operator if options.what == "operator" else backends.load)(backend)
        grid = grid_of(options.grid, world) if options.grid else None
        counts = counts_of(options.ranks, world) if grid is None else tuple(sorted({1, math.prod(grid)}))
        sides = numbers("--sides", options.sides, 1) if options.sides else sides
    except (ValueError, ModuleNotFoundError) as error:
        command.error(str(error))
    for name, entry in known.items():
        if shared and not entry.has_attention:
            command.error(f"argument --what {options.what}: is for models with attention, got {name!r}")
        if options.what in ("inference", "training") and not isinstance(entry.recipe, Architecture):
            command.error(f"argument --what {options.what}: is for HaloNets, got {name!r}")
    if options.what == "training" and min(sides) <= MAP_DIVISOR:
        command.error(
            f"argument --sides: of more than {MAP_DIVISOR} in training, where an image's last map is to have more than "
            f"a pixel to normalise over, got {min(sides)}"
        )
    refuse(command, options, gpu=gpu, shared=shared)
    batch = options.batch or (128 if gpu else 4)
    if options.scaling == "strong" and all(batch % count for count in counts[1:]):
        found = " or ".join(map(str, counts[1:] or counts))
        command.error(f"argument --scaling: strong divides the batch among ranks, got a batch of {batch} for {found}")
    return Settings(
        names, backend, "cuda" if gpu else "cpu", "bfloat16" if gpu else "float32",
        batch, counts, options.steps or (20 if gpu else 2),
        options.rounds or (10 if gpu else 2), options.compiled, options.bucket_mib or BUCKET_MIB, options.compress,
        options.sync_batch_norm, options.output, options.what, sides, options.captured, options.static_graph,
        options.flat, grid, (options.scaling,) if options.scaling else SCALING,
    )  # fmt: skip


def refuse(command: argparse.ArgumentParser, options: argparse.Namespace, *, gpu: bool, shared: bool) -> None:
    """End the program where options do not fit one another."""
    for name in ("batch", "steps", "rounds", "bucket_mib"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            command.error(f"argument --{name.replace('_', '-')}: must be at least 1, got {getattr(options, name)}")
    needs = {
        "sync_batch_norm": (gpu, "PyTorch's SyncBatchNorm needs a GPU"),
        "captured": (gpu, "CUDA graphs need a GPU"),
        "bucket_mib": (not options.flat, "is for buckets of gradients, got --flat"),
        "compress": (not options.flat, "is for buckets of gradients, got --flat"),
        "static_graph": (not options.flat, "is for DistributedDataParallel, got --flat"),
    }
    for name, (there, said) in needs.items():
        if getattr(options, name) and not there:
            command.error(f"argument --{name.replace('_', '-')}: {said}")
    for name in ("batch", "scaling", "compiled", "bucket_mib", "compress", "sync_batch_norm", "static_graph", "flat"):
        if shared and getattr(options, name):
            command.error(f"argument --{name.replace('_', '-')}: is for --what {STEPS}, got --what {options.what}")
    if options.sides and not shared:
        command.error(f"argument --sides: is for one image that ranks share, got --what {STEPS}")
    if options.grid and not shared:
        command.error(f"argument --grid: is for one image that ranks share, got --what {STEPS}")
    if options.grid and options.ranks:
        command.error(f"argument --grid: says how many ranks there are, got --ranks {options.ranks}")


def counts_of(text: str | None, world: int) -> tuple[int, ...]:
    """The numbers of ranks to measure: powers of two and all there are, unless ``1,3`` are given.

    Raises:
        ValueError: one of them cannot be.
    """
    if text is None:
        return tuple(sorted({*(2**power for power in range(world.bit_length())), world}))
    return tuple(sorted({1, *numbers("--ranks", text, 1, world)}))  # efficiencies are over one rank


def grid_of(text: str, world: int) -> tuple[int, int]:
    """The rows and columns of a grid of ``world`` ranks or fewer.

    Raises:
        ValueError: there is no such grid.
    """
    down, cross, across = text.partition("x")
    if not (cross and all(part.isascii() and part.isdigit() and int(part) for part in (down, across))):
        raise ValueError(f"--grid must be rows and columns of ranks, such as 2x2, got {text!r}")
    if int(down) * int(across) > world:
        raise ValueError(f"--grid must have no more than the {counted(world, 'rank')} of this run, got {text!r}")
    return int(down), int(across)


def numbers(option: str, text: str, least: int, most: int | None = None) -> tuple[int, ...]:
    """The numbers that an option lists.

    Raises:
        ValueError: one of them cannot be.
    """
    given = text.split(",")
    if not all(
        part.isascii() and part.isdigit() and least <= int(part) and (most is None or int(part) <= most)
        for part in given
    ):
        upto = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{option} must be numbers {upto}, separated by commas, got {text!r}")
    return tuple(map(int, given))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Measure on 1, 2, ... ranks in one run: training steps under weak and strong scaling, or what ranks do that\n"
        "share one image. "
        "Start it with torchrun, a process a GPU (or on a CPU):\n"
        "torchrun --nproc-per-node N -m halobench.scale --output FILE",
        [
            "--output results/mine-scaling.json",
            "--models halonet_h1,efficientnet_b1 --compiled --output mine.json",
            "--what inference --sides 1024,8192 --output mine-image.json",
        ],
    )
    command.add_argument(
        "--output", type=Path, required=True, metavar="FILE",
        help="the results file (.json); until it is written, or if the run is cut short, its rows stand in a .jsonl",
    )  # fmt: skip
    command.add_argument(
        "--what", choices=tuple(WHAT), default=STEPS, help="; ".join(f"{name}: {said}" for name, said in WHAT.items())
    )
    command.add_argument(
        "--models", metavar="A,B", help="default: H0 to H7 and B0 to B7, on one image H0; on a CPU, small ones"
    )
    command.add_argument("--sides", metavar="A,B", help="of one image; default: 1024,2048,4096,8192, on a CPU 256")
    command.add_argument(
        "--backend", metavar="NAME", help="of attention slots; default: fused_cuda, on one image fused, on a CPU sdpa"
    )
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: GPUs where there are some")
    command.add_argument(
        "--batch", type=int, metavar="N", help="images a rank (weak), of all ranks (strong); default: 128"
    )
    command.add_argument(
        "--scaling", choices=SCALING, help="one kind alone: each point is another network to compile; default: both"
    )
    command.add_argument("--ranks", metavar="1,2", help="numbers of ranks; default: powers of two, and all")
    command.add_argument(
        "--grid", metavar="RxC", help="rows and columns of ranks that share an image, and one rank; default: rows alone"
    )
    command.add_argument("--steps", type=int, metavar="N", help="steps of a round; default: 20, on a CPU 2")
    command.add_argument("--rounds", type=int, metavar="N", help="rounds in which points take turns; default: 10, 2")
    command.add_argument("--compiled", action="store_true", help="torch.compile each network")
    command.add_argument("--captured", action="store_true", help="replay calls as CUDA graphs, communication included")
    command.add_argument("--static-graph", action="store_true", help="DistributedDataParallel's static_graph")
    command.add_argument(
        "--flat", action="store_true",
        help="average gradients in one message behind the backward pass, without DistributedDataParallel",
    )  # fmt: skip
    command.add_argument(
        "--bucket-mib", type=int, metavar="N", help=f"gradients of an all-reduce; default: {BUCKET_MIB}"
    )
    command.add_argument("--compress", action="store_true", help="send gradients in bfloat16")
    command.add_argument("--sync-batch-norm", action="store_true", help="normalise over the batch of all ranks")
    return command

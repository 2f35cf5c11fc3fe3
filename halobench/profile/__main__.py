"""``python -m halobench.profile BACKEND|MODEL``: traces, kernels and memory of one call, and what bounds it."""

import argparse
import re
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from halobench import models, terminal
from halobench.attention import backends
from halobench.attention.geometry import Border, Geometry
from halobench.attention.problem import Direction, Problem, Unsupported
from halobench.cases.options import DTYPES
from halobench.machine import ceilings
from halobench.profile import show
from halobench.profile.recording import Recording, record, synchronize
from halobench.profile.subject import Subject, subject
from halobench.profile.verdict import verdict
from halobench.records import roofline
from halobench.records.roofline import Ceilings

NAME = "halobench.profile"
CALLS = 5
NVTX_CALLS = 20
OF_BACKENDS = {
    "block": 8, "halo": 3, "stride": 1, "border": "masked", "side": 32, "heads": 4, "dim": 16, "no_positions": False,
}  # fmt: skip
OF_MODELS = {"image_side": 256}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0 where the case was profiled, else 2."""
    options = parser().parse_args(arguments)
    try:
        subjects = chosen(options)
        options.output.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what compilers and kernels have to say is no part of the table
            if options.nvtx:
                ranges(subjects)
                return 0
            best = ceilings.measure(options.device, options.dtype)
            recordings = [profiled(one, options, best) for one in subjects]
    except ModuleNotFoundError as error:
        return terminal.refuse(NAME, f"needs the package {error.name}, which is not installed")
    except OSError as error:
        return terminal.refuse(NAME, f"{options.output} cannot be written: {error.strerror}")
    except (ValueError, Unsupported, MemoryError, RuntimeError) as error:
        return terminal.refuse(NAME, error)
    if len(recordings) == 2:
        console = terminal.console()
        console.print(show.difference(*recordings))
        console.print(show.compared(*recordings), markup=False, soft_wrap=True)
    return 0


def chosen(options: argparse.Namespace) -> list[Subject]:
    """What the command line asks for, called once, which compiles and warms up."""
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device on this machine")
    if options.nvtx and options.device == "cpu":
        raise ValueError("--nvtx marks ranges on a GPU's timeline, and there is none on the CPU")
    if options.diff == options.name:
        raise ValueError(f"--diff must name another backend or model than what is profiled, got {options.diff!r}")
    options.dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    names = [options.name, *([options.diff] if options.diff else [])]
    complete(options, names)
    problem = Problem(
        Geometry(options.block, options.halo, options.stride, options.border), options.side, options.side,
        options.batch, options.heads, options.dim, options.dim, relative=not options.no_positions, dtype=options.dtype,
    )  # fmt: skip
    subjects = []
    for name in names:
        one = subject(name, problem, options.direction, options.device, options.image_side)
        one.call()
        synchronize(options.device)
        subjects.append(one)
    return subjects


def complete(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Put defaults where nothing was given.

    Raises:
        ValueError: something was given that is for none of these names.
    """
    operators = set(backends.names())
    for kind, defaults, others in (
        ("backends", OF_BACKENDS, set(models.names()) - operators), ("models", OF_MODELS, operators),
    ):  # fmt: skip
        for option, usual in defaults.items():
            if getattr(options, option) is None:
                setattr(options, option, usual)
            elif others.issuperset(names):
                raise ValueError(f"--{option.replace('_', '-')} is for {kind}, got {' and '.join(names)}")


def profiled(one: Subject, options: argparse.Namespace, ceilings: Ceilings) -> Recording:
    """Record a subject, write its files, and print its table and the sentence."""
    folder = options.output / "-".join(re.findall(r"[A-Za-z0-9_]+", f"{one.name} {options.direction}"))
    folder.mkdir(exist_ok=True)
    recording = record(one.name, one.call, options.device, folder, CALLS)
    show.write_table(recording, ceilings, folder)
    show.write_memory(recording, folder)
    floor = roofline.floor(one.passes, ceilings) if one.passes else None
    console = terminal.console()
    console.print(show.kernels(recording, ceilings, f"{one.name}, {one.described}; per call, under the profiler"))
    logs = shlex.quote(str(folder / "tensorboard"))
    console.print(
        f"peak memory {recording.peak_bytes / 2**20:.4g} MiB: {folder / 'memory.png'}\n"
        f"traces: tensorboard --logdir {logs}   or {folder / 'trace.json'} in ui.perfetto.dev",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    found = verdict(recording, one.executed, floor.ms if floor else None, ceilings)
    console.print(found.sentence, markup=False, soft_wrap=True)
    return recording


def ranges(subjects: list[Subject]) -> None:
    """Run the calls under NVTX ranges, one a call and one an operation, for Nsight Systems to record."""
    for one in subjects:
        with torch.autograd.profiler.emit_nvtx(record_shapes=True):
            for number in range(NVTX_CALLS):
                with torch.cuda.nvtx.range(f"{one.name} call {number}"):
                    one.call()
        torch.cuda.synchronize()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Profile one call of a backend or a model: traces, kernels, memory, and what bounds it.",
        ["sdpa --side 64 --batch 16", "strided_gather --diff sdpa --direction training", "halonet_h0 --batch 2"],
    )
    command.epilog = f"{command.epilog}\n  nsys profile python -m {NAME} sdpa --nvtx"
    command.add_argument("name", metavar="BACKEND|MODEL", help="what to profile: python -m halobench list shows names")
    command.add_argument("--diff", metavar="NAME", help="profile this one too, and show where the two differ")
    command.add_argument("--direction", choices=get_args(Direction), default="forward", help="default: forward")
    command.add_argument("--block", type=int, help="side of a block (default: 8)")
    command.add_argument("--halo", type=int, help="margin on each side (default: 3)")
    command.add_argument("--stride", type=int, help="of the queries (default: 1)")
    command.add_argument("--border", choices=get_args(Border), help="default: masked")
    command.add_argument("--side", type=int, help="side of the map (default: 32)")
    command.add_argument("--batch", type=int, default=1, help="images a call (default: 1)")
    command.add_argument("--heads", type=int, help="default: 4")
    command.add_argument("--dim", type=int, help="channels of a head (default: 16)")
    command.add_argument("--no-positions", action="store_true", default=None, help="without relative positions")
    command.add_argument("--image-side", type=int, help="side of a model's images (default: 256)")
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    command.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    command.add_argument("--nvtx", action="store_true", help="only run under NVTX ranges, for Nsight; no traces")
    command.add_argument("--output", type=Path, default=Path("profiles"), help="folder (default: profiles/)")
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

"""``python -m halobench.fuzz``: try backends on random problems, and shrink what they get wrong."""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from halobench import terminal
from halobench.attention import backends
from halobench.fuzz import coverage, pool
from halobench.fuzz.coverage import Coverage
from halobench.fuzz.display import Display
from halobench.fuzz.draw import DTYPES
from halobench.fuzz.pool import Plan, Result
from halobench.fuzz.shrink import shrunk

NAME = "halobench.fuzz"
FAILED = 1
SECONDS = 60.0
MEMBERS = 32
MOST_SHRUNK = 4
MOST_NAMED = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Exit status: 0 nothing is wrong, 1 something is, 2 unusable arguments or a backend that tried nothing, 130
    interrupted.
    """
    options = parser().parse_args(arguments)
    try:
        plan = planned(options)
        with options.output.open("w", encoding="utf-8") if options.output else nullcontext() as file:
            return hunt(plan, file, options.shrink)
    except ModuleNotFoundError as error:
        return terminal.refuse(NAME, f"needs the package {error.name}, which is not installed")
    except (ValueError, RuntimeError, OSError) as error:
        return terminal.refuse(NAME, error)


def hunt(plan: Plan, file: TextIO | None, shrink_s: float) -> int:
    """Try, report, shrink; the exit status."""
    coverages = {name: Coverage() for name in plan.backends}
    failures: list[Result] = []
    interrupted = False
    started = time.monotonic()
    with Display(plan) as display, closing(pool.results(plan, patience_s=0.5)) as results:
        try:
            for result in results:
                if result is not None:
                    coverages[result.backend].add(result)
                    failures += [result] if result.failed else []
                    if file is not None:
                        print(json.dumps(coverage.record(result, plan.seed, plan.device)), file=file, flush=True)
                display.show(coverages)
        except KeyboardInterrupt:
            interrupted = True
    report(plan, coverages, failures, time.monotonic() - started)
    if failures and shrink_s and not interrupted:
        try:
            show_shrunk(plan, failures, shrink_s)
        except KeyboardInterrupt:
            interrupted = True
    if failures or interrupted:
        return FAILED if failures else terminal.INTERRUPTED
    idle = [name for name, each in coverages.items() if not each.tried]
    if idle:
        return terminal.refuse(NAME, f"nothing was tried of {', '.join(idle)}: all was refused, or time was too short")
    return 0


def report(plan: Plan, coverages: dict[str, Coverage], failures: Sequence[Result], seconds: float) -> None:
    """Print the summary."""
    console = terminal.console()
    if not console.is_terminal:
        console.width = 160
    for table in coverage.tables(coverages):
        console.print(table)
        console.print()
    for failure in failures[:MOST_NAMED]:
        where = f"{failure.backend}, family {failure.family}, trial {failure.number}"
        said = f"{failure.status} {where}: {failure.answer['reason']}"
        console.print(said, markup=False, soft_wrap=True)
        console.print(f"  {failure.trial}", markup=False, soft_wrap=True)
    if len(failures) > MOST_NAMED:
        console.print(f"and {len(failures) - MOST_NAMED} more; --output keeps all", markup=False)
    tried = sum(each.tried for each in coverages.values())
    refused = sum(each.statuses["UNSUPPORTED"] for each in coverages.values())
    wrong = len(failures)
    console.print(
        f"seed {plan.seed}, {plan.device}: {tried} tried, {refused} refused, {wrong} wrong, in {seconds:.0f} s",
        markup=False,
    )


def show_shrunk(plan: Plan, failures: Sequence[Result], seconds: float) -> None:
    """Shrink some failures, unlike ones first, and print them as test cases."""
    chosen = list({kind(failure): failure for failure in reversed(failures)}.values())[-MOST_SHRUNK:]
    number = len(chosen)
    print(f"shrinking {number} of them, for up to {seconds:.0f} s", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(number) as threads:
        for small in threads.map(partial(shrunk, plan=plan, seconds=seconds), chosen):
            print(f"\n{small.status}: {small.answer['reason']}\n{coverage.test_case(small, plan.device)}")


def kind(failure: Result) -> tuple[Any, ...]:
    """What makes two failures alike: backend, status, and the first tensor that is wrong."""
    wrong = failure.answer.get("wrong") or ("",)
    return failure.backend, failure.status, wrong[0]


def planned(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for.

    Raises:
        ValueError: one of them is impossible.
        ModuleNotFoundError: a backend needs a package that is not installed.
    """
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device on this machine")
    names = tuple(dict.fromkeys(options.backends))
    for name in names:
        if backends.load(name).attend is None:
            raise ValueError(f"{name} is no attention operator: there is nothing to hold it against")
    for option in ("cases", "seconds", "workers", "members", "timeout"):
        number = getattr(options, option)
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f"--{option} must be positive, got {number}")
    if not 0 <= options.shrink < math.inf:
        raise ValueError(f"--shrink must not be negative, got {options.shrink}")
    seconds = SECONDS if options.cases is None and options.seconds is None else options.seconds
    usual = DTYPES if device == "cpu" else DTYPES[:3]
    return Plan(
        names,
        device,
        tuple(options.dtype or usual),
        options.seed,
        options.workers or max(1, cores() - 2),
        options.members,
        options.timeout,
        options.cases,
        seconds,
    )


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Try backends on random problems: geometries, maps, heads, dtypes, memory layouts and magnitudes. The output\n"
        "and all gradients are held against the float64 oracle by the rule that every timing passes. Each trial runs\n"
        "in a worker process that may crash or hang. What is wrong is shrunk and printed as a test case.",
        ["sdpa --seconds 30", "fused fused_cuda --device cuda --cases 5000 --workers 14 --output fuzz.jsonl"],
    )
    command.add_argument("backends", nargs="+", metavar="BACKEND", help="backends to try, by name")
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    command.add_argument("--cases", type=int, help="end after so many trials of each backend, refused ones not counted")
    command.add_argument("--seconds", type=float, help=f"end after this time (default: {SECONDS:.0f}, unless --cases)")
    command.add_argument("--seed", type=int, default=0, help="same seed, same problems (default: 0)")
    command.add_argument("--workers", type=int, help="processes (default: two less than cores)")
    command.add_argument("--dtype", action="append", choices=DTYPES, help="only this dtype; may be repeated")
    command.add_argument(
        "--members", type=int, default=MEMBERS, help=f"trials that share compiled kernels (default: {MEMBERS})"
    )
    command.add_argument("--timeout", type=float, default=120, help="seconds for one trial, compilation included")
    command.add_argument("--shrink", type=float, default=60, help="seconds for making failures small; 0: leave them")
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON lines, one a trial: what was drawn, what came"
    )
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

"""``python -m halobench.calibrate``: measure the gate itself, and say what it can see on this machine."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from halobench import terminal
from halobench.attention import backends
from halobench.calibrate import campaign, judgement
from halobench.calibrate.process import Plan
from halobench.compare import settings

NAME = "halobench.calibrate"
SIDES = {"cuda": (16, 64), "cpu": (16, 32)}
BATCHES = {"cuda": 16, "cpu": 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0, or 2 for unusable arguments or input."""
    options = parser().parse_args(arguments)
    try:
        if options.what == "measure":
            judgement.check(options.plain, options.planted)
            order = campaign.levels(options.plain, options.planted)
            campaign.measure(options.file, plan(options), order, say)
            return 0
        judged = judgement.judge(campaign.finished(options.file), settings.load(Path("pyproject.toml")))
        if options.output is not None:
            options.output.write_text(json.dumps(judged, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        return terminal.refuse(NAME, error)
    show(judged)
    return 0


def plan(options: argparse.Namespace) -> Plan:
    """What to measure.

    Raises:
        ValueError: a backend does not exist, or there is no such device.
    """
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device on this machine")
    names = tuple(options.backends.split(","))
    known = backends.names()
    for name in names:
        if name not in known:
            raise ValueError(f"--backends: no backend is called {name!r}; there are {', '.join(known)}")
    return Plan(device, names, SIDES[device], options.batch or BATCHES[device])


def show(judged: dict[str, Any]) -> None:
    """Print what was found, by protocol and by case."""
    console = terminal.console()
    levels = [level for level in judged["processes"] if float(level)]
    named = [f"{float(level):.0%} found" for level in levels]
    rows = [
        [
            name,
            percent(each["runs_with_a_false_alarm"]),
            percent(each["inconclusive_runs"]),
            *(percent(each["found"][level]) for level in levels),
            *(percent(each["found_in_short_cases"][level]) for level in levels),
        ]
        for name, each in judged["protocols"].items()
    ]
    columns = ["protocol", "false alarms", "inconclusive", *named, *(f"short: {each}" for each in named)]
    console.print(terminal.table("Whole runs, and slowdowns planted in one case at a time", columns, rows))
    rows = [
        [
            name.partition("/")[2],
            f"{case['median_ms']:.4g}",
            f"{case['spread_percent']:.1f} %",
            *(
                f"{case['planted_percent'][level]:+.1f} %" if level in case["planted_percent"] else None
                for level in levels
            ),
            *(percent(case["protocols"][judgement.JUDGED_BY]["found"].get(level)) for level in levels),
            "too noisy" if name in judged["too_noisy"] else case["advisory"] or "gated",
        ]
        for name, case in judged["cases"].items()
    ]
    columns = ["case", "ms", "95 % spread", *(f"planted {float(level):.0%}" for level in levels), *named, "gate"]
    console.print(terminal.table(f"Cases, found by {judgement.JUDGED_BY}", columns, rows))


def percent(share: float | None) -> str | None:
    """A share for the table."""
    return None if share is None else f"{share:.1%}"


def say(what: str) -> None:
    """Progress, a line on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Measure how far the gate can be trusted here: fresh processes, some with a real delay planted in every\n"
        "measured call; then comparisons drawn from disjoint groups of them. `measure` goes on where it was stopped.",
        ["measure run.jsonl --backends sdpa,conv,strided_gather", "judge run.jsonl --output results/calibration.json"],
    )
    what = command.add_subparsers(dest="what", required=True, metavar="measure|judge")
    measure = what.add_parser("measure", help="run the processes", formatter_class=terminal.Help)
    measure.add_argument("file", type=Path, help="where each process adds a line")
    measure.add_argument("--backends", metavar="A,B", required=True, help="the backends that stand for all")
    measure.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    measure.add_argument("--batch", type=int, help="images a call (default: 16 on a GPU, 1 on a CPU)")
    measure.add_argument("--plain", type=int, default=60, help="processes with nothing planted (default: 60)")
    measure.add_argument("--planted", type=int, default=20, help="processes of each planted level (default: 20)")
    judge = what.add_parser("judge", help="draw comparisons and decide them", formatter_class=terminal.Help)
    judge.add_argument("file", type=Path, help="what `measure` wrote")
    judge.add_argument("--output", type=Path, help="also write the outcome as JSON")
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

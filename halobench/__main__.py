"""``python -m halobench doctor`` and ``list``: what this machine can measure, and what there is to measure."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from halobench import doctor, listing, models, terminal
from halobench.cases.options import DTYPES, TIERS, Options
from halobench.machine import ceilings
from halobench.wording import counted

NAME = "halobench"
SUITES = Path("suites")
COLOURS = {"good": "green", "limited": "yellow", "bad": "red"}
COMMANDS = {
    "pytest suites/": "measure",
    "halobench.plot": "draw figures of results files",
    "halobench.report": "one interactive HTML page of results files",
    "halobench.export": "results as tables to query: SQLite, Parquet or CSV",
    "halobench.compare": "a verdict a case between two results files or folders",
    "halobench.ab": "two revisions measured in turns, with a null control",
    "halobench.calibrate": "the gate measured with planted slowdowns",
    "halobench.profile": "kernels, memory and traces of one case",
    "halobench.train": "a training run, on images or Fashion-MNIST",
    "halobench.scale": "training steps on 1, 2, ... GPUs in one run, under torchrun",
    "halobench.train.time_to_accuracy": "how long small networks take to one test accuracy",
    "halobench.detect": "a training run of Mask R-CNN, on images in COCO's format",
    "halobench.stamps": "scenes with masks in COCO's format, of Debian's stamps and wallpapers",
    "halobench.models": "the cost table of all models",
    "halobench.fuzz": "random problems for backends, against the oracle",
    "halobench.pages": "the tables of README and docs/, made anew from results/",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. The exit status is 0, 1 where ``doctor`` found what spoils measurements, 2 for what cannot be."""
    options = parser().parse_args(arguments)
    if options.command == "doctor":
        return show_doctor()
    try:
        return show_list(options)
    except ValueError as error:
        return terminal.refuse(NAME, error)


def show_doctor() -> int:
    """A line for everything that was looked at, and its remedy below it."""
    console = terminal.console()
    states = []
    for finding in doctor.examine():
        states.append(finding.state)
        line = Text.assemble((f"{finding.state:8}", COLOURS[finding.state]), f"{finding.what}: {finding.said}")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':8}remedy: {finding.remedy}"), soft_wrap=True)
    console.print(Text(", ".join(f"{states.count(state)} {state}" for state in COLOURS if state in states)))
    return int("bad" in states)


def show_list(options: argparse.Namespace) -> int:
    """Backends, models and suites; or the cases of a tier."""
    console = terminal.console()
    chosen = Options.choose(options.tier, options.backends, options.device, options.dtype, options.batch)
    if options.what == "cases":
        show_cases(options.suites or SUITES, chosen)
        return 0
    if options.what in ("all", "backends"):
        console.print(
            terminal.table("Backends", ("name", "state", "what it is, or why not"), list(listing.states()), left=3)
        )
    if options.what in ("all", "models"):
        console.print(Text("\nModels", style="bold"))
        console.print(", ".join(models.names()), markup=False)
    if options.what in ("all", "suites"):
        try:
            show_suites(options.suites or SUITES, chosen)
        except ValueError as error:
            if options.what != "all" or options.suites is not None:
                raise
            console.print(Text(f"\n{error}"), soft_wrap=True)  # an installation has none: the rest is listed
    if options.what == "all":
        console.print(terminal.table("\nCommands", ("command", "what it does"), list(COMMANDS.items()), left=2))
    return 0


def show_suites(folder: Path, chosen: Options) -> None:
    """The suites of a folder, with the number of cases in each tier."""
    console = terminal.console()
    rows = list(listing.tiers(listing.suites(folder), chosen))
    title = f"\nSuites on {chosen.device} in {chosen.dtype} (python -m halobench list cases --tier NAME shows cases)"
    console.print(Text(title, style="bold"), soft_wrap=True)  # above the table, which may be narrower
    console.print(terminal.table("", ("suite", "tier", "cases"), rows, left=2))


def show_cases(folder: Path, chosen: Options) -> None:
    """The cases of a tier, with the least time that their executed work takes on this machine, and their memory."""
    found = listing.suites(folder)
    best = ceilings.measure(chosen.device, chosen.dtype)
    rows = []
    for case in listing.cases(found, chosen):
        predicted = listing.predict(case, best)
        peak = predicted.peak_bytes
        rows.append((
            case.name, None if predicted.ms is None else f"{predicted.ms:.3g}",
            None if peak is None else f"{peak / 2**20:.4g}",
        ))  # fmt: skip
    title = f"{counted(len(rows), 'case')}, tier {chosen.tier}, {chosen.device}, {chosen.dtype}; times are least times"
    console = terminal.console()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(terminal.table("", ("case", "ms, at least", "peak MiB"), rows))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME, "What this machine can measure, and what there is.", ["doctor", "list", "list cases --tier smoke"]
    )
    commands = command.add_subparsers(dest="command", required=True, metavar="COMMAND")
    look = terminal.Help
    commands.add_parser("doctor", help="what can be measured here, what not, why, and the remedy", formatter_class=look)
    lists = commands.add_parser("list", help="backends, models, suites, tiers and cases", formatter_class=look)
    kinds = ("all", "backends", "models", "suites", "cases")
    lists.add_argument("what", nargs="?", choices=kinds, default="all", help="default: all but cases")
    lists.add_argument("--suites", type=Path, help="folder of the suites (default: suites/)")
    lists.add_argument("--tier", choices=TIERS, help="default: smoke on a CPU, default on a GPU")
    lists.add_argument("--backends", metavar="A,B", help="only these (default: all)")
    lists.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    lists.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    lists.add_argument("--batch", type=int, metavar="N", help="images per call (default: each suite's own)")
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

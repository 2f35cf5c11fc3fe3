"""``python -m halobench.compare BASE HEAD``: a verdict for every case of two results files or folders."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from halobench import terminal
from halobench.compare import foreign, render, settings, sides
from halobench.compare.evidence import ENOUGH_RUNS
from halobench.compare.outcome import Outcome
from halobench.compare.settings import Settings
from halobench.compare.sides import Side
from halobench.compare.verdict import judge
from halobench.records.table import ResultsError
from halobench.wording import counted, legible

NAME = "halobench.compare"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 no regression, 1 regression, 2 unusable arguments or input, 3 inconclusive."""
    options = parser().parse_args(arguments)
    try:
        chosen = settings.load(Path("pyproject.toml")).with_threshold(options.threshold)
        base, head = sides.load(options.base), sides.load(options.head)
        sides.refuse_itself(base, head)
        outcome = compare(base, head, chosen, across=options.across)
    except (ResultsError, OSError) as error:
        return terminal.refuse(NAME, error)
    return conclude(NAME, outcome, options.json, options.markdown)


def conclude(name: str, outcome: Outcome, as_json: Path | None, as_markdown: Path | None, more: str = "") -> int:
    """Show an outcome, then write the files that were asked for; the exit status.

    What cannot be shown or written makes it ``UNUSABLE``: a full disk or a reader that is gone is no regression.
    """
    unusable = 0
    try:
        console = terminal.console()
        render.show(outcome, console)
        if more:
            console.print(more, markup=False, soft_wrap=True)
        terminal.flush()
    except terminal.Unshown as error:
        unusable = terminal.refuse(name, f"{error}: {outcome.headline}")
    for problem in write(outcome, as_json, as_markdown):
        unusable = terminal.refuse(name, problem)
    return unusable or int(outcome.status)


def compare(base: Side, head: Side, chosen: Settings, *, across: bool = False) -> Outcome:
    """The comparison of two sides.

    Raises:
        ResultsError: the sides differ in machine, software or task, and ``across`` does not wave that through.
    """
    apart = sides.differences(base.headers[0], head.headers[0])
    if apart and not across:
        raise ResultsError(f"not comparable (--across compares anyway): {'; '.join(apart)}")
    notes = [f"differs, base | head: {each}" for each in apart]
    for side in (base, head):
        unfinished = [header for header in side.headers if not header.complete]
        notes += [f"{header.file} {header.lacking or 'is of a run that did not finish'}" for header in unfinished]
    for side in (base, head):
        sampled = all(len(samples) > 1 for case in side.cases.values() for samples in case.samples_ms)
        if (tool := side.headers[0].tier) in foreign.LACKS:
            notes.append(foreign.lacking(legible(side.name), tool, sampled=sampled))
    if min(base.runs, head.runs) < ENOUGH_RUNS:
        notes.append(
            f"{base.runs} against {counted(head.runs, 'run')}: with fewer than {ENOUGH_RUNS} a side, changes below "
            f"{chosen.between_runs_percent:g} % count as what two processes differ in anyway"
        )
    names = legible(base.name), legible(head.name)
    return Outcome(*names, judge(base.cases, head.cases, chosen), chosen, notes=notes)


def write(outcome: Outcome, as_json: Path | None, as_markdown: Path | None) -> Iterator[str]:
    """Write the files that were asked for, one whatever becomes of the other; which cannot be written, in words."""
    document, comment = json.dumps(outcome.document(), indent=1) + "\n", render.markdown(outcome)
    for path, text in ((as_json, document), (as_markdown, comment)):
        try:
            if path is not None:
                path.write_text(text, encoding="utf-8")
        except OSError as error:
            yield f"{path} cannot be written: {error.strerror}"


def percent(text: str) -> float:
    """A number of percent above 0."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of percent above 0, got {text!r}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Compare two results files, or two folders of repeated runs, and say of every case whether it changed.\n"
        "Exit status: 0 no regression, 1 regression, 2 unusable arguments or input, 3 inconclusive:\n"
        "a side was measured while something else was at work.",
        [
            "base.json head.json",
            "runs/base/ runs/head/ --threshold 2 --markdown comment.md",
            "old.json new.json --across",
        ],
    )
    command.add_argument("base", type=Path, help="a results file, or a folder: a file for each repeated run")
    command.add_argument("head", type=Path, help="the same of what is to be judged")
    add_report_options(command)
    command.add_argument("--across", action="store_true", help="compare although machine, software or tier differ")
    return command


def add_report_options(command: argparse.ArgumentParser) -> None:
    """The options of every command that ends in a comparison."""
    command.add_argument(
        "--threshold",
        type=percent,
        metavar="PERCENT",
        help="the change of time that counts (default: pyproject.toml, or 1)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    command.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write a table for a pull request's comment"
    )


if __name__ == "__main__":
    terminal.end(NAME, main)

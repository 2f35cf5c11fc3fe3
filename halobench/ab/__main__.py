"""``python -m halobench.ab BASE [HEAD]``: did anything get slower between two revisions? Measured here and now."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from halobench import terminal
from halobench.ab import protocol, worktrees
from halobench.ab.display import Display
from halobench.ab.protocol import BASE, CONTROL, HEAD
from halobench.ab.runner import RunError, Suites, test_ids
from halobench.ab.worktrees import Checkout, GitError
from halobench.compare import settings, sides
from halobench.compare.__main__ import add_report_options, conclude
from halobench.compare.outcome import Outcome
from halobench.compare.settings import Settings
from halobench.records.table import ResultsError
from halobench.wording import counted

NAME = "halobench.ab"
INSTRUMENTS = (
    "halobench/measure", "halobench/machine", "halobench/records/roofline.py", "halobench/cases/workload.py",
    "halobench/train/step.py", "halobench/train/workload.py", "suites",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 no regression, 1 regression, 2 unusable, 3 inconclusive, 130 interrupted."""
    options = parser().parse_args(arguments)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it cleans up like Ctrl-C
    try:
        root = Path(worktrees.git(Path.cwd(), "rev-parse", "--show-toplevel"))
        chosen = settings.load(root / "pyproject.toml").with_threshold(options.threshold)
        with worktrees.checkouts(root, options.base, options.head) as (base, head), Display() as display:
            output = fresh_folder(options.output)
            outcome = ab(base, head, Suites(suite_arguments(options)), output, chosen, display)
            note_instruments(outcome, worktrees.changed(root, base, head, *INSTRUMENTS))
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted; the worktrees are removed", file=sys.stderr)
        return terminal.INTERRUPTED
    except (GitError, ResultsError, RunError, OSError) as error:
        return terminal.refuse(NAME, error)
    finally:
        signal.signal(signal.SIGTERM, previous)
    as_json, as_markdown = options.json or output / "verdict.json", options.markdown or output / "verdict.md"
    return conclude(NAME, outcome, as_json, as_markdown, more=f"results: {output}")


def ab(
    base: Checkout, head: Checkout, measure: protocol.Measure, output: Path, chosen: Settings, display: Display
) -> Outcome:
    """Screen all cases, confirm the suspects, and judge both head and control.

    Raises:
        RunError: a revision could not be measured.
        ResultsError: what it wrote cannot be used.
    """
    folders = {BASE: base.folder, HEAD: head.folder, CONTROL: base.folder}
    streams = len(protocol.STREAMS)
    most = protocol.CONFIRMATION_ROUNDS * streams
    display.begin("screening", protocol.SCREENING_ROUNDS * streams, later=most)
    rounds = range(protocol.SCREENING_ROUNDS)
    screened = protocol.measure_rounds(measure, folders, output / "screening", rounds, display.starts)
    screening = protocol.staged(screened)
    found = protocol.suspects(screening, chosen)
    gated = protocol.gated(found, screening, chosen)
    again = protocol.undisturbed(gated, screening)
    confirmation = None
    if again:
        suspects, cases = counted(len(again), "suspect"), counted(len(screening.base), "case")
        display.say(f"{suspects} among {cases}, measured again as long as that may decide something")
        display.begin("confirmation", most, early=True)
        known = test_ids((output / "screening" / BASE).glob("*.json"))
        ids = {name: known[name] for name in again}
        confirmation = protocol.confirm(measure, folders, output / "confirmation", ids, chosen, display.starts)
    judged, control = protocol.verdicts(screening, confirmation, chosen)
    apart = sides.differences(screened[BASE].headers[0], screened[HEAD].headers[0])
    notes = [f"differs, base | head: {each}" for each in apart]
    notes += [
        f"measured in the screening alone, where they looked changed{why}: {counted(number, noun)}"
        for number, noun, why in (
            (len(found) - len(gated), "advisory case", ""),
            (len(gated) - len(again), "case", " and every run of the base was disturbed"),
        )
        if number
    ]
    one, other = (f"{each.revision} ({each.commit[:10]})" for each in (base, head))
    return Outcome(one, other, judged, chosen, control=control, notes=notes)


def note_instruments(outcome: Outcome, files: Sequence[str]) -> None:
    """Say so where the revisions do not measure alike."""
    if files:
        outcome.notes.append(f"the revisions differ in how they measure: {', '.join(files)}")


def fresh_folder(chosen: Path | None) -> Path:
    """The folder for the results, which must not hold any yet.

    Raises:
        OSError: it holds something.
    """
    folder = chosen or Path("results") / f"mine-ab-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise OSError(f"--output must be a new or empty folder, got {folder}")
    return folder


def suite_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments for pytest that narrow the run."""
    found = ["-q"]
    for name in ("tier", "backends", "device", "dtype", "batch"):
        value = getattr(options, name)
        if value is not None:
            found += [f"--{name}", str(value)]
    return [*found, "-k", options.keyword] if options.keyword else found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Measure two revisions of this repository in turns, in fresh processes, and compare them.\n"
        "The base is also measured against itself: if that shows a change, the verdict is inconclusive.\n"
        "Exit status: 0 no regression, 1 regression, 2 unusable arguments or input, 3 inconclusive.",
        ["main", "main... -k b8h3-64x64 --backends sdpa,conv", "v0.1.0 v0.2.0 --tier smoke --markdown comment.md"],
    )
    command.add_argument("base", help="a revision; A... is the merge base of A and HEAD")
    command.add_argument("head", nargs="?", help="a revision (default: the working tree as it is, new files included)")
    command.add_argument("-k", dest="keyword", metavar="EXPRESSION", help="only cases that fit, as in pytest")
    command.add_argument("--tier", help="how much to measure, as in the suites")
    command.add_argument("--backends", metavar="A,B", help="only these backends")
    command.add_argument("--device", help="cpu or cuda")
    command.add_argument("--dtype", help="as in the suites")
    command.add_argument("--batch", help="as in the suites")
    command.add_argument("--output", type=Path, help="a new folder for all results (default: results/mine-ab-TIME)")
    add_report_options(command)
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

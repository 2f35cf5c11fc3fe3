"""A comparison as a table for the terminal, and as Markdown for a pull request."""

import html
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from halobench import terminal
from halobench.compare.outcome import Exit, Outcome
from halobench.compare.verdict import Judged, Verdict

COLUMNS = ("case", "verdict", "base ms", "head ms", "change", "95 % interval", "remarks")
MARKDOWN_ROWS = 100  # a comment holds 65,536 characters
COLOURS = {
    Verdict.FAILED: "bold red",
    Verdict.SLOWER: "red",
    Verdict.LARGER: "red",
    Verdict.DISTURBED: "bold yellow",
    Verdict.AMBIGUOUS: "yellow",
    Verdict.FASTER: "green",
    Verdict.MISSING: "magenta",
    Verdict.NEW: "cyan",
    Verdict.SAME: "dim",
}
STATUS_COLOURS = {Exit.FINE: "bold green", Exit.REGRESSION: "bold red", Exit.INCONCLUSIVE: "bold yellow"}


def show(outcome: Outcome, console: Console) -> None:
    """Print the cases that did not stay the same, then the outcome."""
    for note in outcome.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    rows = noteworthy(outcome.sorted)
    if rows:
        made = terminal.table(f"{outcome.base} -> {outcome.head}", COLUMNS, [cells(case) for case in rows], left=2)
        for case, made_row in zip(rows, made.rows, strict=True):
            made_row.style = COLOURS[case.verdict]
        console.print(made)
    for case in outcome.fired:
        console.print(Text(f"control: {case.case} {change(case)}, base against itself"), soft_wrap=True)
    console.print(Text(outcome.headline, style=STATUS_COLOURS[outcome.status]), soft_wrap=True)


def noteworthy(cases: Sequence[Judged]) -> list[Judged]:
    """The cases that changed, or may have."""
    return [case for case in cases if case.verdict is not Verdict.SAME or case.grown or case.shrunk]


def cells(case: Judged) -> tuple[str, ...]:
    """A case as a row of the table."""
    time = case.time
    return (
        case.case,
        str(case.verdict),
        *("-" if value is None else f"{value:.4g}" for value in (case.base_ms, case.head_ms)),
        change(case),
        f"{time.low - 1:+.1%} to {time.high - 1:+.1%}" if time else "-",
        remarks(case),
    )


def change(case: Judged) -> str:
    """The relative change of the time."""
    return f"{case.time.ratio - 1:+.1%}" if case.time else "-"


def remarks(case: Judged) -> str:
    """What else there is to say of a case."""
    advisory = f"advisory: {case.advisory}" if case.advisory else ""
    return "; ".join(part for part in (*case.grown, *case.shrunk, case.reason, advisory) if part)


def markdown(outcome: Outcome) -> str:
    """The comparison for a pull request's comment. Names and reasons are untrusted text, and escaped."""
    lines = [f"### halobench: {escaped(outcome.headline)}", ""]
    lines += [f"Base `{code(outcome.base)}`, head `{code(outcome.head)}`.", ""]
    lines += [f"- {escaped(note)}" for note in outcome.notes]
    lines += [f"- control: {escaped(case.case)} {change(case)}, base against itself" for case in outcome.fired]
    rows = noteworthy(outcome.sorted)
    if rows:
        lines += ["", row(COLUMNS), row(["---"] * len(COLUMNS))]
        lines += [row([escaped(cell) for cell in cells(case)]) for case in rows[:MARKDOWN_ROWS]]
    if len(rows) > MARKDOWN_ROWS:
        lines += ["", f"... and {len(rows) - MARKDOWN_ROWS} more."]
    return "\n".join(lines) + "\n"


def row(entries: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(entries)} |"


def escaped(text: str) -> str:
    """Text that means nothing in Markdown or HTML."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|~#!@" else letter for letter in flat)


def code(text: str) -> str:
    """Text inside a code span: it cannot end it."""
    return " ".join(text.split()).replace("`", "'")

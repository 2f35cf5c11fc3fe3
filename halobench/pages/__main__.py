"""``python -m halobench.pages``: make the marked sections of README and docs/ anew, from results/ and the schema."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from halobench import terminal
from halobench.pages.marks import PageError, filled
from halobench.pages.sections import sections
from halobench.records.table import ResultsError

NAME = "halobench.pages"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in the root of a checkout; the exit status is 0, or 2 where a page or results cannot be used."""
    options = parser().parse_args(arguments)
    try:
        for path, text in made(options.root).items():
            if path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                print(path)
    except (PageError, ResultsError, OSError) as error:
        return terminal.refuse(NAME, error)
    return 0


def made(root: Path) -> dict[Path, str]:
    """README and the pages below docs/, as they are with their sections made anew.

    Raises:
        PageError: the marks of a page cannot be understood.
        ResultsError: results/ cannot be read.
    """
    there = sections(root / "results")
    pages = {}
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        try:
            pages[path] = filled(path.read_text(encoding="utf-8"), there)
        except PageError as error:
            raise PageError(f"{path}: {error}") from None
    return pages


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Make the marked sections of README and docs/ anew, from results/ and the schema; name what changed.",
        [""],
    )
    command.add_argument("root", nargs="?", type=Path, default=Path(), help="a checkout (default: this folder)")
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

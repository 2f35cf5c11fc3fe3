"""``python -m halobench.report results/ -o report.html``: one HTML page of results files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from halobench import terminal
from halobench.records.table import ResultsError, read_all
from halobench.report.page import page
from halobench.wording import counted

NAME = "halobench.report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0 where a page was written, else 2."""
    options = parser().parse_args(arguments)
    if options.output.suffix in (".json", ".jsonl"):
        return terminal.refuse(NAME, f"--output must name an HTML file, got {options.output}")
    try:
        results = read_all(options.results)
        content = page(results)
        options.output.write_text(content, encoding="utf-8")
    except ResultsError as error:
        return terminal.refuse(NAME, error)
    except OSError as error:
        return terminal.refuse(NAME, f"{options.output} cannot be written: {error.strerror}")
    size = options.output.stat().st_size / 2**20
    cases = counted(len(results.table) + len(results.networks), "case")
    said = f"{cases} of {counted(len(results.headers), 'file')}"
    terminal.console().print(f"{options.output}: {said}, {size:.1f} MiB", markup=False, soft_wrap=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Write one self-contained, interactive HTML page of results files.",
        ["results/", "base.json head.json -o change.html"],
    )
    command.add_argument("results", nargs="+", type=Path, help="results files, or a folder of them; two are compared")
    command.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

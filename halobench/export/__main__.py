"""``python -m halobench.export RESULTS --to FILE``: results files as tables that other tools query."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from halobench import terminal
from halobench.export import files, sqlite
from halobench.export.tables import tables
from halobench.records.schema import ResultsError
from halobench.records.table import read_all
from halobench.wording import counted

NAME = "halobench.export"
SUFFIXES = (".sqlite", ".parquet", ".csv")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0, or 2 for unusable arguments or input."""
    options = parser().parse_args(arguments)
    try:
        print(export(options.results, options.to))
    except (ResultsError, OSError) as error:
        return terminal.refuse(NAME, error)
    return 0


def export(results: Sequence[Path], path: Path) -> str:
    """Write the tables of results files; what was written, in a line.

    Raises:
        ResultsError: results cannot be read, or the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ResultsError(f"--to must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {str(path)!r}")
    made = tables(read_all(results))
    runs = len(made["runs"])
    if path.suffix == ".sqlite":
        new = sqlite.add(path, made)
        return f"{path}: {counted(runs, 'run')}, {new} of them new"
    files.write(path, made)
    counts = [f"{counted(len(made[name]), 'row')} in {place}" for name, place in files.paths(path).items()]
    return f"{counted(runs, 'run')}: {', '.join(counts)}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Write results files as four tables: cases (of operators and layers), networks, samples, and their runs.\n"
        "The columns are those of docs/metrics.md; docs/records.md shows what can be asked of them.\n\n"
        "FILE.sqlite     a database of the four tables; runs that it does not hold yet are added, the others stay\n"
        "FILE.parquet    the cases; beside it FILE-networks.parquet, FILE-samples.parquet and FILE-runs.parquet\n"
        "FILE.csv        the same as CSV; null is an empty cell\n\n"
        "Parquet needs the package pyarrow, the extra `parquet`.",
        ["results/ --to records.sqlite", "results/mine.json --to history.sqlite", "results/ --to records.parquet"],
    )
    command.add_argument("results", nargs="+", type=Path, help="results files, or folders of them")
    command.add_argument("--to", type=Path, required=True, metavar="FILE", help="what to write, by its suffix")
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

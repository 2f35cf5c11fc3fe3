"""``python -m halobench.plot results/``: draw the figures and write the summaries of results files."""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from halobench import terminal
from halobench.figures import (
    bars,
    closed_form,
    curves,
    detection,
    heat,
    network_axes,
    networks,
    precision,
    predicted,
    published,
    ranks,
    roofline,
    scaling,
    shared,
    summary,
)
from halobench.figures.index import write_index
from halobench.figures.selection import Drawn, Selection, network_selections, selections
from halobench.figures.style import look, save
from halobench.records.table import Results, ResultsError, read_all
from halobench.wording import counted

FORMATS = ("png", "svg")
NAME = "halobench.plot"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0 where something was drawn, else 2."""
    options = parser().parse_args(arguments)
    folder = options.results[0] if options.results[0].is_dir() else options.results[0].parent
    output = options.output or folder / "figures"
    if options.index and not options.results[0].is_dir():
        parser().error(f"--index describes a folder of results, got {folder}")
    try:
        results = read_all(options.results)
        drawn = draw(results, output, options.format, folder if options.results[0].is_dir() else None)
        if options.index:
            write_index(results, folder, drawn)
    except (ResultsError, OSError) as error:
        return terminal.refuse(NAME, error)
    if not drawn:
        return terminal.refuse(NAME, "nothing could be drawn: no case of these results was measured")
    print(f"{counted(len(drawn), 'figure')}, summary.csv and summary.md in {output}")
    return 0


def draw(results: Results, output: Path, file_format: str = "png", folder: Path | None = None) -> list[Path]:
    """Draw every figure that the results have data for, and write the summaries; the figures' paths.

    A figure that lacks its data is left out, with a line on stdout that says why. Curves of training runs are looked
    for below ``folder``, where one is given.
    """
    if file_format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    output.mkdir(parents=True, exist_ok=True)
    chosen, of_networks = selections(results), network_selections(results)
    with look():
        paths = [*saved(named_figures(chosen, of_networks, folder), output, file_format)]
    summary.write(results, chosen, of_networks, output)
    return paths


def saved(drawn: Drawn, output: Path, file_format: str) -> Iterator[Path]:
    """Save the figures; the paths of those that there are."""
    for name, figure in drawn:
        path = output / f"{plain(name)}.{file_format}"
        if isinstance(figure, str):
            print(f"no {path.name}: {figure}")
            continue
        save(figure, path)
        yield path


def named_figures(chosen: list[Selection], of_networks: list[Selection], folder: Path | None) -> Drawn:
    """All figures under their files' names."""
    for selection in chosen:
        for name, figure in figures(selection):
            yield f"{selection.slug}-{name}", figure
    for selection in of_networks:
        for name, figure in network_figures(selection):
            yield f"{selection.slug}-training-{name}", figure
        for name, figure in detection.draw(selection):
            yield f"{selection.slug}-detection-{name}", figure
        for name, figure in shared.draw(selection):
            yield f"{selection.slug}-{name}", figure
    if folder is not None:
        yield from curves.draw(folder)
        yield from precision.draw(folder)


def network_figures(selection: Selection) -> Drawn:
    """All figures about whole networks of one machine and dtype."""
    yield from networks.draw(selection)
    yield from published.draw(selection)
    yield from network_axes.draw(selection)
    yield from ranks.draw(selection)


def figures(selection: Selection) -> Drawn:
    """All figures of one machine and dtype. Suites are never mixed: all but the operator's are named by their suite."""
    suites = sorted(set(selection.table["suite"]))
    if "operator" in suites:
        yield from bars.draw_speedup(selection)
        yield from scaling.draw(selection, "operator")
        yield from heat.draw_grid(selection)
        yield from heat.draw_stages(selection, "operator")
        yield from roofline.draw(selection)
        yield from bars.draw_work(selection)
        yield from closed_form.draw(selection)
    yield from shared.draw(selection)
    yield from predicted.draw(selection)
    for suite in suites:
        if suite not in ("operator", shared.SUITE):
            for name, figure in other_suite(selection, suite):
                yield f"{suite}-{name}", figure


def plain(name: str) -> str:
    """A figure's name as a file's, whatever suites and modes somebody's results have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def other_suite(selection: Selection, suite: str) -> Drawn:
    """The figures of a suite that is not the operator's, over the axes that it varies on."""
    yield from scaling.draw(selection, suite)
    yield from heat.draw_stages(selection, suite)
    yield from bars.draw_other(selection, suite)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(NAME, "Draw figures from results files.", ["results/", "mine.json --output mine-figures"])
    command.add_argument("results", nargs="+", type=Path, help="results files, or a folder of them")
    command.add_argument("--output", type=Path, help="folder for the figures (default: figures/ beside the results)")
    command.add_argument("--format", choices=FORMATS, default="png", help="file format (default: png)")
    command.add_argument("--index", action="store_true", help="also write README.md, an index of the results folder")
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

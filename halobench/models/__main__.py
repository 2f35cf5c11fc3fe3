"""``python -m halobench.models [name ...]``: the cost table of all models, or of those named, as Markdown."""

import argparse
from collections.abc import Sequence

from halobench import terminal
from halobench.models.catalogue import entry, names
from halobench.models.costs import table

NAME = "halobench.models"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, each line as soon as it is known. The exit status is 0, or 2 for a name that is none."""
    chosen = parser().parse_args(arguments).names or names()
    try:
        for name in chosen:
            entry(name)
    except ValueError as error:
        return terminal.refuse(NAME, error)
    for line in table(chosen):
        print(line, flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "What models cost, as a Markdown table: parameters, FLOPs, and the memory of a training step. "
        "All take minutes.",
        ["halonet_h0 efficientnet_b0", "> docs/costs.md"],
    )
    command.add_argument(
        "names", nargs="*", metavar="NAME", help="a model of `python -m halobench list models` (default: all)"
    )
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

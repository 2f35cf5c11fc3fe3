"""One look for all commands: their ``--help``, their tables, and the one line that says what went wrong."""

import argparse
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ClassVar, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich_argparse import RawDescriptionRichHelpFormatter

UNUSABLE = 2
"""The exit status of a command whose arguments or input cannot be used."""
UNBOUNDED = 100_000
"""Columns of a console that breaks no line."""


class Help(RawDescriptionRichHelpFormatter):
    """Help in colour on a terminal; brackets in it are text, not markup."""

    text_markup: ClassVar[bool] = False
    help_markup: ClassVar[bool] = False


class Parser(argparse.ArgumentParser):
    """Options that cannot be are one line on stderr; ``--help`` has the others."""

    def error(self, message: str) -> NoReturn:
        """End with what is wrong, and where all options are listed."""
        self.exit(refuse(self.prog.removeprefix("python -m "), f"{message} (--help lists all options)"))


def parser(name: str, description: str, examples: Sequence[str]) -> Parser:
    """The parser of ``python -m NAME``, its examples at the end of ``--help``."""
    shown = "\n".join(f"  python -m {name} {example}".rstrip() for example in examples)
    return Parser(
        prog=f"python -m {name}",
        description=description,
        epilog=f"examples:\n{shown}",
        formatter_class=Help,
        allow_abbrev=False,
    )


def console() -> Console:
    """Where a command writes. Made anew each time, so that it finds the stdout of the moment.

    In a pipe or a file a row of a table is one line, as long as it may be: what reads it looks for whole names.
    """
    made = Console(highlight=False)
    if not made.file.isatty():
        made.width = UNBOUNDED
    return made


def refuse(name: str, problem: object) -> int:
    """Say in one line on stderr why a command cannot do its work; the exit status to end with."""
    with suppress(OSError):  # nobody reads on; the exit status still says so
        print(f"{name}: {' '.join(str(problem).split())}", file=sys.stderr)
    return UNUSABLE


def end(main: Callable[[], int]) -> NoReturn:
    """End with the status of a command whose status 1 is a verdict: Python gives it to what nobody foresaw, too."""
    try:
        status = main()
    except Exception:  # noqa: BLE001 - whatever it is, it is no verdict
        status = UNUSABLE
        with suppress(OSError):  # nobody reads on
            traceback.print_exc()
    sys.exit(status)


def end_with_reader() -> None:
    """End without a word when nobody reads on (``| head -1``), as other commands do, where there are signals for it."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> Table:
    """A table; the first ``left`` columns are text, the others figures. What stands in it is never markup."""
    made = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(Text(column), justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    return made

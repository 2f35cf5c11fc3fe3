"""One look for all commands: their ``--help``, their tables, and the one line that says what went wrong."""

import argparse
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, NoReturn, TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich_argparse import RawDescriptionRichHelpFormatter

UNUSABLE = 2
"""The exit status of a command whose arguments or input cannot be used."""
INTERRUPTED = 130
"""The exit status of a command that Ctrl-C ended, as shells have it."""
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
    if isinstance(problem, OSError) and problem.strerror:  # without its number
        problem = ": ".join(str(part) for part in (problem.filename, problem.strerror) if part)
    with suppress(OSError):  # nobody reads on; the exit status still says so
        print(f"{name}: {' '.join(str(problem).split())}", file=sys.stderr)
    return UNUSABLE


class Unshown(Exception):
    """Standard output cannot be written. It is no ``OSError``: commands take these for a fault of their files.

    ``unread``: whoever read it has had enough, as ``head`` has.
    """

    def __init__(self, why: str | None, *, unread: bool = False) -> None:
        super().__init__(f"standard output cannot be written: {why}")
        self.unread = unread


class Output:
    """Standard output as commands write to it: what cannot be written is ``Unshown``, and is not tried again."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write as the stream does, or raise ``Unshown``."""
        with self.explained():
            return self.stream.write(text)

    def flush(self) -> None:
        """Write out what is left, or raise ``Unshown``."""
        with self.explained():
            self.stream.flush()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say why nothing can be written, and drop what is left: Python would try it once more at its exit."""
        try:
            yield
        except OSError as error:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            unread = isinstance(error, BrokenPipeError)
            raise Unshown("nobody reads it" if unread else error.strerror, unread=unread) from None


def flush() -> None:
    """Write out what was shown.

    Raises:
        Unshown: it cannot be written, as where standard output was closed before Python began (``>&-``).
    """
    if sys.stdout is None:
        raise Unshown(os.strerror(errno.EBADF))
    sys.stdout.flush()


def leave_interrupts(_worker: int) -> None:
    """At the start of a process that helps a command: Ctrl-C, which all processes get, is the command's to handle.

    A helper that dies of it may hold what the others, and the end of the command, wait for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end(name: str, main: Callable[[], int]) -> NoReturn:
    """Run a command and end with its exit status.

    Where it cannot say what it has to say, that is one line and ``UNUSABLE``; of a reader who has left, nothing is
    said. Ctrl-C is one line, too, and ``INTERRUPTED``. What nobody foresaw is ``UNUSABLE`` with its traceback: Python
    would make it 1, which is a verdict of some commands.
    """
    if sys.stdout is not None:
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are no text, as on stderr
        sys.stdout = cast("TextIO", Output(sys.stdout))
    status: Any = UNUSABLE
    try:
        try:
            status = main()
        except SystemExit as done:  # --help, say
            status = done.code
        if sys.stdout is not None:
            sys.stdout.flush()
    except Unshown as error:
        status = UNUSABLE if error.unread else refuse(name, error)
    except KeyboardInterrupt:
        status = INTERRUPTED
        with suppress(OSError):
            print(f"\n{name}: interrupted", file=sys.stderr)
    except Exception:  # noqa: BLE001 - whatever it is, it is no verdict
        status = UNUSABLE
        with suppress(OSError):  # nobody reads on
            traceback.print_exc()
    sys.exit(status)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> Table:
    """A table; the first ``left`` columns are text, the others figures. What stands in it is never markup."""
    made = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(Text(column), justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    return made

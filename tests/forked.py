"""Processes that tests start, forked from one that has imported PyTorch, which takes a processor three seconds.

Each has memory, exit status and signals of its own. That they also start as users start them, from nothing, other tests
of `test_plugin.py` and `test_session.py` show.
"""

import gc
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from halobench.measure.session import Session

SERVER = multiprocessing.get_context("forkserver")
# One server for all: with what a worker imports at its first case, ranks at their first question, and the plugin. Not
# the plugin itself: pytest rewrites its plugins as it imports them.
SERVER.set_forkserver_preload(
    [
        "halobench.measure.worker",
        "halobench.measure.networks",
        "halobench.measure.progress",
        "halobench.measure.run",
        "torch._dynamo",
        "scipy.stats",
        "hypothesis",  # which at its import looks for owners of objects, and finds none that is frozen
        "tests.sharded_calls",
        "tests.scaled_calls",
        "pytest",
    ]
)
FORK = multiprocessing.get_context("fork")


class Workers:
    """Stands in for the context of a ``Session``, which spawns: workers come from the server."""

    Pipe = staticmethod(SERVER.Pipe)

    @staticmethod
    def Process(target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> BaseProcess:  # noqa: N802
        return SERVER.Process(target=within, args=(dict(os.environ), target, *args), daemon=daemon)


class Children:
    """The same where the process itself comes from the server, and has one thread: workers are its children."""

    near: Connection

    @classmethod
    def Pipe(cls) -> tuple[Connection, Connection]:  # noqa: N802
        cls.near, far = FORK.Pipe()
        return cls.near, far

    @classmethod
    def Process(cls, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> BaseProcess:  # noqa: N802
        return FORK.Process(target=beyond, args=(cls.near, target, *args), daemon=daemon)


def beyond(near: Connection, target: Callable[..., None], *arguments: Any) -> None:
    """Call something at the far end of a pipe, which ends when nobody holds the other end."""
    gc.freeze()
    near.close()
    target(*arguments)


def within(environment: Mapping[str, str], target: Callable[..., None], *arguments: Any) -> None:
    """Call something in the environment of the test, where the server has its own."""
    gc.freeze()  # of a million objects of the server, each collection would visit, and so copy, all
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def run_pytest(
    arguments: list[str], folder: Path, environment: Mapping[str, str], timeout_s: float
) -> CompletedProcess[str]:
    """What ``python -m pytest`` does with these arguments in this folder, what it says through pipes."""
    readers, writers = zip(*(SERVER.Pipe(duplex=False) for _ in range(2)), strict=True)
    process = SERVER.Process(target=within, args=(dict(environment), pytest_here, arguments, folder, *writers))
    process.start()
    for writer in writers:
        writer.close()
    with ThreadPoolExecutor(2) as pool:
        said = [pool.submit(everything, reader) for reader in readers]
        process.join(timeout_s)
        late = process.exitcode is None
        process.kill()
    assert not late, f"pytest took longer than {timeout_s} s: {[each.result() for each in said]}"
    return CompletedProcess(arguments, process.exitcode or 0, *(each.result() for each in said))


def everything(reader: Connection) -> str:
    """All that is written at the other end of a pipe."""
    with os.fdopen(os.dup(reader.fileno()), encoding="utf-8") as file, reader:
        return file.read()


def pytest_here(arguments: list[str], folder: Path, output: Connection, errors: Connection) -> None:
    """Become ``python -m pytest``; a file that is left open is a warning."""
    for descriptor, pipe in ((1, output), (2, errors)):
        os.dup2(pipe.fileno(), descriptor)
        pipe.close()
    os.chdir(folder)
    sys.path[:0] = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    # What the server has imported may have been another plugin's, which asks no one to be rewritten here.
    sys.argv = [pytest.__file__, "-W", "ignore::pytest.PytestAssertRewriteWarning", *arguments]
    warnings.simplefilter("default", ResourceWarning)
    Session._context = Children
    status = pytest.console_main()
    gc.collect()
    sys.exit(status)

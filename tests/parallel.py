"""How tests run in parallel, and which are left out without a GPU: hooks of ``conftest``.

They stand apart from it so that other runs of pytest can have them without all that the tests import.
"""

import os
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
MOST_PROCESSES = 8  # each imports PyTorch, and starts others that do
NEED_A_GPU = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole folder in parallel, a process a core; what is named, debugged or on a GPU, in this process."""
    options = config.option
    if not hasattr(options, "numprocesses") or hasattr(config, "workerinput"):  # no pytest-xdist, or its worker
        return
    whole = all(Path(config.invocation_params.dir, argument).resolve() == TESTS for argument in config.args)
    if options.numprocesses is None and whole and not (options.usepdb or options.trace or on_a_gpu(config)):
        options.numprocesses = "logical"
        options.maxprocesses = options.maxprocesses or MOST_PROCESSES
    if options.numprocesses and options.dist == "no":
        # A file stays in one process, for its fixtures; in the files' order, of which the last are short.
        options.dist, options.loadscopereorder = "loadscope", False
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers, which are not started yet


def on_a_gpu(config: pytest.Config) -> bool:
    """Whether tests that need a GPU are asked for."""
    return "gpu" in config.option.markexpr.split() and "not gpu" not in config.option.markexpr


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none."""
    on_one = [item for item in items if item.get_closest_marker("gpu")]
    if on_one and not on_a_gpu(config) and not there_is_a_gpu():
        config.stash[NEED_A_GPU] = len(on_one)
        config.hook.pytest_deselected(items=on_one)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    if hasattr(config, "workerinput"):
        config.workeroutput["need_a_gpu"] = config.stash.get(NEED_A_GPU, 0)


def there_is_a_gpu() -> bool:
    """Whether PyTorch sees one."""
    import torch  # noqa: PLC0415 - takes seconds, and only tests with that mark ask

    return torch.cuda.is_available()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker collects all tests, and so counts the same."""
    node.config.stash[NEED_A_GPU] = getattr(node, "workeroutput", {}).get("need_a_gpu", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many faults were tried and survived, and how many tests would have needed a GPU."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    tried = [report for report in reports if report.when == "call" and "fault" in report.keywords]
    if tried:
        survived = sum(report.passed for report in tried)
        terminalreporter.write_line(f"faults: {len(tried)} tried, {survived} survived")
    if count := terminalreporter.config.stash.get(NEED_A_GPU, 0):
        terminalreporter.write_line(f"{count} {'test needs' if count == 1 else 'tests need'} a GPU: `tox -e gpu`")

"""Fixtures for all tests: the device, and images to train on; how tests run in parallel, and which need a GPU."""

import gc
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from halobench.machine import ceilings
from tests import training_data
from tests.interpreter import Interpreter

settings.register_profile("halobench", deadline=None, max_examples=40, derandomize="CI" in os.environ)
settings.load_profile("halobench")

gc.disable()  # until all tests are imported: what is imported stays, and collections would visit it again and again

# float32 means float32, as in the suites: cuDNN would use TF32 by default.
torch.backends.cudnn.allow_tf32 = False

TESTS = Path(__file__).parent
MOST_PROCESSES = 8  # each imports PyTorch, and starts others that do
NEED_A_GPU = pytest.StashKey[int]()

# Tests start suites in processes of their own, which are no workers of this run.
for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
    os.environ.pop(name, None)


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
    if not torch.cuda.is_available() and not on_a_gpu(config):
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        config.stash[NEED_A_GPU] = len(left_out)
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    if hasattr(config, "workerinput"):
        config.workeroutput["need_a_gpu"] = config.stash.get(NEED_A_GPU, 0)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Have later collections, of which tests start many, visit nothing of what was imported."""
    gc.freeze()
    gc.enable()


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


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU always, and the GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files like Fashion-MNIST's."""
    return training_data.fashion(tmp_path_factory.mktemp("fashion"), training=160, test=40)


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """A process whose Triton interprets; one for all tests, since it takes seconds to start."""
    with Interpreter() as interpreter:
        yield interpreter


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder of this run, which all its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if hasattr(request.config, "workerinput") else own


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The calls of the operator of normalisation, as if every call of a module were compiled, on a GPU."""
    from tests import served_normalisation  # noqa: PLC0415 - timm takes seconds, and is not for all tests

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    return served_normalisation.operator(monkeypatch)


@pytest.fixture(scope="session")
def known_ceilings(shared_folder: Path) -> Path:
    """A results file of this run that holds the CPU's ceilings: suites take them over instead of measuring again."""
    file = shared_folder / "ceilings.json"
    if not file.exists():
        file.write_text(json.dumps({"halobench": {"ceilings": asdict(ceilings.measure("cpu", "float32"))}}))
    return file

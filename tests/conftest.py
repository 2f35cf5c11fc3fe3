"""Fixtures for all tests: the device, and images to train on; how tests run in parallel, and which need a GPU."""

import gc
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from halobench.machine import ceilings
from tests import training_data
from tests.interpreter import Interpreter
from tests.parallel import (  # noqa: F401 - hooks
    pytest_cmdline_main,
    pytest_collection_modifyitems,
    pytest_terminal_summary,
    pytest_testnodedown,
)

# The same examples in every run, on CI and elsewhere: a change is to be judged, not luck at the edge of the accuracy
# rule. Problems that nobody has tried yet are what `halobench.fuzz` is for.
settings.register_profile("halobench", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("halobench")

gc.disable()  # until all tests are imported: what is imported stays, and collections would visit it again and again

# float32 means float32, as in the suites: cuDNN would use TF32 by default.
torch.backends.cudnn.allow_tf32 = False

# Tests start suites in processes of their own, which are no workers of this run.
for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
    os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Have later collections, of which tests start many, visit nothing of what was imported, and come less often."""
    gc.freeze()
    gc.set_threshold(10_000, 5, 5)  # the compiler and pandas make many objects of which a collection frees few
    gc.enable()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU always, and the GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the project's own thresholds, which are in its ``pyproject.toml``."""
    monkeypatch.chdir(tmp_path)


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
def kernels_folder(shared_folder: Path) -> Path:
    """Where CUDA kernels are built for the CPU, once for all processes of a run."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels for the CPU")
    folder = shared_folder / "kernels"
    folder.mkdir(exist_ok=True)
    return folder


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

"""When the tests run in parallel, that files stay together, and what is left out without a GPU."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests import parallel

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent
FILE = """
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("number", [1, 2])
def test_on_a_gpu(number):
    pytest.skip("asked for")

def test_one():
    pass

def test_free():
    pass
"""


def options(**changes):
    chosen = {"numprocesses": None, "maxprocesses": None, "dist": "no", "usepdb": False, "trace": False, "markexpr": ""}
    return SimpleNamespace(**chosen | changes)


def started(monkeypatch, *, folder=TESTS.parent, arguments=("tests",), **changes):
    """The number of processes and how tests are dealt out, as pytest-xdist will find them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = SimpleNamespace(dir=folder)
    config = SimpleNamespace(option=options(**changes), invocation_params=place, args=list(arguments))
    parallel.pytest_cmdline_main(config)
    return config.option.numprocesses, config.option.dist


def test_the_whole_folder_runs_in_parallel(monkeypatch):
    assert started(monkeypatch) == ("logical", "loadscope")
    assert started(monkeypatch, arguments=[str(TESTS)]) == ("logical", "loadscope")
    assert started(monkeypatch, folder=TESTS, arguments=["."]) == ("logical", "loadscope")
    assert started(monkeypatch, markexpr="not gpu") == ("logical", "loadscope")


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": ["tests/test_geometry.py"]},
        {"arguments": ["tests", "suites"]},
        {"arguments": ["tests/test_geometry.py::test_a_name"]},
        {"usepdb": True},
        {"trace": True},
        {"markexpr": "gpu"},
        {"markexpr": "gpu and not fault"},
    ],
)
def test_what_is_named_debugged_or_on_a_gpu_runs_in_one_process(monkeypatch, changes):
    assert started(monkeypatch, **changes) == (None, "no")


def test_a_number_that_is_asked_for_holds(monkeypatch):
    assert started(monkeypatch, numprocesses=0) == (0, "no")
    assert started(monkeypatch, arguments=["tests/test_geometry.py"], numprocesses=3) == (3, "loadscope")
    assert started(monkeypatch, numprocesses=3, dist="load") == (3, "load")


def test_without_xdist_nothing_is_parallel():
    config = SimpleNamespace(option=SimpleNamespace())
    parallel.pytest_cmdline_main(config)
    assert vars(config.option) == {}


@pytest.fixture
def run(pytester, monkeypatch):
    """Run the file above under the hooks of ``tests``, with or without a GPU."""

    def run(*arguments, gpu=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        pytester.makeconftest("from tests.parallel import pytest_collection_modifyitems, pytest_terminal_summary")
        pytester.makepyfile(FILE)
        return pytester.runpytest("-p", "no:xdist", "-p", "no:cacheprovider", *arguments)

    return run


def test_without_a_gpu_its_tests_are_left_out_in_one_line(run):
    done = run()
    done.assert_outcomes(passed=2, deselected=2)
    done.stdout.fnmatch_lines(["2 tests need a GPU: `tox -e gpu`"])
    one = run("-k", "free or gpu and 1")
    one.assert_outcomes(passed=1, deselected=3)
    one.stdout.fnmatch_lines(["1 test needs a GPU: `tox -e gpu`"])


def test_tests_of_a_gpu_run_where_there_is_one_or_they_are_asked_for(run):
    for done in (run(gpu=True), run("-m", "gpu"), run("-m", "gpu or not gpu", gpu=True)):
        assert done.parseoutcomes()["skipped"] == 2
        done.stdout.no_fnmatch_line("*need a GPU*")


SHARED = """
import os, pathlib, pytest
@pytest.fixture(scope="module")
def made():
    with pathlib.Path(__file__).with_name("made.txt").open("a") as file:
        file.write("once\\n")
@pytest.mark.parametrize("number", range(6))
def test_it(made, number):
    pass
"""


# Plugins that have no part in it, and take a second to import in each of three processes.
OTHERS = [word for name in ("hypothesispytest", "anyio", "benchmark") for word in ("-p", f"no:{name}")]


def test_a_shared_fixture_is_made_in_one_process_only(pytester, monkeypatch):
    """Under pytest-xdist itself, as it deals out the whole folder."""
    hooks = "pytest_cmdline_main, pytest_collection_modifyitems"
    pytester.makeconftest(f"from tests.parallel import {hooks}")
    pytester.makepyfile(test_one=SHARED, test_two="def test_that(): pass")
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    done = pytester.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider", *OTHERS)
    done.assert_outcomes(passed=7)
    (made,) = pytester.path.glob("made.txt")
    assert made.read_text() == "once\n"

"""``python -m halobench.ab`` in small repositories: a regression, the control, refusals, and Ctrl-C.

The repositories measure nothing: their suites write results files with the times that a file ``times.json`` of the
revision gives.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from halobench.ab import protocol
from halobench.ab.__main__ import main
from halobench.ab.protocol import HEAD, STREAMS
from tests import results_files
from tests.repositories import committed, git

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 120
CASES = ("slowed", "steady")
CONFTEST = """
import json, os, random, time
from pathlib import Path

HERE = Path(__file__).parent.parent

def pytest_addoption(parser):
    parser.addoption("--benchmark-json")
    parser.addoption("--tier")

def pytest_sessionfinish(session, exitstatus):
    speed = json.loads((HERE / "times.json").read_text())
    if speed.get("hang"):
        (Path(os.environ["PLACE"]) / "hangs").touch()
        time.sleep(300)
    names = [item.name.removeprefix("test_") for item in session.items]
    document = json.loads(Path(os.environ["TEMPLATE"]).read_text())
    named = {each["fullname"].rpartition("test_")[2]: each for each in document["benchmarks"]}
    document["benchmarks"] = [each for name, each in named.items() if name in names]
    for each in document["benchmarks"]:
        name = each["fullname"].rpartition("test_")[2]
        noise = random.gauss(1, 0.001)
        if Path(session.config.option.benchmark_json).parent.name == "control":
            noise *= speed.get("control", 1.0)
        each["stats"]["data"] = [speed.get(name, 1.0) * 1e-3 * noise * random.gauss(1, 1e-3) for _ in range(20)]
    with (Path(os.environ["PLACE"]) / "log").open("a") as log:
        options, ceilings = session.config.option, os.environ.get("HALOBENCH_CEILINGS")
        log.write(json.dumps([options.benchmark_json, names, options.tier, ceilings]) + "\\n")
    Path(session.config.option.benchmark_json).write_text(json.dumps(document))
"""


@pytest.fixture
def repository(tmp_path):
    """A repository of one commit, tagged ``base``."""
    contents = {
        "suites/conftest.py": CONFTEST,
        "suites/test_fake.py": "".join(f"def test_{name}(): pass\n" for name in CASES),
        "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "-p no:benchmark"\n',
        ".gitignore": "results/\n__pycache__/\n",
        "times.json": "{}",
    }
    root = committed(tmp_path / "repository", contents)
    git(root, "tag", "base")
    return root


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Where the suites of the repositories find what they write, and nothing of the user's own options."""
    kinds = (results_files.network_row("halonet_h0", "sdpa"), results_files.row("sdpa", "forward"))
    rows = [{**row, "case": name} for name, row in zip(CASES, kinds, strict=True)]
    document = results_files.document(rows, gpu=results_files.H100)
    for each, name in zip(document["benchmarks"], CASES, strict=True):
        each["fullname"] = f"suites/test_fake.py::test_{name}"
    template = tmp_path / "template.json"
    template.write_text(json.dumps(document))
    for name in [name for name in os.environ if name.startswith(("PYTEST", "GIT_"))]:
        monkeypatch.delenv(name)
    chosen = {"PLACE": tmp_path, "TEMPLATE": template, "TMPDIR": tmp_path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name, value in chosen.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def command(environment, monkeypatch, capsys):
    """Run the command in a folder: its exit status, and what it said on stdout and stderr."""

    def command(folder, *arguments):
        monkeypatch.chdir(folder)
        return (main(arguments), *capsys.readouterr())

    return command


def runs(tmp_path):
    """What was measured: (stage, stream, test names, tier, the file whose ceilings were to be taken over)."""
    found = []
    for line in (tmp_path / "log").read_text().splitlines():
        output, *rest = json.loads(line)
        found.append((*Path(output).parts[-3:-1], *rest))
    return found


def nothing_left(tmp_path, repository):
    assert git(repository, "worktree", "list").count("\n") == 0
    assert not list(tmp_path.glob("halobench-*"))


def test_a_slower_working_tree_is_a_regression_confirmed_by_fresh_runs_of_the_suspect(
    tmp_path, repository, command, monkeypatch
):
    """The head is uncommitted and partly untracked: it is measured all the same, and nothing of it changes."""
    monkeypatch.setattr(protocol, "CONFIRMATION_ROUNDS", 5)  # as few as the rank test needs
    (repository / "times.json").write_text('{"slowed": 1.03}')
    (repository / "suites" / "test_new.py").write_text("def test_extra(): pass\n")
    before = git(repository, "status", "--porcelain", "--branch"), git(repository, "rev-parse", "HEAD")
    status, out, err = command(
        repository, "base", "--tier", "smoke", "--output", "results/ab", "--markdown", "comment.md"
    )
    assert (status, "1 regression (1 SLOWER, 1 SAME)" in out) == (1, True), out + err
    measured = runs(tmp_path)
    screened = [run for run in measured if run[0] == "screening"]
    confirmed = [run for run in measured if run[0] == "confirmation"]
    assert Counter(run[1] for run in screened) == dict.fromkeys(STREAMS, protocol.SCREENING_ROUNDS)
    assert Counter(run[1] for run in confirmed) == dict.fromkeys(STREAMS, protocol.CONFIRMATION_ROUNDS)
    assert {tuple(run[2]) for run in confirmed} == {("slowed",)}
    assert all(("extra" in run[2]) == (run[1] == HEAD) for run in screened)
    assert {run[3] for run in measured} == {"smoke"}
    first = str(repository / "results/ab/screening/base/00.json")  # it measures the ceilings, for all
    assert [run[4] for run in measured] == [None] + [first] * (len(measured) - 1)
    assert "SLOWER" in (repository / "comment.md").read_text()
    assert json.loads((repository / "results/ab/verdict.json").read_text())["exit_status"] == 1
    (repository / "comment.md").unlink()
    assert before == (git(repository, "status", "--porcelain", "--branch"), git(repository, "rev-parse", "HEAD"))
    assert "differ in how they measure" in out
    nothing_left(tmp_path, repository)


def another_commit(repository, tag):
    """A commit of what the last one holds, under a tag."""
    git(repository, "commit", "--quiet", "--allow-empty", "--message", tag)
    git(repository, "tag", tag)


def test_the_same_code_twice_is_no_regression(tmp_path, repository, command):
    another_commit(repository, "same")
    status, out, err = command(repository, "base", "same", "-k", "steady")
    assert (status, "no regression (1 SAME)" in out) == (0, True), out + err
    assert {tuple(run[2]) for run in runs(tmp_path)} == {("steady",)}


def test_a_control_that_fires_is_inconclusive(repository, command, monkeypatch):
    monkeypatch.setattr(protocol, "CONFIRMATION_ROUNDS", 5)  # as few as the rank test needs
    (repository / "times.json").write_text('{"control": 1.2}')
    git(repository, "commit", "--quiet", "--all", "--message", "unstable")
    git(repository, "tag", "unstable")
    another_commit(repository, "same")
    status, out, err = command(repository, "unstable", "same")
    assert (status, "base against itself" in out) == (3, True), out + err


@pytest.mark.usefixtures("environment")
def test_ctrl_c_removes_the_worktrees(tmp_path, repository):
    (repository / "times.json").write_text('{"hang": true}')
    git(repository, "commit", "--quiet", "--all", "--message", "hangs")
    another_commit(repository, "same")
    child = subprocess.Popen(
        [sys.executable, "-m", "halobench.ab", "HEAD~1"], cwd=repository, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "hangs").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    assert list(tmp_path.glob("halobench-ab-*/base"))
    child.send_signal(signal.SIGTERM)  # handled like SIGINT, which a test's children may have to ignore
    _, err = child.communicate(timeout=TIMEOUT_S)
    assert (child.returncode, "interrupted" in err) == (130, True), err
    nothing_left(tmp_path, repository)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "'nowhere' names no commit"),
        (("base", "nowhere"), "'nowhere' names no commit"),
        (("--", "--upload-pack=x"), "names no commit"),
        (("base", "other", "-k", "no_such_case"), "exit status 5"),
        (("base", "--output", "suites"), "new or empty folder"),
        (("base", "base"), "base and head must differ: 'base' and 'base' are both commit "),
        (("main~1", "base"), "'main~1' and 'base' are both commit "),
        (("main",), "'main' and the working tree are both commit "),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, repository, command, arguments, message):
    another_commit(repository, "other")
    status, out, err = command(repository, *arguments)
    assert status == 2, out + err
    assert message in err.splitlines()[-1]
    assert (repository / "results").exists() == ("no_such_case" in arguments)  # its log stays
    nothing_left(tmp_path, repository)


def test_outside_a_repository_there_is_nothing_to_measure(tmp_path, command):
    place = tmp_path / "plain"
    place.mkdir()
    status, _, err = command(place, "main")
    assert status == 2
    assert err.startswith("halobench.ab: git rev-parse --show-toplevel: ")

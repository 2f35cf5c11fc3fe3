"""The commit of a results file is that of the measured code: its own files decide, whatever the current folder is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import halobench
from halobench.figures.index import write_index
from halobench.figures.selection import commit_of
from halobench.machine import provenance
from halobench.machine.provenance import commit, of_files
from halobench.measure import pytest_plugin
from halobench.records import table as results
from halobench.report.points import every
from halobench.report.tables import cases, environment
from halobench.train import preamble
from tests import results_files as files
from tests.repositories import committed, git

ROOT = Path(halobench.__file__).parent.parent


def packages(root):
    return [root / "halobench", root / "implementations"]


def repository(root, *, of_packages=True):
    """A repository whose one commit holds a page and, unless it is of something else, the two packages."""
    contents = {"page.md": "one", ".gitignore": "__pycache__\n.venv\n"}
    if of_packages:
        contents |= {str(package.relative_to(root) / "__init__.py"): "" for package in packages(root)}
    return committed(root, contents)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No repository of the machine's is above, and no hook is running."""
    for name in (*provenance.OF_ANOTHER, provenance.DECLARED):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path):
    return repository(tmp_path / "checkout")


def test_a_checkout(checkout):
    found = of_files(packages(checkout))
    assert found == {"id": git(checkout, "rev-parse", "HEAD"), "dirty": False, "declared": False}


def changed(root):
    (root / "implementations" / "__init__.py").write_text("slower")


def staged(root):
    changed(root)
    git(root, "add", ".")


def deleted(root):
    (root / "page.md").unlink()


def new_backend(root):
    (root / "implementations" / "mine.py").write_text("")


def new_package(root):
    (root / "implementations" / "mine").mkdir()
    (root / "implementations" / "mine" / "kernel with a space.cu").write_text("")


@pytest.mark.parametrize("change", [changed, staged, deleted, new_backend, new_package])
def test_code_that_no_commit_holds_is_dirty(checkout, change):
    change(checkout)
    assert of_files(packages(checkout))["dirty"] is True


def test_results_and_what_git_ignores_are_no_code(checkout):
    (checkout / "results.json").write_text("{}")
    (checkout / "halobench" / "__pycache__").mkdir()
    (checkout / "halobench" / "__pycache__" / "x.pyc").write_text("")
    assert of_files(packages(checkout))["dirty"] is False


def test_a_shallow_clone_a_worktree_and_a_submodule(checkout, tmp_path):
    git(checkout, "commit", "-q", "--allow-empty", "-m", "two")
    clean = {"id": git(checkout, "rev-parse", "HEAD"), "dirty": False, "declared": False}
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{checkout}", "shallow")
    git(checkout, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    outer = repository(tmp_path / "outer")
    git(outer, "submodule", "add", "-q", str(checkout), "inner")
    for place in (tmp_path / "shallow", tmp_path / "tree", outer / "inner"):
        assert of_files(packages(place)) == clean
    assert git(outer, "rev-parse", "HEAD") != clean["id"]


@pytest.mark.parametrize("place", [".venv", "vendored"])
def test_what_is_installed_inside_a_checkout_is_not_of_it(checkout, place):
    """In a virtual environment, which git ignores, or in a folder that it does not."""
    site = checkout / place / "lib" / "site-packages"
    for package in packages(site):
        shutil.copytree(packages(checkout)[0], site / package.name)
    assert of_files(packages(site)) is None


def test_an_implementation_from_elsewhere_is_not_of_the_commit(checkout, tmp_path):
    other = repository(tmp_path / "other")
    assert of_files([checkout / "halobench", other / "implementations"])["dirty"] is True


def test_nobody_can_say(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for package in packages(tmp_path):
        package.mkdir()
    assert of_files(packages(tmp_path)) is None  # no repository
    assert of_files([tmp_path / "missing"]) is None
    with monkeypatch.context() as patched:
        patched.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git refuses a repository of somebody else's
        assert of_files(packages(checkout)) is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert of_files(packages(checkout)) is None


def test_the_current_folder_and_a_running_hook_say_nothing(checkout, tmp_path, monkeypatch):
    expected, head = commit(), git(checkout, "rev-parse", "HEAD")
    other = repository(tmp_path / "other")
    git(other, "commit", "-q", "--allow-empty", "-m", "two")  # commits of the same second may be the same
    monkeypatch.chdir(other)
    assert commit() == expected
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert of_files(packages(checkout))["id"] == head
    monkeypatch.chdir(tmp_path)
    assert commit() == expected


def test_what_is_declared_is_marked(monkeypatch):
    """A copy of the files may carry another history than theirs: what is named is believed, and its state unknown."""
    monkeypatch.setenv(provenance.DECLARED, "abc123")
    for known in (None, {"id": "f" * 40, "dirty": False, "declared": False}):
        monkeypatch.setattr(provenance, "of_files", lambda _, known=known: known)
        assert commit() == {"id": "abc123", "dirty": None, "declared": True}


@pytest.mark.parametrize("named", ["f" * 40, "f" * 7])
def test_a_declaration_that_git_confirms_is_none(monkeypatch, named):
    known = {"id": "f" * 40, "dirty": True, "declared": False}
    monkeypatch.setattr(provenance, "of_files", lambda _: known)
    monkeypatch.setenv(provenance.DECLARED, named)
    assert commit() == known


def test_from_inside_another_repository(tmp_path):
    """A process of its own, in a dirty repository of somebody else's, with this code on its path."""
    other = repository(tmp_path / "other", of_packages=False)
    deleted(other)
    said = subprocess.run(
        [sys.executable, "-c", "from halobench.machine import provenance; print(provenance.commit())"],
        cwd=other, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == str(of_files(packages(ROOT)))
    assert git(other, "rev-parse", "HEAD") not in said.stdout


FULL = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"id": FULL, "dirty": False, "declared": False}, "commit 0123456"),
        ({"id": FULL, "dirty": True}, "commit 0123456+dirty"),
        ({"id": FULL, "dirty": None}, "commit 0123456 (dirty unknown)"),
        ({"id": FULL, "dirty": None, "declared": True}, "commit 0123456 (declared, dirty unknown)"),
        ({"id": "release-2026", "dirty": None, "declared": True}, "commit release-2026 (declared, dirty unknown)"),
        (None, "halobench 0.1.0, commit unknown"),
    ],
)
def test_what_is_unknown_is_shown_as_unknown(tmp_path, given, said):
    """In footers, in the index and on the page; pytest-benchmark's opinion is of the current folder, and not shown."""
    header = files.section()["fingerprint"] | {"commit": given}
    found = results.read(files.write(tmp_path / "mine.json", [files.row()], fingerprint=header))
    assert commit_of(found.headers["mine.json"]) == said
    assert environment(found.headers["mine.json"])["commit"] == said
    short = said.removeprefix("commit ")
    assert f"| {short} |" in write_index(found, tmp_path, []).read_text()
    assert short in cases(every(found))
    assert list(found.table["dirty"].isna()) == [given is None or given["dirty"] is None]


@pytest.mark.parametrize("given", [{"id": FULL, "dirty": "no"}, {"id": FULL, "declared": 1}])
def test_an_impossible_commit_is_refused(tmp_path, given):
    header = files.section()["fingerprint"] | {"commit": given}
    with pytest.raises(results.ResultsError, match=r"commit\.\w+ must be true or false"):
        results.read(files.write(tmp_path / "mine.json", [files.row()], fingerprint=header))


@pytest.mark.parametrize("known", [{"id": FULL, "dirty": None, "declared": True}, None])
def test_pytest_benchmark_names_the_same_commit(known):
    config = SimpleNamespace(stash={pytest_plugin.RUN: SimpleNamespace(header={"fingerprint": {"commit": known}})})
    said = {"id": "another", "dirty": False, "branch": "theirs", "project": "theirs", "time": "then"}
    pytest_plugin.pytest_benchmark_update_commit_info(config, said)
    assert said == {**(known or dict.fromkeys(("id", "dirty", "declared"))), "project": "halobench"}


def test_runs_of_others_keep_theirs():
    said = {"id": "another"}
    pytest_plugin.pytest_benchmark_update_commit_info(SimpleNamespace(stash={}), said)
    assert said == {"id": "another"}


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"id": FULL, "dirty": False, "declared": False}, (FULL, "false")),
        ({"id": "mine", "dirty": None, "declared": True}, ("mine (declared)", "unknown")),
        (None, ("unknown", "unknown")),
    ],
)
def test_the_curves_of_a_training_run(monkeypatch, known, said):
    monkeypatch.setattr(provenance, "commit", lambda: known)
    settings = SimpleNamespace(device="cpu", model="m", backend=None, seed=0, batch=1, image_size=8)
    row = preamble.described(settings, SimpleNamespace(count=1), torch.nn.Linear(1, 1))
    assert (row["commit"], row["dirty"]) == said
    assert row["halobench"] == halobench.__version__

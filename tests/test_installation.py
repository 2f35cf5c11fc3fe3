"""What is installed is one whole package; and a checkout sees its own implementations, whatever is installed."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests import results_files as files

ROOT = Path(__file__).parents[1]
SOURCES = ("halobench", "implementations")
CACHES = shutil.ignore_patterns("__pycache__")
# Runs commands as ``python -m`` does, one after the other in one process: to import PyTorch takes seconds.
COMMANDS = """
import contextlib, io, json, runpy, sys, traceback
said = {}
for name, *arguments in json.loads(sys.argv[1]):
    sys.argv, output, status = [name, *arguments], io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            status = ended.code
        except Exception:
            status = traceback.format_exc()
    said[" ".join([name, *arguments][:2])] = status, output.getvalue()
import halobench
from halobench import models
made = models.create("halonet_mini", backend="fused")
print(json.dumps([said, halobench.__file__, type(made).__name__, list(sys.modules)]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: what an earlier build left in the checkout would find its way into it."""
    folder = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=CACHES)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment with the wheel, and all packages of this one but the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    # Folders that a .pth names are searched, but their own .pth files are not read: an editable checkout stays out.
    others = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (packages / "others.pth").write_text("\n".join(others))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A working folder with nothing but results files of two commits."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("base", "head"):
        rows = [files.row(backend, groups=["side"]) for backend in ("naive_unfold", "sdpa")]
        for each in rows if name == "head" else []:  # another run, no copy of the first
            each["samples_ms"] = each["samples_ms"][::-1]
        files.write(folder / f"{name}.json", rows, gpu=files.H100, commit=name[0] * 20)
    return folder


def run(python, program, *arguments, cwd, path=None):
    """What a program prints as its last line, as JSON; ``path`` is its PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run(
        [python, "-c", program, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_wheel_holds_every_file_in_one_package(wheel):
    """Sources, kernels, templates: nothing is left out, and no other top-level package is installed."""
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    own = (path for source in SOURCES for path in (ROOT / source).rglob("*") if path.is_file())
    expected = {path.relative_to(ROOT).as_posix() for path in own if "__pycache__" not in path.parts}
    assert inside == {name if name.startswith("halobench/") else f"halobench/{name}" for name in expected}


def test_all_commands_run_where_the_wheel_is_installed(python, elsewhere):
    """From a folder that is no checkout: each ends well, and what it was to write is there."""
    smallest = ["--block", "4", "--halo", "1", "--side", "8", "--heads", "1", "--device", "cpu"]
    commands = [
        ["halobench", "list"],
        ["halobench", "doctor"],
        ["halobench.plot", "base.json", "--output", "figures"],
        ["halobench.report", "base.json", "-o", "report.html"],
        ["halobench.compare", "base.json", "head.json"],
        ["halobench.profile", "strided_gather", *smallest, "--output", "profiles"],
        ["halobench.models", "halonet_mini"],
    ]
    said, place, made, modules = run(python, COMMANDS, json.dumps(commands), cwd=elsewhere)
    assert Path(place).is_relative_to(python.parents[1])
    assert "implementations" not in modules
    assert made == "HaloNet"
    statuses = {name: status for name, (status, _) in said.items() if name != "halobench doctor"}
    assert not any(statuses.values()), said
    doctor, found = said["halobench doctor"]
    assert doctor in {0, 1}, found  # 1: something spoils measurements here
    assert "mend its module" not in found
    listed = said["halobench list"][1]
    for path in (ROOT / "implementations").iterdir():
        assert path.name.startswith("__") or f"\n{path.stem} " in listed
    assert "broken" not in listed
    assert "halonet_h0" in listed
    assert "halobench.train" in listed  # the table of commands, at the end
    assert list((elsewhere / "figures").glob("*.png"))
    assert (elsewhere / "report.html").stat().st_size > 1e5
    assert list((elsewhere / "profiles").rglob("*.json"))


READERS = """
import json, sys
import halobench.compare.__main__, halobench.export.__main__, halobench.plot, halobench.report.__main__
waited = "torch" in sys.modules
print(json.dumps([waited, [name for name in halobench.__all__ if getattr(halobench, name) is None]]))
"""


def test_results_are_read_without_pytorch(tmp_path):
    """What the package offers beside is there when it is asked for."""
    assert run(sys.executable, READERS, cwd=tmp_path, path=ROOT) == [False, []]


ANOTHER = """
import importlib.abc, importlib.util, json, multiprocessing, sys

class Editable(importlib.abc.MetaPathFinder):  # as setuptools makes it: asked last, for what nobody else has found
    def find_spec(self, name, path=None, target=None):
        if name == "halobench.implementations":
            return importlib.util.spec_from_file_location(name, f"{sys.argv[1]}/implementations/__init__.py")

sys.meta_path.append(Editable())
import halobench.implementations.marked as marked

def names():
    from halobench import backends
    return [backends.load("marked").summary, backends.names()]

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(json.dumps([marked.__file__, names(), pool.apply(marked.names)]))
"""


def test_a_checkout_sees_its_own_implementations_while_another_is_installed(tmp_path):
    """Two checkouts side by side: the other's finder is never asked, neither here nor in a spawned process."""
    checkout = tmp_path / "checkout"
    for name in SOURCES:
        shutil.copytree(ROOT / name, checkout / name, ignore=CACHES)
    source = '"""This checkout\'s."""\nfrom halobench import formula, backends\nattend = formula.attend\n'
    (checkout / "implementations" / "marked.py").write_text(source + "names = backends.names\n")
    place, (summary, here), spawned = run(sys.executable, ANOTHER, str(ROOT), cwd=tmp_path, path=checkout)
    assert place == str(checkout / "implementations" / "marked.py")
    assert summary == "This checkout's."
    assert here == spawned
    assert "marked" in here

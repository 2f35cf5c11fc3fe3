"""The README, continuous integration and tox mean the same test command."""

import os
import tomllib
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = "python3 -m venv .venv && .venv/bin/python -m pip install -e '.[tests]' && .venv/bin/python -m pytest"


def fenced(text):
    """The lines inside the fenced code blocks of a Markdown text."""
    inside, lines = False, []
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside:
            lines.append(line)
    return lines


def menu():
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    return tox


def test_the_readme_gives_the_test_command_in_one_line():
    assert COMMAND in fenced((ROOT / "README.md").read_text(encoding="utf-8"))


def test_continuous_integration_runs_that_line_and_nothing_after_it():
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    lines = [line for line in run.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[-1] == COMMAND
    assert lines.count("set -euo pipefail") == 1


def test_tox_tests_installs_and_runs_the_same():
    environment, install, run = COMMAND.split(" && ")
    assert environment == "python3 -m venv .venv"
    tests = menu()["testenv:tests"]
    extra = tests["commands_pre"].removeprefix("python {tox_root}/.ci/environment.py ")
    assert install == f".venv/bin/python -m pip install -e '.[{extra}]'"
    assert tests["commands"] == f"{{tox_root}}/{run} {{posargs}}"


def test_every_environment_of_tox_runs_in_the_one_venv():
    tox = menu()
    for name in ("tests", "bench", "fuzz", "gpu", "regression", "workflows", "lint", "types", "imports"):
        commands = tox[f"testenv:{name}"]["commands"].split("\n")
        own = [line for line in commands if line and line != "{[testenv:fuzz]commands}"]
        assert all(line.startswith("{tox_root}/.venv/bin/") for line in own), name


def test_every_extra_that_tox_installs_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    tox = menu()
    default = tox["testenv"]["commands_pre"]
    sections = [tox[section] for section in tox.sections() if section != "tox"]
    used = {section.get("commands_pre", default).rpartition(" ")[2] for section in sections}
    assert used <= set(extras)
    assert "tests" in used

"""Pages name every folder, module and command, as ``halobench list`` does; their lines are short."""

import ast
import re
from pathlib import Path

import pytest

from halobench.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "halobench"
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
PROSE = 120
"""Columns that a line of prose may have; tables, code and sections that ``halobench.pages`` makes are exempt."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page):
    """The fenced blocks of a page."""
    return re.findall(r"^```text\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def rooms(*, deep):
    """Names of the folders and modules of halobench; ``deep``: of those inside its folders, too."""
    found = PACKAGE.rglob("*.py") if deep else [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__init__.py")]
    for path in found:
        name = path.parent if path.name == "__init__.py" else path
        if path != PACKAGE / "__init__.py" and path.name != "__main__.py" and "norm" not in path.parent.name:
            yield name.stem


def test_the_tree_names_every_folder_and_module():
    tree, _, *_ = blocks(ROOT / "docs" / "architecture.md")
    assert sorted(set(rooms(deep=True)) - set(re.findall(r"\w+", tree))) == []


def test_every_folder_and_module_at_the_top_has_its_arrows():
    _, arrows, *_ = blocks(ROOT / "docs" / "architecture.md")
    assert sorted(set(rooms(deep=False)) - set(re.findall(r"\w+", arrows))) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_folder_says_its_sentence(folder):
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert said.splitlines()[:1], folder
    assert said.splitlines()[0].endswith(".")


def commands():
    """What ``python -m`` runs: folders with a ``__main__``, and modules that look at their name; workers aside."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent != PACKAGE or path.name != "__main__.py":
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            if (
                'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
                and name != "halobench.calibrate.process"
            ):
                yield name


def test_the_list_names_every_command():
    assert sorted(COMMANDS) == sorted([*commands(), "pytest suites/"])


def test_the_index_of_the_pages_names_every_command_that_users_give():
    lines = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    table = [name for line in lines for name in re.findall(r"`(halobench[.a-z_]*)", line)]
    inside = {"halobench.pages", "halobench.train.time_to_accuracy"}  # of CONTRIBUTING.md, of docs/training.md
    assert sorted(set(table) - {"halobench"}) == sorted(set(commands()) - inside)


def prose(page):
    """The lines of a page outside of code, tables and sections that are made."""
    fenced = made = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        made = (made or ": made by python -m" in line) and "<!-- end of " not in line
        if not (fenced or made or line.lstrip().startswith(("|", "![", "```"))):
            yield line


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_line_of_prose_is_wider_than_a_screen(page):
    assert [line for line in prose(page) if len(line) > PROSE] == []

"""How commands end: what they cannot say is one line and exit status 2, whatever the command, and never a verdict."""

import importlib
import os
import re
import sys
from pathlib import Path

import pytest

from halobench import terminal
from tests import results_files as files

ROOT = Path(__file__).parents[1]
ENDS = re.compile(r'^if __name__ == "__main__":\n    (?P<end>.*)\n', re.MULTILINE)
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "halobench").rglob("*.py")
    if "terminal.parser(" in path.read_text() and ENDS.search(path.read_text())
)
UNSHOWN = {
    "full": ("/dev/full", ": standard output cannot be written: No space left on device\n"),
    "closed": (None, ""),  # the other end of a pipe, as where ``head`` has read enough
}


@pytest.fixture(params=UNSHOWN)
def unwritable(request):
    """A stream that takes nothing, and what is said of it after the command's name."""
    path, said = UNSHOWN[request.param]
    if path is not None and not Path(path).exists():
        pytest.skip(f"this system has no {path}")
    if path is None:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(path, os.O_WRONLY)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield stream, said


@pytest.fixture
def ended(monkeypatch, capsys):
    """End a command whose standard output is a stream: its exit status, and what it said on standard error."""

    def ended(name, main, output=None):
        monkeypatch.setattr(sys, "stdout", output or sys.stdout)
        with pytest.raises(SystemExit) as end:
            terminal.end(name, main)
        return end.value.code, capsys.readouterr().err

    return ended


def test_every_command_ends_in_one_way():
    """A module that is a command and ends otherwise would show a traceback where its output cannot be written."""
    assert {"halobench.__main__", "halobench.plot", "halobench.fuzz.__main__", "halobench.ab.__main__"} < set(COMMANDS)
    for path in (ROOT / "halobench").rglob("*.py"):
        if (found := ENDS.search(path.read_text())) and path.parts[-2:] != ("calibrate", "process.py"):
            assert found["end"].startswith("terminal.end("), path


@pytest.mark.fault
@pytest.mark.parametrize("command", ["halobench.__main__", "halobench.plot", "halobench.models.__main__"])
def test_help_that_cannot_be_shown(command, unwritable, monkeypatch, ended):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    stream, wanted = unwritable
    status, said = ended("a.command", importlib.import_module(command).main, stream)
    assert status == terminal.UNUSABLE
    assert said == (wanted and f"a.command{wanted}")


@pytest.mark.fault
@pytest.mark.parametrize("command", ["export", "models"])
def test_output_that_cannot_be_shown_is_no_fault_of_a_file(command, unwritable, tmp_path, monkeypatch, ended):
    """The commands take an ``OSError`` for one of the file that they write, and would name that."""
    made = files.write(tmp_path / "mine.json", [files.row("sdpa", "forward")])
    arguments = {"export": [made, "--to", tmp_path / "records.csv"], "models": ["convnet_mini"]}[command]
    module = importlib.import_module(f"halobench.{command}.__main__")
    monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
    stream, wanted = unwritable
    status, said = ended(f"halobench.{command}", module.main, stream)
    assert status == terminal.UNUSABLE
    assert said == (wanted and f"halobench.{command}{wanted}")


def test_a_status_is_kept(ended):
    assert ended("a.command", lambda: 3) == (3, "")


def test_a_reader_that_stays_gets_everything(ended, tmp_path):
    with (tmp_path / "said").open("w") as stream:
        assert ended("a.command", lambda: sys.stdout.write("all of it\n") * 0, stream) == (0, "")
        assert (tmp_path / "said").read_text() == "all of it\n"


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "nowhere"), "nowhere: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("--output must be a new folder"), "--output must be a new folder"),
        (ValueError("two\n  lines"), "two lines"),
    ],
)
def test_a_refusal_is_one_line_without_numbers_of_errors(problem, said, capsys):
    assert terminal.refuse("a.command", problem) == terminal.UNUSABLE
    assert capsys.readouterr().err == f"a.command: {said}\n"


@pytest.mark.fault
def test_what_nobody_foresaw_is_no_regression(ended):
    """Python ends with 1 then, which would be one."""

    def broken():
        raise KeyError("unforeseen")

    status, said = ended("a.command", broken)
    assert status == terminal.UNUSABLE
    assert "unforeseen" in said


def test_ctrl_c_is_one_line(ended):
    def interrupted():
        raise KeyboardInterrupt

    assert ended("a.command", interrupted) == (terminal.INTERRUPTED, "\na.command: interrupted\n")

"""Files whose names are no text, such as those from systems that did not write UTF-8: read and written as any other."""

import io
import os
import sys

import pytest

from halobench import terminal
from halobench.compare.__main__ import main as compare
from halobench.export.__main__ import main as export
from halobench.report.__main__ import main as report
from halobench.wording import legible
from tests import results_files as files
from tests.compared_runs import rows

NO_TEXT = os.fsdecode(b"m\xffine")
FOREIGN = '{"benchmarks": [{"fullname": "t.py::a", "stats": {"data": [0.1, 0.2], "median": 0.15}}]}'
COMMANDS = {
    "report": (
        report,
        ["failed.json"],
        ["-o", ".html"],
    ),  # charts, which take a second, have the name from the same row
    "csv": (export, ["mine.json"], ["--to", ".csv"]),
    "parquet": (export, ["mine.json"], ["--to", ".parquet"]),
    "sqlite": (export, ["mine.json"], ["--to", ".sqlite"]),
    "compare": (compare, ["mine.json", "again.json"], ["--markdown", ".md"]),
    "foreign": (compare, ["theirs.json", "once more.json"], ["--markdown", ".md"]),
}


@pytest.fixture
def folder(tmp_path):
    """A folder with results files, all of which have such a name."""
    place = tmp_path / NO_TEXT
    try:
        place.mkdir()
    except OSError:
        pytest.skip("this system has no such names")
    for number, name in enumerate(("mine", "again")):
        files.write(place / f"{NO_TEXT} {name}.json", rows(number), gpu=files.H100)
    files.write(place / f"{NO_TEXT} failed.json", [files.failed("OOM", "no room")], gpu=files.H100)
    (place / f"{NO_TEXT} theirs.json").write_text(FOREIGN)
    (place / f"{NO_TEXT} once more.json").write_text(FOREIGN.replace("0.2", "0.21"))
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_files_with_names_that_are_no_text(command, folder, monkeypatch, nowhere):
    """On a terminal that shows UTF-8 and nothing else."""
    main, read, (option, suffix) = COMMANDS[command]
    output = folder / f"{NO_TEXT} output{suffix}"
    arguments = [*(str(folder / f"{NO_TEXT} {name}") for name in read), option, str(output)]
    shown = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", shown)
    with pytest.raises(SystemExit) as ended:
        terminal.end(command, lambda: main(arguments))
    assert ended.value.code == 0
    assert output.exists()


def test_names_are_those_that_were_given():
    assert legible("mine.json") == "mine.json"
    assert legible(os.fsdecode("grün.json".encode())) == "grün.json"
    assert legible(NO_TEXT) == r"m\xffine"

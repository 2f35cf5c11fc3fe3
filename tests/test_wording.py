"""One is singular, and "1 times" is said of nothing: in messages, summaries and pages."""

import re
from pathlib import Path

import pytest

import halobench
from halobench import plot, terminal
from halobench.measure.journal import Journal, JournalError
from halobench.profile.recording import Kernel, Recording
from halobench.profile.show import compared
from halobench.profile.verdict import verdict
from halobench.records.roofline import Ceilings
from halobench.report.__main__ import main as report
from halobench.train import fashion
from halobench.train.unusable import DataError
from halobench.wording import counted, times_as
from tests import results_files, training_data

PLURAL_OF_ONE = re.compile(r"(?<![\d.,-])1 (times\b|(?!is\b|was\b|has\b|less\b)[a-z]+(?<!s)s\b)")


@pytest.mark.parametrize(("number", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (21, "21 files")])
def test_only_one_is_singular(number, said):
    assert counted(number, "file") == said


def test_a_plural_of_its_own():
    assert (counted(1.0, "core"), counted(1.5, "core"), counted(1234567, "core")) == (
        "1 core",
        "1.5 cores",
        "1234567 cores",
    )
    assert (counted(1, "launch", "launches"), counted(3, "launch", "launches")) == ("1 launch", "3 launches")


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1.0, "as long as"), (1.0049, "as long as"), (0.9996, "as long as"), (1.01, "1.01 times as long as")],
)
def test_a_factor_that_rounds_to_one_is_not_said(factor, said):
    assert times_as(factor, "long") == said


def recording(name, ms, launches):
    return Recording(name, "cuda", ms, [Kernel("one", ms / 9, launches, None)], None, [(0.0, 0)], (None, None))


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (2.0, "b is as fast as a, with 1 launch instead of 1 and "),
        (2.001, "b takes as long as a, with 1 launch instead of 1 and "),
        (1.0, "b is 2 times as fast as a, with 1 launch instead of 1 and "),
        (4.0, "b takes 2 times as long as a, with 1 launch instead of 1 and "),
    ],
)
def test_two_profiles(ms, said):
    assert compared(recording("a", 2.0, 1), recording("b", ms, 1)).startswith(said)


def test_what_bounds_a_profile():
    ceilings = Ceilings("cuda", "bfloat16", 1e12, 1e14, 1e12)
    said = verdict(recording("a", 2.0, 1), None, 2.0, ceilings).sentence
    assert said.startswith("a takes 2 ms a call, as long as its floor of 2 ms, and is bound by launches: 1 kernel at ")


def test_a_figure_a_page_and_their_files(tmp_path, capsys):
    file = results_files.write(tmp_path / "mine.json", [results_files.row(groups=["side"])])
    assert plot.main([str(file), "--output", str(tmp_path / "out")]) == 0
    assert report([str(file), "-o", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'page.html'}: 1 case of 1 file, " in said
    assert "<p>1 case with a time and 0 without, from 1 file:" in (tmp_path / "page.html").read_text()
    assert not PLURAL_OF_ONE.findall(said)
    assert not PLURAL_OF_ONE.findall((tmp_path / "out" / "summary.md").read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "two"], "argument --epochs: invalid int value: 'two'"),
        (["--rate", "-inf"], "argument --rate: expected one argument"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_options_that_cannot_be_are_one_line(capsys, arguments, said):
    parser = terminal.parser("halobench.it", "It does something.", ["--epochs 3"])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate", type=float)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == terminal.UNUSABLE
    assert capsys.readouterr().err == f"halobench.it: {said} (--help lists all options)\n"


def test_a_journal_of_one_row(tmp_path):
    path = results_files.write_journal(tmp_path / "mine.jsonl", [results_files.row()])
    with pytest.raises(JournalError, match="holds 1 row of a run"):
        Journal(path, resume=False)


def test_images_and_labels_of_another_number(tmp_path):
    folder = training_data.fashion(tmp_path, training=2, test=1)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(DataError, match="holds 2 images and 1 label of part 'train'"):
        fashion.read(folder, "train")


def test_no_message_counts_past_the_helper():
    """What counts a collection in a sentence asks ``counted``; a number that is never one stands in capitals."""
    things = "batches|cases|channels|classes|cores|epochs|files|images|kernels|models|processes|rows|runs|samples|steps"
    plain = re.compile(
        rf"\{{len\([^{{}}]*\)\}} (?!more\b)[a-z]+|(?<! of )\{{(?!suite\}}|place\}})[a-z][^{{}}:]*\}} (?:{things})\b"
    )
    found = [
        f"{path}: {match}"
        for path in Path(halobench.__file__).parent.rglob("*.py")
        for match in plain.findall(path.read_text(encoding="utf-8"))
    ]
    assert not found

"""How far a measurement of two revisions has come, and how long the rest takes."""

import re

import pytest

from halobench.ab import display
from halobench.ab.display import Display
from halobench.ab.protocol import STREAMS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, 12, 36), "the first of 12 processes says how long they take, and up to 36 more where cases are"),
        ((12.0, 11, 36), "11 processes left of 12 s: 2.2 min, and up to 7.2 min more where cases are suspected"),
        ((15.0, 1, 0), "1 process left of 15 s: 0.2 min"),
    ],
)
def test_the_time_that_is_left_follows_from_the_processes_so_far(arguments, said):
    assert display.estimate(*arguments).startswith(said)


def test_a_line_for_each_process_says_how_long_the_rest_takes(capsys):
    """Of a stage that has just begun, by what the processes of the one before took."""
    now = iter([0.0, 0.0, 10.0, 30.0, 100.0, 100.0])
    with Display(lambda: next(now)) as shown:
        shown.begin("screening", 3, later=36)
        shown.starts("base")
        shown.starts("head")
        shown.starts("control")
        shown.begin("confirmation", 36, early=True)
        shown.starts("base")
    said = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        f"screening 1/3: base, {display.estimate(None, 3, 36)}",
        "screening 2/3: head, 2 processes left of 10 s: 0.3 min, and up to 6.0 min more where cases are suspected",
        "screening 3/3: control, 1 process left of 15 s: 0.2 min, and up to 9.0 min more where cases are suspected",
        "confirmation 1/36: base, up to 36 processes left of 15 s: 9.0 min",
    ]


def test_on_a_terminal_it_is_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    now = iter([0.0, 0.0, 12.0, 24.0, 24.0])
    with Display(lambda: next(now)) as shown:
        shown.begin("screening", 12, later=36)
        for stream in STREAMS:
            shown.starts(stream)
        shown.say("something")
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"2/12 \S+ screening: control, 10 processes left of 12 s: 2.0 min, and up to 7.2 min more", said)
    assert re.search(r"\[\d\d:\d\d:\d\d\] something\s*\n", said)

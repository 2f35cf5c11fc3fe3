"""Progress off a terminal: a plain line for each case, on stderr; on a terminal, a bar."""

import io
import re
import sys

import pytest

from halobench.measure.progress import Progress, describe, standing
from tests import results_files as files

NAME = "operator/sdpa/forward/b8h3-64x64-n16x4-d16e16-bfloat16"
SHORT = "sdpa/forward/b8h3-64x64-n16x4-d16e16-bfloat16"


def row(status="OK", reason=None, **fields):
    return {"case": NAME, "status": status, "reason": reason, **fields}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (row(latency={"median_ms": 1.23456}), f"{SHORT}: 1.235 ms"),
        (row(), f"{SHORT}: correct"),
        (row("OOM", "CUDA out of memory [70 GiB]"), f"{SHORT}: OOM (CUDA out of memory [70 GiB])"),
    ],
)
def test_a_case_in_one_line(row, text):
    assert describe(row) == text


def test_plain_lines_off_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    progress = Progress(3)
    long = row("CRASHED", f"[bold]{'x' * 300}[/bold]")
    for each in (row(latency={"median_ms": 0.5}), long):
        progress.note(each)
        progress.advance()
    progress.stop()
    lines = sys.stderr.getvalue().splitlines()
    assert len(lines) == 2  # long lines are not wrapped
    assert re.fullmatch(rf"\[1/3, \d+\.\d min left\] {SHORT}: 0\.5 ms", lines[0])
    assert lines[1].endswith(f"{SHORT}: CRASHED ([bold]{'x' * 300}[/bold])")  # and read as they stand
    assert "\x1b" not in sys.stderr.getvalue()


def test_a_case_that_was_never_measured_is_not_told_as_the_one_before(monkeypatch):
    """Such as one that a marker skips: the line of the case before must not appear twice."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = Progress(2)
    progress.note(row(latency={"median_ms": 0.5}))
    progress.advance()
    progress.advance()
    assert sys.stderr.getvalue().count(SHORT) == 1


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    progress = Progress(2)
    progress.note(row(latency={"median_ms": 0.5}))
    progress.advance()
    assert progress.bar.tasks[0].completed == 1
    progress.stop()
    assert "1/2" in sys.stderr.getvalue()
    assert f"{SHORT}: 0.5 ms" in sys.stderr.getvalue()


def test_the_backends_at_the_reference_point_are_ranked():
    """Where the axes cross; other points and suites, and what failed, are not."""
    rows = []
    for backend, ms in (("naive_unfold", 3.0), ("sdpa", 1.2345), ("flex", 2.0)):
        one = files.row(backend=backend, groups=["side", "block", "halo"])
        one["latency"]["median_ms"] = ms
        rows.append(one)
    rows += [files.row(groups=["side"]), files.failed("OOM", "because", "conv", groups=["side", "block", "halo"])]
    assert list(standing(rows)) == ["forward at the reference point: sdpa 1.23 ms, flex 2 ms, naive_unfold 3 ms"]
    assert list(standing(rows[3:])) == []

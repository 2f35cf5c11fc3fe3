"""``python -m halobench.compare``: what it says and writes, its settings, and files that cannot be written."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from halobench.compare import settings
from halobench.compare.__main__ import main
from halobench.compare.outcome import Exit
from halobench.compare.render import markdown
from halobench.compare.verdict import Judged, Verdict
from halobench.records.table import ResultsError
from tests.compared_runs import SLOW, SLOW_NETWORK, folder, networks, operators, outcome

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.mark.parametrize(("made", "slow"), [(operators, SLOW), (networks, SLOW_NETWORK)])
def test_the_command_says_and_writes_what_it_found(tmp_path, capsys, made, slow):
    same = {"made": made, "slow": slow}
    base, head = folder(tmp_path, "base", 1, **same), folder(tmp_path, "head", 2, **same, factor=1.05)
    others = len(made()) - 1
    arguments = [str(base), str(head), "--json", "out.json", "--markdown", "out.md"]
    assert main(arguments) == Exit.REGRESSION
    said = capsys.readouterr().out
    assert f"1 regression (1 SLOWER, {others} SAME)" in said
    assert re.search(rf"{slow}\S* +SLOWER .*\+[45]\.\d%", said)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["status"] == "regression"
    assert [case["regressed"] for case in written["cases"]] == [True] + [False] * others
    assert "SLOWER" in (tmp_path / "out.md").read_text()
    assert main([*arguments[:2], "--threshold", "10%"]) == Exit.FINE
    assert main([str(head), str(base)]) == Exit.FINE  # faster is no regression


@pytest.mark.parametrize(("made", "slow"), [(operators, SLOW), (networks, SLOW_NETWORK)])
@pytest.mark.parametrize("setting", ['cases = {{ "{}*" = 20 }}', 'advisory = ["{}*"]', "gated_from_us = 1e9"])
def test_thresholds_come_from_pyproject(tmp_path, made, slow, setting):
    base = folder(tmp_path, "base", 1, made=made, slow=slow)
    slower = folder(tmp_path, "slower", 2, made=made, slow=slow, factor=1.05)
    assert main([str(base), str(slower)]) == Exit.REGRESSION
    (tmp_path / "pyproject.toml").write_text(f"[tool.halobench.compare]\n{setting.format(slow)}\n")
    assert main([str(base), str(slower)]) == Exit.FINE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("threshold = 2", "no setting 'threshold'"),
        ("threshold_percent = -1", "finite number of at least 0"),
        ("advisory = 'a'", "a list of patterns"),
        ("cases = { a = 'b' }", "a number of percent"),
        ("= 3", "Invalid"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[tool.halobench.compare]\n{content}\n")
    with pytest.raises(ResultsError, match=message):
        settings.load(path)


def test_names_are_text_in_markdown():
    hostile = "a|b`c`<script>alert(1)</script>[x](y)\n# title @someone"
    shown = markdown(outcome(Judged(hostile, Verdict.FAILED, hostile)))
    assert "<script>" not in shown
    assert "\n#" not in shown.removeprefix("###")
    row = next(line for line in shown.splitlines() if "FAILED" in line and "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert r"\@someone" in row


def test_long_comments_are_cut_and_say_so():
    shown = markdown(outcome(*(Judged(f"case {number}", Verdict.SLOWER) for number in range(500))))
    assert "400 more" in shown
    assert len(shown) < 65536


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "base.json head.json" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["a", "b", "--threshold", "-3"])
    assert "percent above 0" in capsys.readouterr().err


UNWRITABLE = {
    "closed": "{} | exec true",
    "full": "{} > /dev/full",
    "gone": "{} >&-",
    "json": "{} --json nowhere/out.json",
    "markdown": "{} --markdown /dev/full",
}


@pytest.mark.parametrize("kind", UNWRITABLE)
@pytest.mark.fault
def test_what_cannot_be_written_is_no_regression(tmp_path, kind):
    """Exit status 2 instead of 1 or 0, and the verdict is said in spite of it."""
    base, same = folder(tmp_path, "base", 1, runs=5), folder(tmp_path, "same", 2, runs=5)
    command = UNWRITABLE[kind].format(f"{sys.executable} -m halobench.compare {base} {same}")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.UNUSABLE, done.stderr
    assert "no regression (4 SAME)" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.fault
def test_a_file_that_cannot_be_written_is_named_and_the_other_is_written(tmp_path, capsys):
    base, same = folder(tmp_path, "base", 1, runs=5), folder(tmp_path, "same", 2, runs=5)
    markdown = tmp_path / "comment.md"
    full = Path("/dev/full")  # of which Python's own message names no file
    assert main([str(base), str(same), "--json", str(full), "--markdown", str(markdown)]) == Exit.UNUSABLE
    assert capsys.readouterr().err.endswith(f"{full} cannot be written: {os.strerror(errno.ENOSPC)}\n")
    assert markdown.read_text().startswith("### halobench: no regression")

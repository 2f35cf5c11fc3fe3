"""The journal: whatever was written before a kill is there afterwards, and nothing is lost, mixed up or left over."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from halobench.measure.journal import Journal, JournalError, differences
from halobench.records import table as results

HEADER = {
    "schema": 1,
    "tier": "smoke",
    "options": {"device": "cpu", "batch": None, "backends": ("conv", "sdpa")},
    "fingerprint": {"torch": "2.14.1", "cpu": {"model": "Some CPU", "cores": 2}},
    "ceilings": {"copy_bytes_per_s": 1e9},
}


def row(name, **fields):
    return {"case": name, "status": "OK", **fields}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mine.jsonl"


def killed(path, *names, header=HEADER):
    """What a run leaves that was killed after these cases."""
    journal = Journal(path, resume=False)
    journal.begin(header)
    for name in names:
        journal.append(row(name))
    journal.close(finished=False)


def refused(path, *, resume):
    with pytest.raises(JournalError) as error:
        Journal(path, resume=resume)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_row_is_on_disk_when_append_returns(path):
    journal = Journal(path, resume=False)
    journal.begin(HEADER)
    for name in ("one", "two"):
        journal.append(row(name))
        assert json.loads(path.read_text().splitlines()[-1])["case"] == name
    assert list(journal.rows) == ["one", "two"]
    journal.close(finished=False)


def test_resume_finds_the_rows_and_goes_on(path):
    killed(path, "one", "two")
    journal = Journal(path, resume=True)
    journal.begin(HEADER)
    assert journal.rows == {name: row(name) for name in ("one", "two")}
    journal.append(row("three"))
    journal.close(finished=False)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record.get("case") for record in records] == [None, "one", "two", "three"]


@pytest.mark.parametrize("cut", [1, 2, 10, 27])
@pytest.mark.fault
def test_a_last_line_that_was_cut_short_is_measured_again(path, cut):
    killed(path, "one", "two")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    journal = Journal(path, resume=True)
    journal.begin(HEADER)
    assert list(journal.rows) == ["one"]
    journal.append(row("two"))
    journal.close(finished=False)
    assert path.read_bytes() == whole


@pytest.mark.fault
def test_a_header_that_was_cut_short_is_written_again(path):
    killed(path)
    path.write_bytes(path.read_bytes()[:20])
    before = datetime.now(UTC)
    killed(path)
    header = json.loads(path.read_bytes())
    assert header["halobench"] == json.loads(json.dumps(HEADER))
    assert before <= datetime.fromisoformat(header["datetime"]) <= datetime.now(UTC)


@pytest.mark.fault
def test_rows_are_not_lost_to_a_new_run(path):
    killed(path, "one", "two")
    before = path.read_bytes()
    assert refused(path, resume=False) == (
        f"{path} holds 2 rows of a run that did not finish: go on with --resume, or delete the file"
    )
    assert path.read_bytes() == before


def test_a_run_without_rows_is_no_obstacle(path):
    """Killed before its first row, with other options: there is nothing to go on with and nothing to lose."""
    killed(path)
    other = {**HEADER, "tier": "full"}
    killed(path, "one", header=other)
    assert json.loads(path.read_text().splitlines()[0])["halobench"]["tier"] == "full"
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tier": "full"}, "tier"),
        ({"options": {**HEADER["options"], "batch": 4}}, "options.batch"),
        ({"options": {**HEADER["options"], "backends": ["conv"]}}, "options.backends"),
        ({"fingerprint": {**HEADER["fingerprint"], "cpu": {"model": "Other", "cores": 2}}}, "fingerprint.cpu.model"),
        ({"fingerprint": {"cpu": None}, "tier": "full"}, "fingerprint.cpu, fingerprint.torch, tier"),
    ],
)
@pytest.mark.fault
def test_another_machine_software_or_options_is_refused(path, change, named):
    killed(path, "one")
    before = path.read_bytes()
    journal = Journal(path, resume=True)
    with pytest.raises(JournalError) as error:
        journal.begin({**HEADER, **change})
    journal.close(finished=False)
    assert str(error.value) == f"{path} cannot be resumed: {named} changed since; delete the file to start over"
    assert path.read_bytes() == before


def test_ceilings_may_differ(path):
    killed(path, "one")
    journal = Journal(path, resume=True)
    journal.begin({**HEADER, "ceilings": {"copy_bytes_per_s": 2e9}})
    journal.close(finished=False)
    assert differences({"ceilings": None}, HEADER) == set(HEADER) - {"ceilings"}


HOLDER = """
import sys
from pathlib import Path
from halobench.measure.journal import Journal
journal = Journal(Path(sys.argv[1]), resume=False)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.fault
def test_a_second_run_is_refused(path):
    """Another process holds the file, as a run that goes on in another terminal does."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        for resume in (False, True):
            said = refused(path, resume=resume)
            assert said == f"{path} is in use by another run; give this one another --benchmark-json"
    finally:
        holder.communicate(timeout=60)
    Journal(path, resume=False).close(finished=True)  # free once the other is gone


@pytest.mark.parametrize("content", ["not json", '{"a": 1}', "[1, 2]", '"text"', '{"case": "one"}', "\xff"])
@pytest.mark.fault
def test_a_file_of_something_else_is_left_alone(path, content):
    path.write_bytes(f"{content}\n".encode("latin-1"))  # of which the last is no UTF-8
    before = path.read_bytes()
    for resume in (False, True):
        said = refused(path, resume=resume)
        assert said.startswith(f"{path} is not the journal of a run (line 1)")
    assert path.read_bytes() == before


@pytest.mark.fault
def test_a_damaged_line_is_named(path):
    killed(path, "one", "two")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "garbage\n", *lines[2:]]))
    assert "(line 3)" in refused(path, resume=True)


@pytest.mark.parametrize("below", ["file/mine.jsonl", "file/folder/mine.jsonl"])
@pytest.mark.fault
def test_a_folder_that_cannot_be(tmp_path, below):
    (tmp_path / "file").write_text("a regular file")
    path = tmp_path / below
    assert refused(path, resume=False).startswith(f"{path} cannot be written: ")


@pytest.mark.fault
def test_a_path_that_is_a_folder(tmp_path):
    assert refused(tmp_path, resume=False) == f"{tmp_path} cannot be written: Is a directory"


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "results" / "gpu" / "mine.jsonl"
    killed(path, "one")
    assert path.exists()


def test_a_finished_run_needs_no_journal(path):
    journal = Journal(path, resume=False)
    journal.begin(HEADER)
    journal.append(row("one"))
    journal.close(finished=True)
    assert not path.exists()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_that_json_does_not_have(path, value):
    journal = Journal(path, resume=False)
    journal.begin(HEADER)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append(row("one", latency={"median_ms": value}))
    journal.close(finished=False)
    assert len(path.read_text().splitlines()) == 1


def test_what_a_killed_run_leaves_can_be_read_as_results(path):
    killed(path)
    read = results.read(path)
    assert (len(read.table), read.headers["mine.jsonl"].complete) == (0, False)

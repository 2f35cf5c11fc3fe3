"""The journal: whatever was written before a kill is there afterwards, and nothing is lost, mixed up or left over."""

import errno
import fcntl
import importlib
import json
import math
import os
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
    journal.close()


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
    journal.close()


def test_resume_finds_the_rows_and_goes_on(path):
    killed(path, "one", "two")
    journal = Journal(path, resume=True)
    journal.begin(HEADER)
    assert journal.rows == {name: row(name) for name in ("one", "two")}
    journal.append(row("three"))
    journal.close()
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
    journal.close()
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
    journal.close()
    assert str(error.value) == f"{path} cannot be resumed: {named} changed since; delete the file to start over"
    assert path.read_bytes() == before


def test_ceilings_may_differ(path):
    killed(path, "one")
    journal = Journal(path, resume=True)
    journal.begin({**HEADER, "ceilings": {"copy_bytes_per_s": 2e9}})
    journal.close()
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
        with pytest.raises(JournalError, match="in use by another run"):
            Journal(path, resume=False, rotate=True)
    finally:
        holder.communicate(timeout=60)
    Journal(path, resume=False).close()  # free once the other is gone


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


def measured_row(name, *samples, **fields):
    return row(
        name, latency={"median_ms": 2.0}, groups=("side",), samples_ms=list(samples or (1.1, 2.0, 2.3)), **fields
    )


def failed_row(name):
    return {"case": name, "status": "OOM", "reason": "out of memory", "latency": None}


def file_of(path, rows):
    """A finished run's file of these rows, as pytest-benchmark writes it."""
    benchmarks = [
        {
            "extra_info": {"halobench": {key: value for key, value in each.items() if key != "samples_ms"}},
            "stats": {"data": [sample / 1e3 for sample in each["samples_ms"]]},
        }
        for each in rows
        if each["status"] == "OK"
    ]
    failures = [each for each in rows if each["status"] != "OK"]
    path.write_text(json.dumps({"benchmarks": benchmarks, "halobench": {"failures": failures}}))


ROWS = (measured_row("one"), failed_row("two"), measured_row("three", 0.1, 0.2, 0.3))


def journal_of(path, rows=ROWS):
    journal = Journal(path, resume=False)
    journal.begin(HEADER)
    for each in rows:
        journal.append(each)
    return journal


def test_a_finished_run_needs_no_journal(path):
    results = path.with_suffix(".json")
    file_of(results, [{**row, "floor": {"ms": 1.0}} for row in ROWS])  # which is settled at the end of a run
    assert journal_of(path).close(results) == 0
    assert list(path.parent.iterdir()) == [results]


def test_a_run_that_went_on_needs_no_journal_either(path):
    results = path.with_suffix(".json")
    journal_of(path).close()
    file_of(results, ROWS)
    assert Journal(path, resume=True).close(results) == 0
    assert not path.exists()


def absent(results):
    results.unlink()


def a_row_fewer(results):
    file_of(results, ROWS[:2])


def a_failure_fewer(results):
    file_of(results, (ROWS[0], ROWS[2]))


def of_another_run(results):
    file_of(results, (*ROWS[:2], measured_row("three", 0.1, 0.2, 0.4)))


def of_another_status(results):
    file_of(results, (ROWS[0], measured_row("two"), ROWS[2]))


def other_numbers(results):
    file_of(results, ({**ROWS[0], "memory": {"peak_bytes": 3}}, *ROWS[1:]))


def without_samples(results):
    """As ``--benchmark-save`` writes it without ``--benchmark-save-data``."""
    document = json.loads(results.read_text())
    del document["benchmarks"][0]["stats"]["data"]
    results.write_text(json.dumps(document))


def without_rows(results):
    results.write_text('{"benchmarks": [], "halobench": {"failures": []}}')


def written_by_someone_else(results):
    results.write_text('{"benchmarks": [{"name": "test_fast", "extra_info": {}, "stats": {}}]}')


def cut_short(results):
    results.write_bytes(results.read_bytes()[:-20])


def a_list(results):
    results.write_text("[1, 2]")


def a_folder(results):
    results.unlink()
    results.mkdir()


SPOILT = {
    absent: 3, a_row_fewer: 1, a_failure_fewer: 1, of_another_run: 1, of_another_status: 1, other_numbers: 1,
    without_samples: 3, without_rows: 3, written_by_someone_else: 3, cut_short: 3, a_list: 3, a_folder: 3,
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "lacking"), SPOILT.items(), ids=[each.__name__ for each in SPOILT])
@pytest.mark.fault
def test_a_journal_outlives_every_results_file_that_lacks_a_row_of_it(path, spoil, lacking):
    results = path.with_suffix(".json")
    file_of(results, ROWS)
    journal = journal_of(path)
    before = path.read_bytes()
    spoil(results)
    assert journal.close(results) == lacking
    assert path.read_bytes() == before


@pytest.mark.fault
def test_rows_of_an_earlier_part_that_this_one_did_not_report_are_kept(path):
    """A run goes on with fewer cases selected than it began with: the rest is in the journal alone."""
    results = path.with_suffix(".json")
    journal_of(path).close()
    file_of(results, ROWS[:1])
    assert Journal(path, resume=True).close(results) == 2
    assert path.exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.fault
def test_a_file_system_without_locks_does(path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    check_that_it_works(path)


def check_that_it_works(path):
    """A run, its continuation, its end; and a second run is still stopped by the rows of the first."""
    journal_of(path, ROWS[:2]).close()
    refused(path, resume=False)
    journal = Journal(path, resume=True)
    journal.append(ROWS[2])
    file_of(path.with_suffix(".json"), ROWS)
    assert journal.close(path.with_suffix(".json")) == 0
    assert not path.exists()


@pytest.mark.fault
def test_a_lock_that_fails_for_another_reason_is_named(path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert refused(path, resume=False) == f"{path} cannot be locked: {os.strerror(errno.EIO)}"


@pytest.mark.fault
def test_a_system_without_fcntl_does(path, monkeypatch):
    """As Windows is: the module is imported anew where there is none."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delitem(sys.modules, "halobench.measure.journal")
    anew = importlib.import_module("halobench.measure.journal")
    assert anew.fcntl is None
    monkeypatch.setitem(globals(), "Journal", anew.Journal)
    monkeypatch.setitem(globals(), "JournalError", anew.JournalError)
    check_that_it_works(path)
    check_that_open_files_are_not_renamed(path, monkeypatch)


def check_that_open_files_are_not_renamed(path, monkeypatch):
    """Windows refuses to."""
    opened = []
    monkeypatch.setattr(
        Journal, "_open", lambda journal, open_one=Journal._open: opened.append(open_one(journal)) or opened[-1]
    )
    rename = type(path).rename

    def rename_closed(one, other):
        assert all(file.closed for file in opened)
        return rename(one, other)

    monkeypatch.setattr(type(path), "rename", rename_closed)
    journal_of(path, ROWS[:1]).close()
    Journal(path, resume=False, rotate=True).close()
    assert path.with_stem(f"{path.stem}-1").exists()


@pytest.mark.parametrize("content", [None, b"not a journal\n", b""])
@pytest.mark.fault
def test_a_journal_that_nobody_named_makes_room_for_the_next_run(path, content):
    """Twice over: nothing is lost, and no name is given twice."""
    left = []
    for number in (1, 2):
        if content is None:
            Journal(path, resume=False, rotate=True).close()
            journal_of(path).close()
        else:
            path.write_bytes(content)
        left.append(path.read_bytes())
        journal = Journal(path, resume=False, rotate=True)
        assert journal.rows == {}
        journal.begin(HEADER)
        journal.close()
        kept = [path.with_stem(f"mine-{each}") for each in range(1, number + 1)] if content != b"" else []
        assert [each.read_bytes() for each in kept] == left[: len(kept)]
        path.unlink()


@pytest.mark.fault
def test_rows_that_are_gone_on_with_are_not_moved(path):
    journal_of(path).close()
    journal = Journal(path, resume=True, rotate=True)
    assert list(journal.rows) == ["one", "two", "three"]
    journal.close()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_that_json_does_not_have(path, value):
    journal = Journal(path, resume=False)
    journal.begin(HEADER)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append(row("one", latency={"median_ms": value}))
    journal.close()
    assert len(path.read_text().splitlines()) == 1


def test_what_a_killed_run_leaves_can_be_read_as_results(path):
    killed(path)
    read = results.read(path)
    assert (len(read.table), read.headers["mine.jsonl"].complete) == (0, False)

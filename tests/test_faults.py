"""Faults of the machine and of other people's files: nothing measured before is lost, and one line names the cause.

Faults of backends are in test_session.py and test_gpu_faults.py, kills in test_plugin.py, damaged files in
test_results.py and test_journal.py. All of them carry the mark ``fault``; the summary says how many were survived.
"""

import errno
import fcntl
import json
import os
import re
from pathlib import Path

import pytest

from halobench import plot
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem
from halobench.cases.case import Case
from halobench.machine.ceilings import OF_THE_JOB
from halobench.measure.engine import Settings
from halobench.measure.journal import Journal, JournalError
from halobench.measure.latency import LEAST, Effort
from halobench.measure.progress import describe
from halobench.measure.session import Session
from halobench.records import table as results
from halobench.report.__main__ import main as report
from tests import forked, third_party
from tests import results_files as files

pytestmark = pytest.mark.fault
ROOT = Path(__file__).parent.parent
HEADER = {"schema": 1, "tier": "smoke", "options": {}, "fingerprint": {}, "ceilings": None}
ATTEND = """
import os, resource, time
from pathlib import Path
import torch
from halobench import formula

kept = []

def attend(query, key, value, relative, geometry):
    {act}
    return formula.attend(query, key, value, relative, geometry)
"""
# The pytest process above the worker may write no file that is more than a little larger than its journal is now.
FILL = """time.sleep(0.02)
    place = Path(os.environ["FULL_PLACE"])
    if {when} and (place / "full").exists():
        limit = (place / "mine.jsonl").stat().st_size + {room}
        resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (limit, limit))"""
BACKENDS = {
    "good": ATTEND.format(act="pass"),
    "fills": ATTEND.format(act=FILL.format(when="True", room=50)),
    "fills_late": ATTEND.format(act=FILL.format(when="query.requires_grad", room=4000)),
    "leaks": ATTEND.format(act="kept.append(torch.ones(3 * 2**25))"),  # 384 MiB; a check calls twice
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    third_party.install(folder, BACKENDS)
    return folder


@pytest.fixture
def run(packages, tmp_path, known_ceilings):
    """Run pytest on one problem from the root of the repository, its results in ``tmp_path``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COLUMNS"))}
    environment |= {"PYTHONPATH": third_party.python_path(packages), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment[OF_THE_JOB] = str(known_ceilings)

    def run(backends, *arguments, file=tmp_path / "mine.json"):
        chosen = ["-k", "b8h3-16x16-n1x4", "--device=cpu", f"--backends={backends}", f"--benchmark-json={file}"]
        command = [
            "-pno:cacheprovider",
            "-pno:hypothesispytest",
            "-pno:anyio",
            "suites/bench_operator.py",
            *chosen,
            *arguments,
        ]
        done = forked.run_pytest(command, ROOT, {**environment, "FULL_PLACE": str(tmp_path)}, timeout_s=90)
        assert "Traceback" not in done.stdout + done.stderr
        assert "INTERNALERROR" not in done.stdout + done.stderr
        return done

    return run


def rows(journal):
    return [json.loads(line) for line in journal.read_text().splitlines()[1:]]


@pytest.mark.skipif(not hasattr(__import__("resource"), "prlimit"), reason="no prlimit on this platform")
def test_a_disk_that_is_full_in_the_middle_of_a_run(run, tmp_path):
    (tmp_path / "full").touch()
    done = run("conv,fills")
    assert done.returncode == 2
    journal = tmp_path / "mine.jsonl"
    said = "cannot be written: File too large; 2 rows safe in it: make room, then go on with --resume"
    assert f"{journal} {said}" in done.stdout
    before = rows(journal)
    assert [row["backend"] for row in before] == ["conv", "conv"]
    (tmp_path / "full").unlink()
    assert run("conv,fills", "--resume").returncode == 0
    table = results.read(tmp_path / "mine.json").table
    assert list(table["backend"]) == ["conv", "conv", "fills", "fills"]
    assert list(table["median_ms"][:2]) == [row["latency"]["median_ms"] for row in before]


@pytest.mark.skipif(not hasattr(__import__("resource"), "prlimit"), reason="no prlimit on this platform")
def test_a_disk_that_is_full_at_the_end_of_a_run(run, tmp_path):
    """The rows are in the journal, and an earlier file of the same name is as it was."""
    (tmp_path / "full").touch()
    file, journal = tmp_path / "mine.json", tmp_path / "mine.jsonl"
    file.write_text("what was measured yesterday")
    done = run("conv,fills_late")
    assert done.returncode == 2
    said = f"{file} cannot be written: File too large; all rows are in {journal}: make room, then the same command"
    assert said in done.stdout + done.stderr
    assert file.read_text() == "what was measured yesterday"
    assert len(rows(journal)) == 4
    (tmp_path / "full").unlink()
    assert run("conv,fills_late", "--resume").returncode == 0
    assert len(results.read(file).table) == 4
    assert not journal.exists()


def test_a_row_that_is_written_in_part_is_taken_back(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "mine.jsonl", resume=False)
    journal.begin(HEADER)
    journal.append({"case": "one"})
    before = (tmp_path / "mine.jsonl").read_bytes()
    write = os.write

    def half(file, line):
        if len(line) < 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, line[: len(line) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(JournalError, match="cannot be written: No space left on device; 1 row safe in it"):
        journal.append({"case": "two"})
    assert (tmp_path / "mine.jsonl").read_bytes() == before
    monkeypatch.undo()
    journal.append({"case": "two"})
    journal.close()
    assert [row["case"] for row in rows(tmp_path / "mine.jsonl")] == ["one", "two"]


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("a regular file")
    done = run("conv", file=tmp_path / "file" / "mine.json")
    assert done.returncode == 2
    assert re.search(r"mine\.jsonl cannot be written: (Not a directory|File exists)", done.stdout)


def test_a_second_run_into_one_file(run, tmp_path):
    """It is refused, and what the first has written so far is left alone."""
    file = tmp_path / "mine.json"
    file.write_text("what was measured yesterday")
    with (tmp_path / "mine.jsonl").open("a+") as journal:
        journal.write(json.dumps({"halobench": HEADER}) + "\n")
        journal.flush()
        fcntl.flock(journal, fcntl.LOCK_EX)
        done = run("conv")
        assert done.returncode == 2
        assert "is in use by another run; give this one another --benchmark-json" in done.stdout
    assert file.read_text() == "what was measured yesterday"
    assert (tmp_path / "mine.jsonl").read_text().count("\n") == 1


def test_a_backend_that_leaks_gets_the_next_one_a_new_worker(packages, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", third_party.python_path(packages))
    monkeypatch.syspath_prepend(packages)
    with Session(Settings("cpu", effort=Effort(LEAST, 0.0, 0.02), timed=False), timeout_s=60) as session:
        session._context = forked.Workers
        case = {name: Case("operator", name, Problem(Geometry(4, 1), 8, 8), "forward", "cpu") for name in BACKENDS}
        assert session.measure(case["good"])["status"] == "OK"
        worker = session._process.pid
        first = session.measure(case["leaks"])
        assert "leaked_bytes" not in first  # less than a GiB so far, which may be a cache
        assert session._process.pid == worker
        second = session.measure(case["leaks"])
        assert second["leaked_bytes"] > 2**30
        assert "GiB behind: a new worker follows" in describe(second)
        after = session.measure(case["good"])
        assert (after["status"], "leaked_bytes" in after) == ("OK", False)
        assert session._process.pid != worker


HUGE_BYTES = 200 * 2**20


def huge_samples(path):
    """A results file whose samples are 200 MB."""
    document = json.dumps(files.document([files.row()]))
    start, end = document.split('"data": [', 1)
    sample = "0.0012345678901234567, "
    with path.open("w") as file:
        file.write(f'{start}"data": [')
        for _ in range(100):
            file.write(sample * (HUGE_BYTES // 100 // len(sample)))
        file.write(end)


def huge_text(path):
    """A results file with 200 MB of text that nobody reads."""
    document = json.dumps({"comment": "PLACE", **files.document([files.row()])})
    start, end = document.split("PLACE", 1)
    with path.open("w") as file:
        file.write(start)
        for _ in range(200):
            file.write("x" * 2**20)
        file.write(end)


@pytest.mark.parametrize("write", [huge_samples, huge_text])
def test_a_file_of_200_megabytes_is_read(tmp_path, write):
    path = tmp_path / "huge.json"
    write(path)
    assert path.stat().st_size > 0.99 * HUGE_BYTES
    assert len(results.read(path).table) == 1
    path.unlink()


def test_200_megabytes_of_something_else_are_refused_in_a_line(tmp_path, capsys):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"[" * 2**20)
    assert report([str(path), "-o", str(tmp_path / "out.html")]) == 2
    said = capsys.readouterr().err
    assert said == f"halobench.report: {path}: not a results file: JSON nested too deeply\n"
    path.unlink()


DEEP = json.loads("[" * 400 + "]" * 400)


@pytest.mark.parametrize("place", ["problem", "latency", "groups", "label", "reason"])
def test_nesting_in_a_row_is_refused_in_a_line(tmp_path, place):
    path = files.write(tmp_path / "mine.json", [files.row() | {place: DEEP}])
    with pytest.raises(results.ResultsError) as error:
        results.read(path)
    assert len(str(error.value)) < 500 + len(str(path))
    assert "\n" not in str(error.value)


PATHS = ("../../outside", "/outside", "~/outside\x00\x1b[31m")


def test_names_are_no_paths(tmp_path, monkeypatch):
    """Names of suites, backends, machines and stages name files; none of them leads out of the folder."""
    inside = tmp_path / "a" / "b" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    rows = [files.row()]
    for name in PATHS:
        rows.append(files.row(suite=name, groups=[], label=name))
        rows.append(files.row(name, groups=["side", "block", "halo", "stages"], label=name))
    name = "".join(PATHS)
    files.write(inside / "mine.json", rows, gpu={**files.H100, "name": name}, commit=name, tier=name)
    before = {path for path in tmp_path.rglob("*") if inside not in path.parents}
    assert plot.main([str(inside), "--output", str(inside / "figures")]) == 0
    assert report([str(inside), "-o", str(inside / "out.html")]) == 0
    assert {path for path in tmp_path.rglob("*") if inside not in path.parents} == before
    assert not Path("/outside-latency-1.png").exists()
    assert all(path.parent in (inside, inside / "figures") for path in inside.rglob("*") if path.is_file())


def extreme(value):
    """A row whose every number is as large as this, and its sizes the largest."""
    row = files.row("sdpa")
    for part in ("latency", "memory", "cost", "floor"):
        for name, was in row[part].items():
            if isinstance(was, float) or name.endswith(("bytes", "flops", "exponentials")):
                row[part][name] = value
    row["problem"] |= {"height": 2**31 - 1, "width": 2**31 - 1, "batch": 2**31 - 1}
    row["energy_joules"] = value
    row["samples_ms"] = [value]
    return row


@pytest.mark.parametrize("value", [1e26, 1e-26])
def test_numbers_at_the_ends_of_their_range_are_drawn(tmp_path, value):
    files.write(tmp_path / "mine.json", [extreme(value), files.row()], gpu=files.H100)
    assert plot.main([str(tmp_path), "--output", str(tmp_path / "figures")]) == 0
    assert report([str(tmp_path), "-o", str(tmp_path / "out.html")]) == 0


@pytest.mark.parametrize("field", ["height", "batch"])
def test_sizes_that_no_map_has(tmp_path, capsys, field):
    row = files.row()
    row["problem"][field] = 2**62
    path = files.write(tmp_path / "mine.json", [row])
    assert report([str(path), "-o", str(tmp_path / "out.html")]) == 2
    said = capsys.readouterr().err
    assert f"problem.{field} must be an integer of at least 0, at most 2147483647, got {2**62}" in said


def test_control_characters_reach_no_terminal(tmp_path, capsys):
    path = files.write(tmp_path / "mine.json", [files.row("sdpa", direction="\x1b[31mforward\x00")])
    assert report([str(path), "-o", str(tmp_path / "out.html")]) == 2
    said = capsys.readouterr().err
    assert "direction must be one of forward, training, got '\ufffd[31mforward\ufffd'" in said

"""Workers on several GPUs, side by side: every case once, each row kept when it is there; stand-ins for sessions."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from halobench import Geometry, Problem
from halobench.cases.case import Case
from halobench.cases.options import Options
from halobench.measure import fleet, refusal
from halobench.measure.engine import Settings
from halobench.measure.fleet import Fleet
from halobench.measure.journal import Journal, JournalError
from halobench.measure.latency import effort_for
from halobench.measure.run import Run

CASES = [Case("operator", "sdpa", Problem(Geometry(4, 1), 8, 8 * width), "forward", "cuda") for width in range(1, 9)]
SETTINGS = Settings("cuda", effort_for("cuda"), hot=False, timed=True)


class Stand:
    """A session without a process. ``gate`` holds back its first answer; it notes what it measured, and where."""

    def __init__(self, gpu="H100", gate=None):
        self.gpu, self.gate = gpu, gate
        self.measured, self.closed, self.ended = [], False, threading.Event()

    def environment(self, dtype, known=None):
        ceilings = {"device": "cuda", "dtype": dtype, "copy_bytes_per_s": 1.0, "matmul_flops_per_s": 1.0}
        ceilings |= {"exponentials_per_s": 1.0, "routes": {}, "raised": {}, "taken_over": known is not None}
        load = dict.fromkeys(("average", "cores", "others_cores", "stolen_cores", "throttled_cores", "cpu_mhz"))
        load |= {"gpu_processes": None, "gpu_share": None, "disturbed": False, "by": None}
        return {"fingerprint": {"gpu": {"name": self.gpu}}, "load": load, "measured_s": 0.0, "ceilings": ceilings}

    def measure(self, case):
        if self.gate is not None:
            while not (self.gate.wait(0.01) or self.ended.is_set()):
                pass
        self.measured.append(case.name)
        return {**case.row(), "status": "CRASHED" if self.ended.is_set() else "OK"}

    def kill(self):
        self.ended.set()

    def close(self):
        self.closed = True


def test_every_case_is_measured_once_and_they_work_side_by_side():
    """The second worker goes on while the first is held back."""
    gate = threading.Event()
    stands, kept = [Stand(gate=gate), Stand()], []
    made = Fleet(stands)
    made.begin(CASES, kept.append)
    others = [row["case"] for row in (made.measure(case) for case in CASES if case.name in waited(stands[1], 4))]
    assert [row["case"] for row in kept] == others
    assert stands[0].measured == []
    gate.set()
    assert [made.measure(case)["case"] for case in CASES] == [case.name for case in CASES]
    assert sorted(stands[0].measured + stands[1].measured) == sorted(case.name for case in CASES)
    assert sorted(row["case"] for row in kept) == sorted(case.name for case in CASES)
    made.close()
    assert all(stand.closed for stand in stands)


def waited(stand, count):
    """What a stand-in has measured, once it is so many."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: [threading.Event().wait(0.01) for _ in range(500) if len(stand.measured) < count]).result()
    assert len(stand.measured) == count
    return stand.measured


def test_closed_in_the_middle_nothing_more_is_kept():
    """As Ctrl-C and ``--exitfirst`` close it: the rows of workers that are ended say nothing about their cases."""
    stands, kept = [Stand(gate=threading.Event()), Stand(gate=threading.Event())], []
    made = Fleet(stands)
    made.begin(CASES, kept.append)
    made.close()
    assert kept == []
    assert all(stand.closed for stand in stands)


def test_a_row_that_cannot_be_kept_ends_the_run():
    """As on a full disk: whoever asks for the row gets the error."""

    def full(row):
        raise JournalError(f"no room for {row['case']}")

    made = Fleet([Stand(), Stand()])
    made.begin(CASES, full)
    with pytest.raises(JournalError, match="no room for operator/sdpa"):
        made.measure(CASES[0])
    made.close()


def test_gpus_of_several_kinds_are_refused():
    with pytest.raises(RuntimeError, match="--devices all needs GPUs of one kind, got H100 and H200"):
        Fleet([Stand(), Stand("H200")]).environment("bfloat16")
    taken = Fleet([Stand(), Stand()]).environment("bfloat16")
    assert taken["ceilings"]["taken_over"] is False


def test_each_worker_sees_one_gpu(monkeypatch):
    """Of those that this process sees, by whatever names they have."""
    seen = []
    monkeypatch.setattr(fleet, "serve", lambda *_: seen.append(fleet.os.environ[fleet.VISIBLE]))
    for visible, names in ((None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-a,GPU-b,GPU-c", ["GPU-a", "GPU-b"])):
        monkeypatch.delenv(fleet.VISIBLE, raising=False)
        if visible:
            monkeypatch.setenv(fleet.VISIBLE, visible)
        seen.clear()
        for session in Fleet.of_all_gpus(SETTINGS, 2).sessions:
            session.target(None, SETTINGS, None)
            session.close()
        assert seen == names


def test_a_run_keeps_rows_as_they_come_and_takes_earlier_ones(tmp_path, monkeypatch):
    """Rows of the journal are not measured again, and all others are in it before pytest asks for them."""
    stands = [Stand(), Stand()]
    monkeypatch.setattr(Fleet, "of_all_gpus", lambda *_: Fleet(stands))
    monkeypatch.setattr("halobench.machine.ceilings.of_the_job", lambda *_: None)
    options = Options("default", ("sdpa",), "cuda", "bfloat16")
    for count in (3, len(CASES)):
        journal = Journal(tmp_path / "mine.jsonl", resume=True)
        run = Run(SETTINGS, options, journal, gpus=2)
        run.begin(CASES[:count])
        rows = [run.row(case) for case in CASES[:count]]
        assert [row["case"] for row in rows] == [case.name for case in CASES[:count]]
        assert set(journal.rows) == {case.name for case in CASES[:count]}
        assert run.header["options"]["gpus_side_by_side"] == 2
        run.close()
        for stand in stands:
            stand.ended.clear()
    assert len(stands[0].measured + stands[1].measured) == len(CASES)


def test_on_a_cpu_it_is_refused():
    with pytest.raises(ValueError, match="this run measures the CPU"):
        refusal.gpus("all", "cpu")
    assert refusal.gpus(None, "cpu") == 1

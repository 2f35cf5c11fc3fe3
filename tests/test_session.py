"""Deliberately bad backends in the real worker process: each becomes a row with its reason, and the run goes on."""

import json
import re
from dataclasses import asdict

import pytest

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem
from halobench.cases.case import Case
from halobench.machine.cgroup import Cgroup
from halobench.measure.engine import Settings
from halobench.measure.latency import LEAST, Effort
from halobench.measure.session import Session
from halobench.records import floors
from halobench.records.roofline import Ceilings
from halobench.records.schema import checked_row
from tests import forked, third_party

START = """
import ctypes, os, sys, time
import torch
from halobench import formula
from halobench import Unsupported
calls = []
"""
ATTEND = START + "def attend(query, key, value, relative, geometry):\n"
RIGHT = "formula.attend(query, key, value, relative, geometry)"

BACKENDS = {
    "good": f"    return {RIGHT}",
    "chatty": f"    print('all is well so far')\n    return {RIGHT}",
    "raises": "    raise ValueError('the first line\\n  and the second')",
    "silent": "    raise KeyError",
    "segfaults": "    print('something\\nlow on ink')\n    ctypes.string_at(0)",
    "hangs": "    time.sleep(600)",
    "leaves": "    os._exit(3)",
    "is_killed": "    os.kill(os.getpid(), 9)",
    "interrupts": "    raise KeyboardInterrupt",
    "wrong": f"    return {RIGHT} * 1.01",
    "nan": f"    output = {RIGHT}\n    output[0, 0, 0, 0, 0] = float('nan')\n    return output",
    "wrong_shape": f"    return {RIGHT}[..., :-1]",
    "wrong_dtype": f"    return {RIGHT}.double()",
    "nothing": "    return None",
    "mutates": f"    output = {RIGHT}\n    value[0, 0, 0, 0, 0] += 1\n    return output",
    "memory_error": "    raise MemoryError",
    "out_of_memory": "    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')",
    "too_large": "    return torch.empty(2**60, dtype=torch.uint8)",
    "tires": f"    calls.append(1)\n    return {RIGHT} * (1.0 if len(calls) < 4 else float('nan'))",
    "refuses": "    raise Unsupported('only on Sundays')",
    "imports_late": "    import a_package_that_nobody_has.part",
}
SOURCES = {name: f"{ATTEND}{body}\n" for name, body in BACKENDS.items()} | {
    "missing": "import a_package_that_nobody_has\n",
    "broken": "from torch import a_name_that_torch_lacks\n",
    "hollow": "",
    "wrong_gradient": f"{ATTEND}    return {RIGHT} + (value.sum() - value.sum().detach())\n",
}
EFFORT = Effort(min_samples=LEAST, min_s=0.0, max_s=0.02)


def case(backend, direction="forward"):
    return Case("operator", backend, Problem(Geometry(4, 1), 8, 8), direction, "cpu")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """One session for all tests, whose worker dies only where a test kills it."""
    folder = tmp_path_factory.mktemp("packages")
    third_party.install(folder, SOURCES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", third_party.python_path(folder))
        patch.syspath_prepend(folder)
        with Session(Settings("cpu", effort=EFFORT), timeout_s=60) as session:
            session._context = forked.Workers
            yield session


def measure(session, backend, direction="forward"):
    """The row of a case. It is JSON and fits the schema whatever the status; a row without a time has none."""
    row = session.measure(case(backend, direction))
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    columns = checked_row(row)
    assert (columns["median_ms"] is None) == ("samples_ms" not in row) == (row["status"] != "OK")
    assert "\n" not in (row["reason"] or "")
    return row


def goes_on(session):
    row = measure(session, "good")
    assert (row["status"], row["reason"]) == ("OK", None)
    assert len(row["samples_ms"]) >= LEAST


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_a_good_backend(session, direction):
    row = measure(session, "good", direction)
    assert row["status"] == "OK"
    assert row["latency"]["low_ms"] <= row["latency"]["median_ms"] <= row["latency"]["high_ms"]
    assert row["memory"]["peak_bytes"] > 0
    assert row["cost"]["executed_flops"] is None  # it says nothing about its cost
    assert row["cost"]["useful_flops"] > 0
    assert row["energy_joules"] is None
    assert row["clock"] == {"sm_mhz": None, "throttled": None, "reasons": []}
    tensors = {"output"} | ({"query", "key", "value", "rows", "columns"} if direction == "training" else set())
    assert set(row["accuracy"]["errors"]) == set(row["accuracy"]["budgets"]) == tensors


FAILURES = {
    "raises": ("CRASHED", r"ValueError: the first line and the second"),
    "silent": ("CRASHED", r"KeyError: ?"),
    "nothing": ("CRASHED", r"\w+: .*"),
    "wrong": ("INCORRECT", r"output is off by 0\.01, allowed [\d.e-]+"),
    "nan": ("INCORRECT", r"output is not finite"),
    "wrong_shape": ("INCORRECT", r"output is \(1, 1, 8, 8, 15\) torch.float32, expected \(1, 1, 8, 8, 16\) .*"),
    "wrong_dtype": ("INCORRECT", r"output is .* torch.float64, expected .* torch.float32"),
    "mutates": ("INCORRECT", r"the call changed its input value"),
    "tires": ("INCORRECT", r"asked again, with other values in the same memory: output of image 0 is not finite"),
    "memory_error": ("OOM", r"MemoryError: ?"),
    "out_of_memory": ("OOM", r"OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"),
    "too_large": ("OOM", r"RuntimeError: .*can't allocate memory.*"),
    "refuses": ("UNSUPPORTED", r"only on Sundays"),
    "missing": ("MISSING", r"needs the package a_package_that_nobody_has, which is not installed"),
    "imports_late": ("MISSING", r"needs the package a_package_that_nobody_has, which is not installed"),
    "broken": ("CRASHED", r"ImportError: cannot import name 'a_name_that_torch_lacks' from 'torch' .*"),
    "hollow": ("CRASHED", r"TypeError: backend 'hollow' \(hollow_backend\) defines neither attend nor build"),
}


@pytest.mark.parametrize("backend", FAILURES)
@pytest.mark.fault
def test_a_failure_is_a_row_and_the_worker_stays(session, backend):
    goes_on(session)
    worker = session._process.pid
    status, reason = FAILURES[backend]
    row = measure(session, backend)
    assert row["status"] == status
    assert re.fullmatch(reason, row["reason"]), row["reason"]
    goes_on(session)
    assert session._process.pid == worker


@pytest.mark.parametrize("backend", ["wrong", "wrong_shape", "wrong_dtype", "nan"])
@pytest.mark.fault
def test_wrong_results_are_found_in_training_too(session, backend):
    assert measure(session, backend, "training")["status"] == "INCORRECT"


@pytest.mark.fault
def test_a_wrong_gradient_alone_is_found(session):
    assert measure(session, "wrong_gradient")["status"] == "OK"
    row = measure(session, "wrong_gradient", "training")
    assert (row["status"], row["reason"].partition(" ")[0]) == ("INCORRECT", "value")


DEATHS = {
    "segfaults": "the worker ended with signal 11: low on ink",
    "leaves": "the worker ended with exit status 3",
    "interrupts": "the worker ended with exit status 1: KeyboardInterrupt",
}


@pytest.mark.parametrize("backend", DEATHS)
@pytest.mark.fault
def test_a_death_is_a_row_and_another_worker_goes_on(session, backend):
    """What an earlier case printed in the same worker is no explanation."""
    assert measure(session, "chatty")["status"] == "OK"
    row = measure(session, backend)
    assert (row["status"], row["reason"]) == ("CRASHED", DEATHS[backend])
    goes_on(session)


@pytest.mark.fault
def test_a_hang_ends_at_the_timeout(session, monkeypatch):
    goes_on(session)
    hanging = session._process
    monkeypatch.setattr(session, "timeout_s", 1.0)
    row = measure(session, "hangs")
    assert (row["status"], row["reason"]) == ("TIMEOUT", "no answer within 1 s")
    assert not hanging.is_alive()
    monkeypatch.undo()
    goes_on(session)


def test_environment(session):
    found = session.environment("float32")
    assert set(found) == {"fingerprint", "ceilings", "load", "measured_s"}
    assert found["measured_s"] > 0
    ceilings, (row,) = floors.settled(found["ceilings"], [measure(session, "good")])
    assert row["floor"]["share"] == pytest.approx(row["floor"]["ms"] / row["latency"]["median_ms"])
    assert row["floor"]["bound"] in {"bytes", "flops", "exponentials"}
    assert all(ceilings["routes"][bound] for bound in ("bytes", "flops", "exponentials"))


def test_ceilings_that_are_known_are_not_measured_again(session):
    known = Ceilings("cpu", "float32", 1.0, 2.0, 3.0, taken_over=True)
    found = session.environment("float32", known)
    assert found["ceilings"] == asdict(known)


def test_without_times_every_case_is_only_checked():
    """In a worker that is started as it is for users."""
    with Session(Settings("cpu", timed=False)) as session:
        assert session.environment("float32")["ceilings"] is None
        problem = Problem(Geometry(4, 1), 8, 8)
        row = session.measure(Case("operator", "sdpa", problem, "forward", "cpu"))
        worker = session._process
    assert row["status"] == "OK"
    assert "latency" not in row
    assert row["accuracy"]["errors"]["output"] <= row["accuracy"]["budgets"]["output"]
    assert not worker.is_alive()


@pytest.mark.fault
def test_a_device_that_cannot_be_used():
    with (
        Session(Settings("nonsense"), timeout_s=60) as session,
        pytest.raises(
            RuntimeError, match="the device 'nonsense' cannot be used: the worker ended with exit status 1: "
        ),
    ):
        session.environment("float32")


@pytest.mark.parametrize(("counts", "status"), [((4, 5), "OOM"), ((4, 4), "CRASHED"), ((None, None), "CRASHED")])
def test_a_kill_is_out_of_memory_only_where_the_kernel_counts_one(session, monkeypatch, counts, status):
    given = iter(counts)
    monkeypatch.setattr(Cgroup, "killed", lambda _: next(given))
    monkeypatch.setattr(Cgroup, "memory_limit", lambda _: 3 * 2**30)
    row = session.measure(case("is_killed"))
    said = {
        "OOM": "memory ran out within the container's limit of 3.0 GiB",
        "CRASHED": "the worker ended with signal 9",
    }
    assert row["status"] == status
    assert row["reason"].startswith(said[status])

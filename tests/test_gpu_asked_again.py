"""Wrong answers and missing work that only a GPU can hide: each becomes a row with its reason and without a time."""

import re

import pytest
import torch

from halobench import Geometry, Problem, backends
from halobench.cases.case import Case
from halobench.measure.engine import Settings
from halobench.measure.latency import LEAST, Effort
from halobench.measure.session import Session
from tests import third_party

START = """
from functools import cache
import torch, triton
import triton.language as tl
from halobench import formula

kept, calls = {}, []

@cache
def side():
    return torch.cuda.Stream()

@triton.jit
def put(pointer, place):
    tl.store(pointer + place, 0.0)

def capturing():
    return torch.cuda.is_current_stream_capturing()

def right(*arguments):
    calls.append(1)
    return formula.attend(*arguments)

def attend(*arguments):
"""
JOINED = """    here = torch.cuda.current_stream()
    side().wait_stream(here)
    with torch.cuda.stream(side()):
        output = right(*arguments)
    here.wait_stream(side())
    return output
"""
WAITS = "    assert arguments[0].abs().sum().item() > 0\n    return right(*arguments)\n"
KEPT = """    good = right(*arguments)
    if not capturing():
        kept[good.shape] = good.detach()
        return good
    return kept[good.shape] + (good - good.detach())
"""
MIDDLE = "    good = right(*arguments)\n    return torch.cat([good[:1], good[:1], good[2:]])\n"
BODIES = {
    "good": "    return right(*arguments)\n",
    "joined": JOINED,
    "unjoined": JOINED.replace("    here.wait_stream(side())\n", ""),
    "elsewhere": "    with torch.cuda.stream(side()):\n        return right(*arguments)\n",
    "waits": WAITS,
    "waits_and_says_so": f"{WAITS}\ncapturable = False\n",
    "keeps_in_a_capture": KEPT,
    "nan_in_a_capture": "    return right(*arguments) * (float('nan') if capturing() else 1.0)\n",
    "tires": "    return right(*arguments) * (float('nan') if len(calls) > 4 else 1.0)\n\ncapturable = False\n",
    "spills": "    put[(1,)](arguments[2], arguments[2].numel())\n    return right(*arguments)\n",
    "spills_before": "    put[(1,)](arguments[0], -1)\n    return right(*arguments)\n",
    "errs_in_the_middle": MIDDLE,
}
SHORT = Problem(Geometry(4, 1), 8, 8, batch=3)
LONG = Problem(Geometry(8, 3), 64, 64, batch=64, heads=4)  # the formula takes some ms in float32: it is launched
OTHERS = r"asked again, with other values in the same memory: output of image \d+ is"
WRONG = r".*output.* is (off by|not finite).*"
FAULTS = {
    # Launched, the answer is read too early or is made of old values; events see no work, so it is captured as well.
    ("unjoined", LONG): ("INCORRECT|CRASHED", rf"{WRONG}|.*cannot be captured as a CUDA graph.*"),
    ("unjoined", SHORT): ("INCORRECT|CRASHED", rf"{WRONG}|.*cannot be captured as a CUDA graph.*"),
    ("elsewhere", LONG): ("INCORRECT|CRASHED", rf"{WRONG}|.*cannot be captured as a CUDA graph.*"),
    ("elsewhere", SHORT): ("INCORRECT|CRASHED", rf"{WRONG}|.*cannot be captured as a CUDA graph.*"),
    ("waits", SHORT): ("CRASHED", r"waits cannot be captured as a CUDA graph: \w+: .*captur.*"),
    ("keeps_in_a_capture", SHORT): ("INCORRECT", rf"{OTHERS} off by .*"),
    ("nan_in_a_capture", SHORT): ("INCORRECT", rf"{OTHERS} not finite"),
    ("tires", SHORT): ("INCORRECT", rf"{OTHERS} not finite"),
    ("spills", SHORT): ("INCORRECT", r"the call wrote beside its input value"),
    ("spills_before", LONG): ("INCORRECT", r"the call wrote beside its input query"),
    ("errs_in_the_middle", SHORT): ("INCORRECT", rf"{OTHERS} off by .*"),
    ("errs_in_the_middle", LONG): ("INCORRECT", rf"{OTHERS} off by .*"),
}
HONEST = [("good", SHORT), ("good", LONG), ("joined", SHORT), ("joined", LONG), ("waits_and_says_so", SHORT)]
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    folder = tmp_path_factory.mktemp("packages")
    third_party.install(folder, {name: START + body for name, body in BODIES.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", third_party.python_path(folder))
        patch.syspath_prepend(folder)
        with Session(Settings("cuda", effort=Effort(LEAST, 0.0, 0.02, places=3)), timeout_s=120) as session:
            yield session


def measure(session, backend, problem, direction="forward"):
    return session.measure(Case("operator", backend, problem, direction, "cuda"))


def size(value):
    return f"{value.height}x{value.width}" if isinstance(value, Problem) else value


@pytest.mark.fault
@pytest.mark.parametrize(("backend", "problem"), FAULTS, ids=size)
def test_no_time_for_a_wrong_answer(session, backend, problem):
    status, said = FAULTS[backend, problem]
    row = measure(session, backend, problem)
    assert re.fullmatch(status, row["status"]), row["reason"]
    assert re.fullmatch(said, row["reason"]), row["reason"]
    assert "samples_ms" not in row
    after = measure(session, "good", SHORT)
    assert (after["status"], after["reason"]) == ("OK", None)


@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize(("backend", "problem"), HONEST, ids=size)
def test_right_ones_pass(session, backend, problem, direction):
    row = measure(session, backend, problem, direction)
    assert (row["status"], row["reason"]) == ("OK", None)
    assert row["latency"]["replayed"] is (problem is SHORT and backend != "waits_and_says_so")


@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize("name", backends.names())
def test_every_backend_passes(session, name, direction):
    """Half precision and many images, so that sums over the batch are long."""
    border = backends.load(name).borders[0]
    row = measure(session, name, Problem(Geometry(8, 3, border=border), 16, 16, 64, 4, dtype="bfloat16"), direction)
    assert (row["status"], row["reason"]) == ("OK", None)

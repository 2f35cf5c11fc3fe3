"""What only a GPU can get wrong: each becomes a row with its reason, and another case is measured after it."""

import pytest
import torch

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem
from halobench.cases.case import Case
from halobench.measure.engine import Settings
from halobench.measure.latency import LEAST, Effort
from halobench.measure.session import Session
from tests import third_party

START = """
import torch, triton
import triton.language as tl
from halobench import formula
from halobench.attention.problem import Execution

@triton.jit
def wild(pointer):
    tl.store(pointer + (1 << 40), 1.0)

def attend(query, key, value, relative, geometry):
"""
RIGHT = "formula.attend(query, key, value, relative, geometry)"
SOURCES = {
    "good": f"{START}    return {RIGHT}\n",
    "illegal_access": f"{START}    wild[(1,)](value)\n    return {RIGHT}\n",
    "index_out_of_bounds": f"{START}    value.flatten()[torch.tensor([1 << 40], device='cuda')]\n    return {RIGHT}\n",
    "too_large": f"{START}    torch.empty(1 << 50, dtype=torch.uint8, device='cuda')\n    return {RIGHT}\n",
    "predicted": f"{START}    return {RIGHT}\n\ndef execution(problem):\n    return Execution(1, 1, 1, 1, 1 << 50)\n",
}
FAULTS = {
    "illegal_access": ("CRASHED", "illegal memory access"),
    "index_out_of_bounds": ("CRASHED", "device-side assert"),
    "too_large": ("OOM", "out of memory"),
    "predicted": ("OOM", "GiB are free"),
}
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    folder = tmp_path_factory.mktemp("packages")
    third_party.install(folder, SOURCES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", third_party.python_path(folder))
        patch.syspath_prepend(folder)
        with Session(Settings("cuda", effort=Effort(LEAST, 0.0, 0.02)), timeout_s=120) as session:
            yield session


def measure(session, backend):
    return session.measure(Case("operator", backend, Problem(Geometry(4, 1), 8, 8), "forward", "cuda"))


@pytest.mark.parametrize("backend", FAULTS)
@pytest.mark.fault
def test_a_fault_is_a_row_and_the_run_goes_on(session, backend):
    assert measure(session, "good")["status"] == "OK"
    row = measure(session, backend)
    status, said = FAULTS[backend]
    assert row["status"] == status
    assert said in row["reason"]
    after = measure(session, "good")
    assert (after["status"], after["reason"]) == ("OK", None)

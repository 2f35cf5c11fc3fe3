"""What a GPU was found to be off by on random problems, and what the accuracy rule allows it today."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from halobench import Geometry, Problem, backends
from halobench.attention import oracle
from halobench.cases import accuracy
from halobench.cases.operator_call import Call
from halobench.fuzz.draw import Trial
from halobench.fuzz.tensors import lay

RECORDS = sorted((Path(__file__).parent.parent / "results" / "fuzz").glob("*.jsonl.gz"))
FEW = 2**15  # pairs of queries and keys: tenths of a second each, and half of what was refused


def refused():
    """The recorded trials that the rule of their time refused."""
    for path in RECORDS:
        with gzip.open(path, "rt") as lines:
            yield from (json.loads(line) for line in lines if '"status": "INCORRECT"' in line)


def trial_of(row):
    geometry = Geometry(row["block"], row["halo"], row["stride"], row["border"])
    sizes = (row[name] for name in ("height", "width", "batch", "heads", "key_dim", "value_dim"))
    problem = Problem(geometry, *sizes, relative=row["relative"], dtype=row["dtype"])
    drawn = (row[name] for name in ("layout", "cotangent_layout", "magnitude", "cotangent", "numbers_seed"))
    return Trial(problem, *drawn)


SMALL = [row for row in refused() if trial_of(row).problem.window_pairs <= FEW]


@pytest.mark.parametrize("row", SMALL, ids=lambda row: "{seed}-{family}-{trial}".format(**row))
def test_what_was_refused_once_is_within_todays_budget(row):
    """Only the budget is computed here; the errors are those that a GPU made."""
    trial = trial_of(row)
    laid = lay(trial, "cpu")
    call = Call(laid.inputs.tensors, laid.cotangent, trial.problem.geometry)
    backend = backends.load("strided_gather")
    truth = call.to(torch.float64).results(accuracy.Reference(backend).through(oracle.attend).attend)
    drawn = accuracy.redrawn(truth, backend, call)
    least = torch.finfo(call.cotangent.dtype).eps / 2
    for name in row["wrong"]:
        assert row["errors"][name] <= 2 * max(drawn[name], least)


def test_the_small_ones_are_many():
    assert len(SMALL) >= 12

"""A case's name says everything but the device, and its row is what a results file holds before measuring."""

import json
from dataclasses import replace

import pytest

from halobench.attention.geometry import Geometry
from halobench.attention.problem import LayerSpec, Problem
from halobench.cases.case import Case, task_name
from halobench.cases.workload import Slot
from halobench.records.schema import checked_row

POINT = Problem(Geometry(8, 3), 64, 32, batch=16, heads=4, key_dim=16, value_dim=40, dtype="bfloat16")
LAYER = LayerSpec(channels=64, heads=4, key_dim=16, value_dim=40, geometry=Geometry(8, 3), kernel=5)
SLOT = Slot(LAYER, 64, 32, 16, "bfloat16")


def test_name():
    assert task_name(POINT) == "b8h3-64x32-n16x4-d16e40-bfloat16"
    assert task_name(SLOT) == "b8h3-64x32-n16x4-d16e40-bfloat16-c64-k5"
    usual = replace(SLOT, layer=replace(LAYER, kernel=3))
    assert task_name(usual) == "b8h3-64x32-n16x4-d16e40-bfloat16-c64"
    case = Case("operator", "sdpa", POINT, "training", "cuda")
    assert case.name == "operator/sdpa/training/b8h3-64x32-n16x4-d16e40-bfloat16"


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": Geometry(4, 3)},
        {"geometry": Geometry(8, 2)},
        {"geometry": Geometry(8, 3, stride=2)},
        {"geometry": Geometry(8, 3, border="zero")},
        {"height": 32},
        {"width": 64},
        {"batch": 1},
        {"heads": 8},
        {"key_dim": 32},
        {"value_dim": 16},
        {"relative": False},
        {"dtype": "float16"},
    ],
)
def test_whatever_changes_shows_in_the_name(change):
    assert task_name(replace(POINT, **change)) != task_name(POINT)


@pytest.mark.parametrize("change", [{"channels": 128}, {"positions": "sum"}, {"positions": None}, {"kernel": 3}])
def test_whatever_changes_in_a_layer_shows_in_the_name(change):
    assert task_name(replace(SLOT, layer=replace(LAYER, **change))) != task_name(SLOT)


def test_row_of_an_operator():
    row = Case("operator", "sdpa", POINT, "forward", "cuda", ("side", "grid"), "H0 stage 1").row()
    assert json.loads(json.dumps(row)) == row
    assert row["problem"]["geometry"] == {"block": 8, "halo": 3, "stride": 1, "border": "masked"}
    assert (row["layer"], row["label"], row["groups"]) == (None, "H0 stage 1", ["side", "grid"])


def test_row_of_a_layer():
    row = Case("layer", "conv", SLOT, "training", "cpu").row()
    assert json.loads(json.dumps(row)) == row
    assert row["layer"] == {"channels": 64, "positions": "split", "kernel": 5}
    assert row["problem"] == Case("operator", "conv", POINT, "training", "cpu").row()["problem"]


@pytest.mark.parametrize("task", [POINT, SLOT])
def test_a_row_fits_the_schema(task):
    columns = checked_row({**Case("layer", "conv", task, "forward", "cpu").row(), "status": "OOM", "reason": "full"})
    assert (columns["block"], columns["value_dim"], columns["dtype"]) == (8, 40, "bfloat16")

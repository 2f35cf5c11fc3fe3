"""Problem and LayerSpec: validation, derived counts, inputs."""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from halobench import Geometry, LayerSpec, Problem

GEOMETRY = Geometry(8, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height must be at least 1, got 0"),
        ({"width": -3}, "width must be at least 1, got -3"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"key_dim": 0}, "key_dim must be at least 1, got 0"),
        ({"value_dim": 0}, "value_dim must be at least 1, got 0"),
        ({"batch": -1}, "batch must not be negative, got -1"),
        ({"dtype": "float7"}, "dtype must name a torch dtype such as 'bfloat16', got 'float7'"),
        ({"dtype": "nn"}, "dtype must name a torch dtype such as 'bfloat16', got 'nn'"),
    ],
)
def test_bad_problems_are_named(change: dict[str, Any], message: str) -> None:
    """The message names the field and the value."""
    with pytest.raises(ValueError, match=message):
        Problem(**{"geometry": GEOMETRY, "height": 16, "width": 16} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"kernel": 0}, "kernel must be at least 1, got 0"),
        ({"positions": "both"}, "positions must be 'split', 'sum' or None, got 'both'"),
        ({"key_dim": 1}, "positions 'split' need a key_dim of at least 2, got 1"),
    ],
)
def test_bad_layers_are_named(change: dict[str, Any], message: str) -> None:
    """The message names the field and the value."""
    with pytest.raises(ValueError, match=message):
        LayerSpec(**{"channels": 32, "heads": 2, "key_dim": 16, "value_dim": 16, "geometry": GEOMETRY} | change)


def test_problem_survives_a_file() -> None:
    """A problem is rebuilt from its plain fields."""
    problem = Problem(GEOMETRY, 16, 24, batch=2, dtype="bfloat16")
    fields = asdict(problem)
    assert Problem(**fields | {"geometry": Geometry(**fields["geometry"])}) == problem


def test_counts_of_a_whole_call() -> None:
    """Queries and pairs count over batch and heads; window pairs include what is padding."""
    problem = Problem(Geometry(2, 1, stride=2), 4, 6, batch=3, heads=5)
    assert problem.queries == 3 * 5 * 2 * 3
    assert problem.window_pairs == problem.queries * 4**2
    assert problem.visible_pairs == 3 * 5 * (3 + 3) * (3 + 4 + 3)


def test_inputs_have_the_shapes_and_layout_of_a_layer() -> None:
    """Queries are strided, tables cover the window, and memory is channels-last."""
    problem = Problem(Geometry(4, 1, stride=2), 8, 12, batch=2, heads=3, key_dim=5, value_dim=7, dtype="bfloat16")
    inputs = problem.inputs()
    assert inputs.query.shape == (2, 3, 4, 6, 5)
    assert inputs.key.shape == (2, 3, 8, 12, 5)
    assert inputs.value.shape == (2, 3, 8, 12, 7)
    assert {name: tuple(tensor.shape) for name, tensor in inputs.tensors.items() if name in ("rows", "columns")} == {
        "rows": (11, 5),
        "columns": (11, 5),
    }
    assert all(tensor.dtype == torch.bfloat16 for tensor in inputs.tensors.values())
    assert inputs.value.permute(0, 2, 3, 1, 4).is_contiguous()


def test_inputs_repeat_and_differ_by_seed() -> None:
    """The same seed gives the same inputs, another one others; query and key are never alike."""
    problem = Problem(GEOMETRY, 8, 8)
    first, again, other = problem.inputs(seed=1), problem.inputs(seed=1), problem.inputs(seed=2)
    assert torch.equal(first.key, again.key)
    assert not torch.equal(first.key, other.key)
    assert not torch.equal(first.query, first.key)
    assert Problem(GEOMETRY, 8, 8, relative=False).inputs().relative is None

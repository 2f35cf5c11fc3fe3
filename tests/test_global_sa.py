"""Global attention defines its own truth (``meaning``), so that truth is checked here without it."""

import itertools
import math

import pytest
import torch

from halobench import Geometry, Problem, backends
from halobench.attention import oracle


@pytest.mark.parametrize("stride", [1, 2])
def test_offsets_beyond_the_tables_share_the_outermost_entry(stride: int) -> None:
    """Loops over every query and every pixel, offsets clipped to the tables, give the backend's output."""
    problem = Problem(Geometry(2, 1, stride), 4, 8, key_dim=3, value_dim=2, dtype="float64")
    query, key, value, relative = problem.inputs()
    assert relative is not None
    attend = backends.load("global_sa").attend
    assert attend is not None
    output = attend(query, key, value, relative, problem.geometry)
    reach = 3  # the tables end at offset window - 1
    for y, x in itertools.product(*map(range, output.shape[2:4])):
        total, mixed = 0.0, torch.zeros(2, dtype=torch.float64)
        for a, b in itertools.product(range(4), range(8)):
            row = max(-reach, min(reach, a - stride * y)) + reach
            column = max(-reach, min(reach, b - stride * x)) + reach
            vector = key[0, 0, a, b] + relative.rows[row] + relative.columns[column]
            weight = math.exp(query[0, 0, y, x] @ vector / math.sqrt(3))
            total, mixed = total + weight, mixed + weight * value[0, 0, a, b]
        torch.testing.assert_close(output[0, 0, y, x], mixed / total, rtol=1e-12, atol=1e-13)


def test_a_block_over_the_map_is_global_attention() -> None:
    """Where halo attention sees every pixel, both are the same operator with the same tables."""
    problem = Problem(Geometry(8, 2), 7, 6, batch=2, heads=2, dtype="float64")
    inputs = problem.inputs()
    attend = backends.load("global_sa").attend
    assert attend is not None
    expected = oracle.attend(*inputs, problem.geometry)
    torch.testing.assert_close(attend(*inputs, problem.geometry), expected, rtol=1e-12, atol=1e-13)

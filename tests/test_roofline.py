"""Ceilings and the floor under them: numbers worked out by hand, and a kernel that really computes exponentials."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from halobench.cases.cost import Cost
from halobench.records import roofline
from halobench.records.doubt import doubted
from halobench.records.roofline import BOUNDS, Ceilings, Floor, floor

CEILINGS = Ceilings("cuda", "bfloat16", copy_bytes_per_s=2e12, matmul_flops_per_s=5e14, exponentials_per_s=4e12)


def cost(*, flops=0, bytes=0, exponentials=0):  # noqa: A002
    return Cost(flops=flops, bytes=bytes, exponentials=exponentials)


def test_one_pass_is_bound_by_its_slowest_resource():
    amounts = {"bytes": 4e9, "flops": 5e11, "exponentials": 4e9}  # 2 ms, 1 ms, 1 ms
    assert floor([cost(**amounts)], CEILINGS) == Floor(pytest.approx(2.0), "bytes")
    assert floor([cost(**{**amounts, "flops": 2.5e12})], CEILINGS) == Floor(pytest.approx(5.0), "flops")
    assert floor([cost(**{**amounts, "exponentials": 12e9})], CEILINGS) == Floor(pytest.approx(3.0), "exponentials")


def test_passes_follow_one_another():
    """Each pass has its own bound: 2 ms of bytes, then 3 ms of FLOPs. The longest pass gives its name."""
    passes = [cost(bytes=4e9, flops=1e9), cost(bytes=1e9, flops=1.5e12)]
    assert floor(passes, CEILINGS) == Floor(pytest.approx(5.0), "flops")
    assert floor(passes[::-1], CEILINGS) == floor(passes, CEILINGS)


def test_nothing_to_do():
    assert floor([cost()], CEILINGS) == Floor(0.0, "bytes")


@pytest.mark.parametrize("unknown", ["copy_bytes_per_s", "matmul_flops_per_s", "exponentials_per_s"])
def test_an_unknown_ceiling_gives_no_floor(unknown):
    assert floor([cost(bytes=1)], replace(CEILINGS, **{unknown: None})) is None


def test_bounds_are_the_fields_of_a_cost():
    assert set(BOUNDS) == set(Cost.__dataclass_fields__)


def test_a_call_below_its_floor_raises_what_bound_it():
    """Half the time of its FLOPs' floor: twice the rate. What did not bind it stays."""
    work = cost(bytes=1e9, flops=5e11)  # 0.5 ms, 1 ms
    lifted = roofline.raised(CEILINGS, [work], 0.75, "mine")
    assert lifted.matmul_flops_per_s == pytest.approx(5e14 / 0.75)
    assert lifted.copy_bytes_per_s == CEILINGS.copy_bytes_per_s
    assert lifted.raised == {"flops": {"measured": 5e14, "by": "mine"}}
    assert floor([work], lifted).ms == pytest.approx(0.75)
    assert roofline.raised(lifted, [work], 0.75, "again") == lifted
    assert roofline.raised(CEILINGS, [work], 1.0, "at its floor") == CEILINGS


def test_what_binds_next_is_raised_too():
    work = cost(bytes=1.9e9, flops=5e11)  # 0.95 ms, 1 ms
    lifted = roofline.raised(CEILINGS, [work], 0.5, "mine")
    assert floor([work], lifted).ms == pytest.approx(0.5)
    assert set(lifted.raised) == {"flops", "bytes"}


def test_of_two_passes_both_are_raised():
    passes = [cost(bytes=4e9), cost(flops=1e12)]  # 2 ms, 2 ms
    lifted = roofline.raised(CEILINGS, passes, 1.0, "mine")
    assert floor(passes, lifted).ms == pytest.approx(1.0)
    assert (lifted.copy_bytes_per_s, lifted.matmul_flops_per_s) == pytest.approx((8e12, 2e15))


def test_raised_again_it_remembers_what_was_measured():
    once = roofline.raised(CEILINGS, [cost(flops=5e11)], 0.5, "first")
    twice = roofline.raised(once, [cost(flops=5e11)], 0.25, "second")
    assert twice.raised["flops"] == {"measured": 5e14, "by": "second"}


def test_what_is_unknown_is_not_raised():
    unknown = replace(CEILINGS, exponentials_per_s=None)
    assert roofline.raised(unknown, [cost(flops=1e15)], 1e-6, "mine") == unknown


def test_the_best_of_two_measurements_keeps_its_route():
    one = replace(CEILINGS, routes={"bytes": "copy", "flops": "product"})
    other = replace(CEILINGS, copy_bytes_per_s=3e12, matmul_flops_per_s=1e14, routes={"bytes": "scaling"})
    best = roofline.best_of(one, other)
    assert (best.copy_bytes_per_s, best.matmul_flops_per_s) == (3e12, 5e14)
    assert best.routes == {"bytes": "scaling", "flops": "product"}
    assert roofline.best_of(replace(one, copy_bytes_per_s=None), other).copy_bytes_per_s == 3e12


INTERPRETED = """
import torch
from halobench.machine import exponentials
numbers = torch.rand(2 * exponentials.BLOCK) * 4 - 2
expected = numbers.clone()
for _ in range(exponentials.ROUNDS):
    expected = torch.exp2(-expected)
one = torch.empty_like(numbers)
exponentials.exponentials[(2,)](numbers, one, 3, exponentials.BLOCK)
three = numbers.clone()
for _ in range(3):
    three = torch.exp2(-three)
torch.testing.assert_close(one, three)
torch.testing.assert_close(exponentials.repeat_exp2(numbers), expected)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_computes_exponentials():
    """After 256 rounds every number is close to the fixed point of 2^-x; after three they still differ."""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=environment, cwd=root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.stdout == "equal\n", run.stderr


def test_a_time_below_its_floor_casts_doubt_on_the_run():
    """Nothing is faster than the best rates, unless these were not measured at their best."""
    assert doubted([0.2, 1.0]) is None
    assert doubted([1 + 1e-9]) is None  # the call that raised a ceiling, rounded
    said = doubted([0.2, 1.01, 13.0])
    assert str(said).startswith("2 cases took less time than the floor, by a factor of up to 13: ")

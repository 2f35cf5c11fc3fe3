"""Ceilings and the floor under them: numbers worked out by hand, and a kernel that really computes exponentials."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from halobench.cases.cost import Cost
from halobench.machine import roofline
from halobench.machine.roofline import BOUNDS, Ceilings, Floor, floor
from halobench.records.doubt import doubted

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


def test_ceilings_of_a_cpu():
    ceilings = roofline.measure("cpu", "float32")
    assert (ceilings.device, ceilings.dtype) == ("cpu", "float32")
    rates = (ceilings.copy_bytes_per_s, ceilings.matmul_flops_per_s, ceilings.exponentials_per_s)
    assert all(rate > 1e6 for rate in rates)


class Stopped:
    """A clock for which every call takes 10 ms."""

    def burst(self, call, count):
        call()
        return type("Burst", (), {"device_ms": [10.0] * count})


def test_rates_count_what_is_done():
    import torch  # noqa: PLC0415

    assert roofline.copy_rate(Stopped(), "cpu", bytes_=1000) == pytest.approx(2000 / 0.01)
    assert roofline.matmul_rate(Stopped(), "cpu", torch.float32, side=10) == pytest.approx(2000 / 0.01)
    threads = torch.get_num_threads()
    assert roofline.cpu_exponential_rate(Stopped()) == pytest.approx(2**16 * threads / 0.01)


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
    said = doubted([0.2, 1.01, 13.0])
    assert str(said).startswith("2 cases took less time than the floor, by a factor of up to 13: ")

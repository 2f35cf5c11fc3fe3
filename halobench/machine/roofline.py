"""This machine's ceilings, measured in the run, and the floor of a problem under them.

The floor is the least time that a pass could take if it did nothing but its useful work at the best rates seen here:
the longest of bytes / copy rate, FLOPs / matmul rate, exponentials / exponential rate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

import torch

from halobench.cases.cost import Cost
from halobench.machine.clock import Clock, clock_for

Bound = Literal["bytes", "flops", "exponentials"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)


@dataclass(frozen=True)
class Ceilings:
    """The best rates measured on a device, per second: copied bytes (read + written), FLOPs, exponentials.

    ``None`` where a rate could not be measured.
    """

    device: str
    dtype: str
    copy_bytes_per_s: float | None
    matmul_flops_per_s: float | None
    exponentials_per_s: float | None


@dataclass(frozen=True)
class Floor:
    """The least time of a call in ms, and what bounds its longest pass."""

    ms: float
    bound: Bound


def floor(passes: list[Cost], ceilings: Ceilings) -> Floor | None:
    """The floor of passes that run one after the other; ``None`` where a ceiling is unknown."""
    total, longest, bound = 0.0, -1.0, BOUNDS[0]
    for cost in passes:
        amounts = zip(
            BOUNDS,
            (cost.bytes, cost.flops, cost.exponentials),
            (ceilings.copy_bytes_per_s, ceilings.matmul_flops_per_s, ceilings.exponentials_per_s),
            strict=True,
        )
        seconds: dict[Bound, float] = {}
        for name, amount, rate in amounts:
            if rate is None:
                return None
            seconds[name] = amount / rate
        limit = max(BOUNDS, key=lambda name: seconds[name])
        total += seconds[limit]
        if seconds[limit] > longest:
            longest, bound = seconds[limit], limit
    return Floor(total * 1e3, bound)


def measure(device: str, dtype: str) -> Ceilings:
    """Measure the ceilings of a device for tensors of ``dtype``: a second on a GPU, two on a CPU."""
    cuda = torch.device(device).type == "cuda"
    clock = clock_for(device)
    return Ceilings(
        device,
        dtype,
        copy_rate(clock, device, bytes_=2**30 if cuda else 2**27),
        matmul_rate(clock, device, getattr(torch, dtype), side=8192 if cuda else 1024),
        cuda_exponential_rate(clock) if cuda else cpu_exponential_rate(clock),
    )


def best(clock: Clock, call: Callable[[], object], count: int = 10) -> float:
    """The median duration of a call in seconds, after a warm-up."""
    clock.burst(call, 3)
    return median(clock.burst(call, count).device_ms) / 1e3


def copy_rate(clock: Clock, device: str, bytes_: int) -> float:
    """Bytes per second of a large copy, read and written bytes both counted."""
    source = torch.zeros(bytes_, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * bytes_ / best(clock, lambda: target.copy_(source))


def matmul_rate(clock: Clock, device: str, dtype: torch.dtype, side: int) -> float:
    """FLOPs per second of a large matrix product of random numbers (zeros draw less power and clock higher)."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / best(clock, lambda: left @ right)


def cpu_exponential_rate(clock: Clock) -> float:
    """Exponentials per second on all cores, on float32 numbers that stay in their caches."""
    numbers = torch.rand(2**16 * torch.get_num_threads())
    result = torch.empty_like(numbers)
    return numbers.numel() / best(clock, lambda: torch.exp(numbers, out=result), count=50)


def cuda_exponential_rate(clock: Clock) -> float | None:
    """Exponentials per second of the special function units; ``None`` without Triton."""
    try:
        from halobench.machine.exponentials import ROUNDS, repeat_exp2  # noqa: PLC0415 - Triton is not on every platform
    except ImportError:
        return None
    numbers = torch.rand(2**24, device="cuda")
    return numbers.numel() * ROUNDS / best(clock, lambda: repeat_exp2(numbers))

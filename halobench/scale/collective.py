"""What an all-reduce takes by itself, and how ranks agree on times and totals.

The bus bandwidth is that of nccl-tests: bytes over time, times 2 (n - 1) / n, the traffic of each link in a ring.
Source: https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

import torch
from torch import distributed
from torch.distributed import ProcessGroup, ReduceOp

CALLS = 10
SIZES = {"cuda": (2**20, 2**24, 2**26, 2**28), "cpu": (2**16, 2**20, 2**22)}  # bytes of which the best rate counts


def times_ms(call: Callable[[], object], count: int, device: torch.device) -> list[float]:
    """The time of each of ``count`` calls in a row; on a GPU, between events on its stream."""
    if device.type != "cuda":
        found = []
        for _ in range(count):
            started = time.perf_counter()
            call()
            found.append((time.perf_counter() - started) * 1e3)
        return found
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize(device)
    return [one.elapsed_time(other) for one, other in pairwise(events)]


def slowest_ms(call: Callable[[], object], count: int, device: torch.device, group: ProcessGroup | None) -> list[float]:
    """The same, of each call the time of the slowest rank; all ranks begin together."""
    if group is None:
        return times_ms(call, count, device)
    together(group, device)
    found = torch.tensor(times_ms(call, count, device), dtype=torch.float64, device=device)
    distributed.all_reduce(found, ReduceOp.MAX, group)
    return [float(ms) for ms in found.tolist()]


def together(group: ProcessGroup, device: torch.device) -> None:
    """Wait until all ranks of the group are here."""
    distributed.all_reduce(torch.zeros(1, device=device), group=group)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def total(number: float | None, device: torch.device, group: ProcessGroup | None) -> float | None:
    """The sum over all ranks, ``None`` where one of them does not know."""
    if group is None:
        return number
    known = torch.tensor([float("nan") if number is None else number], dtype=torch.float64, device=device)
    distributed.all_reduce(known, group=group)
    return None if bool(known.isnan()) else float(known)


def reduce_ms(sizes: Sequence[int], device: torch.device, group: ProcessGroup) -> float:
    """The time of all-reducing buffers of these bytes, one after the other with none between, in ms."""
    buffers = [torch.zeros(size // 4, device=device) for size in sizes]

    def reduced() -> None:
        for work in [distributed.all_reduce(buffer, group=group, async_op=True) for buffer in buffers]:
            work.wait()

    slowest_ms(reduced, 2, device, group)
    return median(slowest_ms(reduced, CALLS, device, group))


def bus_bytes_per_s(size: int, ms: float, ranks: int) -> float:
    """The bus bandwidth of an all-reduce of ``size`` bytes over so many ranks."""
    return size / (ms / 1e3) * 2 * (ranks - 1) / ranks


def ceiling(device: torch.device, group: ProcessGroup) -> float:
    """The best bus bandwidth that an all-reduce of any of ``SIZES`` reaches, in bytes/s."""
    ranks = group.size()
    return max(bus_bytes_per_s(size, reduce_ms([size], device, group), ranks) for size in SIZES[device.type])

"""What an all-reduce takes by itself, and how ranks agree on times and totals.

The bus bandwidth is that of nccl-tests: bytes over time, times 2 (n - 1) / n, the traffic of each link in a ring.
Source: https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import distributed
from torch.distributed import P2POp, ProcessGroup, ReduceOp, get_global_rank

from halobench.distributed.messages import Message

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


def largest(number: float | None, device: torch.device, group: ProcessGroup | None) -> float | None:
    """The largest of all ranks' numbers, ``None`` where one of them does not know."""
    return together_as(ReduceOp.MAX, number, device, group)


def total(number: float | None, device: torch.device, group: ProcessGroup | None) -> float | None:
    """The sum over all ranks, ``None`` where one of them does not know."""
    return together_as(ReduceOp.SUM, number, device, group)


def together_as(how: Any, number: float | None, device: torch.device, group: ProcessGroup | None) -> float | None:
    """The numbers of all ranks reduced to one."""
    if group is None:
        return number
    known = torch.tensor([float("nan") if number is None else number], dtype=torch.float64, device=device)
    unknown = known.isnan().to(torch.float64)
    distributed.all_reduce(unknown, group=group)
    distributed.all_reduce(known, how, group)
    return None if bool(unknown) else float(known)


def alone_ms(call: Callable[[], object], device: torch.device, group: ProcessGroup) -> float:
    """The median time of communication with nothing between."""
    slowest_ms(call, 2, device, group)
    return median(slowest_ms(call, CALLS, device, group))


def reduction(sizes: Sequence[int], device: torch.device, group: ProcessGroup) -> Callable[[], None]:
    """What all-reduces buffers of these bytes, one after the other."""
    buffers = [torch.zeros(size // 4, device=device) for size in sizes]

    def reduced() -> None:
        for work in [distributed.all_reduce(buffer, group=group, async_op=True) for buffer in buffers]:
            work.wait()

    return reduced


def sending(messages: Sequence[Message], device: torch.device, group: ProcessGroup) -> Callable[[], None]:
    """What sends these messages, one after the other."""
    sums = {one.summed: torch.zeros(one.summed, dtype=torch.uint8, device=device) for one in messages if one.summed}
    posts = [
        [
            P2POp(way, torch.zeros(size, dtype=torch.uint8, device=device), get_global_rank(group, rank), group)
            for way, mail in ((distributed.isend, message.sent), (distributed.irecv, message.received))
            for rank, size in mail
        ]
        for message in messages
    ]

    def sent() -> None:
        for message, operations in zip(messages, posts, strict=True):
            if message.summed:
                distributed.all_reduce(sums[message.summed], group=group)
            if operations:
                for work in distributed.batch_isend_irecv(operations):
                    work.wait()

    return sent


def sent_bytes(messages: Sequence[Message]) -> int:
    """What a rank sends in these messages; of a sum, its size."""
    return sum(message.summed + sum(size for _, size in message.sent) for message in messages)


def bus_bytes(messages: Sequence[Message], ranks: int) -> float:
    """What of it a link carries, as nccl-tests count it: halos as they are, sums times 2 (n - 1) / n."""
    return sum(message.summed * 2 * (ranks - 1) / ranks + sum(size for _, size in message.sent) for message in messages)


def link(device: torch.device, group: ProcessGroup) -> float:
    """The best rate at which each rank sends to the next and receives from the one before, in bytes/s each way."""
    rank, ranks = group.rank(), group.size()
    rates = []
    for size in SIZES[device.type]:
        ring = Message((((rank + 1) % ranks, size),), (((rank - 1) % ranks, size),))
        rates.append(size / alone_ms(sending([ring], device, group), device, group) * 1e3)
    return max(rates)


def bus_bytes_per_s(size: int, ms: float, ranks: int) -> float:
    """The bus bandwidth of an all-reduce of ``size`` bytes over so many ranks."""
    return size / (ms / 1e3) * 2 * (ranks - 1) / ranks


def ceiling(device: torch.device, group: ProcessGroup) -> float:
    """The best bus bandwidth that an all-reduce of any of ``SIZES`` reaches, in bytes/s."""
    ranks = group.size()
    return max(
        bus_bytes_per_s(size, alone_ms(reduction([size], device, group), device, group), ranks)
        for size in SIZES[device.type]
    )

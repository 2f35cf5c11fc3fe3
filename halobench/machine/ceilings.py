"""This machine's ceilings: for each kind of work the best rate of several routes and sizes, in a few seconds.

No single call shows what a machine can do: a processor may convolve twice as fast as its library multiplies matrices,
and a size that suits one cache does not suit another. The best sample counts, not the median: a ceiling is what was
reached, and whoever else runs meanwhile can only lower it.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from halobench.machine.clock import Clock, clock_for
from halobench.records import floors
from halobench.records.roofline import BOUNDS, Bound, Ceilings

OF_THE_JOB = "HALOBENCH_CEILINGS"
BUDGET_S = 0.05  # for the samples of one size
SHORT_S = 0.02
LONG_S = 0.1  # a route of which one call takes this long is no way to the ceiling, and larger sizes are not tried


@dataclass(frozen=True)
class Size:
    """A call of a route at one size: its name, and how many bytes, FLOPs or exponentials it does."""

    name: str
    amount: float
    call: Callable[[], object]


Route = Iterator[Size]  # one way to do the work, at growing sizes


def of_the_job(device: str, dtype: str) -> Ceilings | None:
    """The ceilings that an earlier run of the same job left in the results file named by ``HALOBENCH_CEILINGS``.

    Raises:
        RuntimeError: the file cannot be read, or has none of this device and dtype.
    """
    file = os.environ.get(OF_THE_JOB)
    if not file:
        return None
    try:
        found = floors.parsed(json.loads(Path(file).read_bytes())["halobench"]["ceilings"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RuntimeError(f"{OF_THE_JOB}: {file!r} is no results file: {type(error).__name__}: {error}") from None
    if found is None or (found.device, found.dtype) != (device, dtype):
        raise RuntimeError(f"{OF_THE_JOB}: {file!r} has no ceilings of {device} in {dtype}")
    return replace(found, taken_over=True)


def measure(device: str, dtype: str) -> Ceilings:
    """Measure the ceilings of a device for tensors of ``dtype``, with this process's threads."""
    clock, number = clock_for(device), getattr(torch, dtype)
    cuda = torch.device(device).type == "cuda"
    routes: dict[Bound, list[Route]] = {
        "bytes": [copies(device, cuda=cuda), scalings(device, cuda=cuda)],
        "flops": [products(device, number, cuda=cuda), *convolutions(device, number, cuda=cuda)],
        "exponentials": [cuda_exponentials()] if cuda else [cpu_exponentials(torch.exp), cpu_exponentials(torch.exp2)],
    }
    # float32 means float32, also where convolutions would use TF32.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        best = {bound: fastest(clock, routes[bound]) for bound in BOUNDS}
    found = {bound: one for bound, one in best.items() if one is not None}
    copy, matmul, exponentials = (found[bound][0] if bound in found else None for bound in BOUNDS)
    won: dict[str, str] = {bound: route for bound, (_, route) in found.items()}
    return Ceilings(device, dtype, copy, matmul, exponentials, won)


def fastest(clock: Clock, routes: Iterable[Route]) -> tuple[float, str] | None:
    """The highest rate per second of all routes and sizes, and the name of its size; ``None`` where none works."""
    best: tuple[float, str] | None = None
    for route in routes:
        for size in route:
            try:
                seconds = least_s(clock, size.call)
            except (RuntimeError, NotImplementedError):  # this build, or this processor, has no such route
                break
            if best is None or size.amount / seconds > best[0]:
                best = size.amount / seconds, size.name
            if seconds > LONG_S:
                break
    return best


def least_s(clock: Clock, call: Callable[[], object]) -> float:
    """The shortest duration of a call in seconds, after a warm-up, of as many samples as the budget allows.

    A short call gets its samples whatever they take: on a busy machine most of them are long.
    """
    first = min(clock.burst(call, 1).device_ms) / 1e3
    if first > 10 * LONG_S:
        return first
    second = min(clock.burst(call, 2).device_ms) / 1e3
    if second > LONG_S:
        return min(first, second)
    fewest = 20 if second < SHORT_S else 3
    count = int(min(max(BUDGET_S / max(second, 1e-6), fewest), 100))
    return min(second, *(ms / 1e3 for ms in clock.burst(call, count).device_ms))


def buffers(device: str, *, cuda: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of float32 vectors.

    On a GPU far larger than its L2 cache, which is cold in a measurement; a processor's caches are as the call before
    left them, so sizes that fit into them count there.
    """
    for exponent in (30,) if cuda else (20, 22, 24, 27):
        source = torch.zeros(2**exponent // 4, device=device)
        yield source, torch.ones_like(source)


def copies(device: str, *, cuda: bool) -> Route:
    """A copy; read and written bytes both count."""
    for source, target in buffers(device, cuda=cuda):
        name = f"copy of {source.nbytes / 2**20:.0f} MiB"
        yield Size(name, 2 * source.nbytes, partial(target.copy_, source))


def scalings(device: str, *, cuda: bool) -> Route:
    """A vector times a number: the traffic of a copy, by another loop."""
    for source, target in buffers(device, cuda=cuda):
        name = f"scaling of {source.nbytes / 2**20:.0f} MiB"
        yield Size(name, 2 * source.nbytes, partial(torch.mul, source, 2.0, out=target))


def products(device: str, dtype: torch.dtype, *, cuda: bool) -> Route:
    """A product of square matrices. Random numbers: zeros draw less power and clock higher."""
    for side in (4096, 8192) if cuda else (256, 512, 1024, 2048):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        yield Size(f"product of {side} x {side}", 2 * side**3, partial(torch.matmul, left, right))


def convolutions(device: str, dtype: torch.dtype, *, cuda: bool) -> Iterator[Route]:
    """Convolutions of 1x1, which are matrix products through the library for convolutions, and of 3x3; no padding."""
    sizes = ((64, 256, 56), (32, 1024, 32)) if cuda else ((1, 256, 34), (4, 128, 34), (1, 1024, 34), (4, 256, 34))
    for kernel in (1, 3):
        yield convolution(device, dtype, kernel, sizes)


def convolution(device: str, dtype: torch.dtype, kernel: int, sizes: tuple[tuple[int, int, int], ...]) -> Route:
    """Convolutions of (batch, channels, side) in channels-last order, as many channels out as in."""
    for batch, channels, side in sizes:
        pixels, weights = (
            torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
            for shape in ((batch, channels, side, side), (channels, channels, kernel, kernel))
        )
        amount = 2 * batch * channels**2 * kernel**2 * (side - kernel + 1) ** 2
        name = f"{kernel}x{kernel} convolution of {batch} x {channels} x {side} x {side}"
        yield Size(name, amount, partial(F.conv2d, pixels, weights))


def cpu_exponentials(function: Callable[..., Tensor]) -> Route:
    """Exponentials of float32 numbers that stay in the caches of the cores."""
    for exponent in (12, 14, 16):
        numbers = torch.rand(2**exponent * torch.get_num_threads())
        result = torch.empty_like(numbers)
        name = f"{function.__name__} of {numbers.numel()}"
        yield Size(name, numbers.numel(), partial(function, numbers, out=result))


def cuda_exponentials() -> Route:
    """Dependent exponentials on the special function units; none without Triton."""
    try:
        from halobench.machine.exponentials import ROUNDS, repeat_exp2  # noqa: PLC0415 - Triton is not on every platform
    except ImportError:
        return
    numbers = torch.rand(2**24, device="cuda")
    yield Size(f"{ROUNDS} exp2 each of {numbers.numel()}", numbers.numel() * ROUNDS, partial(repeat_exp2, numbers))

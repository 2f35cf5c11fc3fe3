"""Energy of a call from NVML's total-energy counter, where the call is long enough to resolve it."""

import math
import time
from collections.abc import Callable

import torch

from halobench.machine.nvml import Gpu

SHORTEST_CALL_MS = 1.0
WINDOW_S = 0.4  # the counter moves every 10 to 100 ms; a window of several hundred ms resolves it to a few percent


def joules_per_call(call: Callable[[], object], latency_ms: float, device: str) -> float | None:
    """Joules that the GPU used per call over a window of repeated calls.

    ``None`` on a CPU, where NVML has no counter, and for calls under 1 ms, whose launches may leave the GPU idle.
    """
    if torch.device(device).type != "cuda" or latency_ms < SHORTEST_CALL_MS:
        return None
    gpu = Gpu(torch.cuda.current_device())
    for _ in range(math.ceil(WINDOW_S / 2 * 1e3 / latency_ms)):  # settle: clock and power of steady work
        call()
    torch.cuda.synchronize()
    return between_ticks(call, gpu)


def between_ticks(call: Callable[[], object], gpu: Gpu) -> float | None:
    """Joules per call between two moves of the counter, at least a window apart."""
    first: float | None = None
    started, count = time.monotonic(), 0
    value = gpu.joules
    while value is not None and time.monotonic() - started < 4 * WINDOW_S:
        call()
        torch.cuda.synchronize()
        count += 1
        previous, value = value, gpu.joules
        if value is None or value == previous:
            continue
        if first is None:  # the counter has just moved: the window begins
            first, started, count = value, time.monotonic(), 0
        elif time.monotonic() - started >= WINDOW_S:
            return (value - first) / count
    return None

"""Device time and host time of a call, on CUDA and on the CPU, behind one interface."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch

from halobench.machine.nvml import Gpu

Call = Callable[[], object]


@dataclass
class Burst:
    """Samples taken in a row. Times in ms; ``host_ms`` is how long the call kept the host, launches included.

    ``exposed`` counts samples in which the device may have waited for the host. Samples were taken in one or more
    ``places`` of memory, as many in each, one place after the other.
    """

    device_ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)
    sm_mhz: list[int] = field(default_factory=list)
    throttles: set[str] = field(default_factory=set)
    exposed: int = 0
    places: int = 1

    def extend(self, other: "Burst") -> None:
        """Add another burst's samples and readings."""
        self.device_ms += other.device_ms
        self.host_ms += other.host_ms
        self.exposed += other.exposed
        self.sm_mhz += other.sm_mhz
        self.throttles |= other.throttles


class Clock(Protocol):
    """Takes samples of a call's duration."""

    def burst(self, call: Call, count: int) -> Burst:
        """``count`` samples in a row."""

    def stretch(self, call: Call, count: int) -> Burst:
        """One sample: the duration of ``count`` calls without a pause, divided by ``count``."""

    def synchronize(self) -> None:
        """Wait until the device is idle."""


class CpuClock:
    """Wall time of the call. Caches are as the previous call left them."""

    def burst(self, call: Call, count: int) -> Burst:
        """``count`` samples in a row; host and device time are the same."""
        burst = Burst()
        with no_collection():
            for _ in range(count):
                start = time.perf_counter_ns()
                call()
                burst.device_ms.append((time.perf_counter_ns() - start) / 1e6)
        burst.host_ms = list(burst.device_ms)
        return burst

    def stretch(self, call: Call, count: int) -> Burst:
        """One sample of ``count`` calls in a row."""
        mean_ms = sum(self.burst(call, count).device_ms) / count
        return Burst([mean_ms], [mean_ms])

    def synchronize(self) -> None:
        """Nothing to wait for."""


class CudaClock:
    """CUDA events around the call, its launches hidden and the L2 cache cold (or ``hot``).

    Before each sample the stream reads a buffer of twice the L2 cache's size. Reading evicts what earlier calls left
    without leaving dirty lines whose write-back the call would pay for. The read is repeated until it lasts longer
    than the host needs to launch the call, so that the device never waits for the host inside a sample. Where the
    device came to the call before the host had launched all of it, the sample is taken again after twice the reading.
    """

    COVER_LIMIT_MS = 20.0

    def __init__(self, *, hot: bool = False) -> None:
        self.hot = hot
        self.gpu = Gpu(torch.cuda.current_device())
        cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._buffer = torch.zeros(2 * cache // 4, dtype=torch.int32, device="cuda")
        self._sum = torch.zeros((), dtype=torch.int64, device="cuda")
        self._read()
        self._read_ms = min(self._events(self._read, 5))

    def burst(self, call: Call, count: int) -> Burst:
        """``count`` samples in a row, one synchronization at their end."""
        burst = Burst()
        cover_ms = min(1.5 * self._launch_ms(call), self.COVER_LIMIT_MS)
        pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        with no_collection():
            while len(pairs) < count:
                pair, host_ms, exposed = self._sample(call, cover_ms)
                if exposed and cover_ms < self.COVER_LIMIT_MS:
                    cover_ms = min(2 * cover_ms, self.COVER_LIMIT_MS)
                    continue
                pairs.append(pair)
                burst.host_ms.append(host_ms)
                burst.exposed += exposed
        clock, throttles = self.gpu.sm_mhz, self.gpu.throttles  # the device is still at work on the burst
        torch.cuda.synchronize()
        burst.device_ms = [start.elapsed_time(end) for start, end in pairs]
        burst.sm_mhz = [] if clock is None else [clock]
        burst.throttles = set(throttles or ())
        return burst

    def stretch(self, call: Call, count: int) -> Burst:
        """One sample of ``count`` calls in a row, from an idle device to an idle device.

        Caches are as the previous call leaves them, and where the host cannot keep up, the device waits: so long a
        network's step takes whoever trains it.
        """
        with no_collection():
            torch.cuda.synchronize()
            begin = time.perf_counter_ns()
            for _ in range(count):
                call()
            host_ns = time.perf_counter_ns() - begin
            clock, throttles = self.gpu.sm_mhz, self.gpu.throttles  # the device is still at work
            torch.cuda.synchronize()
            device_ns = time.perf_counter_ns() - begin
        sm_mhz = [] if clock is None else [clock]
        return Burst([device_ns / count / 1e6], [host_ns / count / 1e6], sm_mhz, set(throttles or ()))

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        torch.cuda.synchronize()

    def _sample(self, call: Call, cover_ms: float) -> tuple[tuple[torch.cuda.Event, torch.cuda.Event], float, bool]:
        """The events around one call, the host's time for it, and whether the device came to it too early."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for _ in range(1 + int(cover_ms / self._read_ms)):
            self._read()
        if self.hot:
            call()
        start.record()
        begin = time.perf_counter_ns()
        call()
        host_ms = (time.perf_counter_ns() - begin) / 1e6
        end.record()
        return (start, end), host_ms, start.query()

    @staticmethod
    def _launch_ms(call: Call) -> float:
        """How long the host needs to launch the call on an idle device."""
        torch.cuda.synchronize()
        begin = time.perf_counter_ns()
        call()
        host_ms = (time.perf_counter_ns() - begin) / 1e6
        torch.cuda.synchronize()
        return host_ms

    def _read(self) -> None:
        torch.sum(self._buffer, dim=0, out=self._sum)

    @staticmethod
    def _events(call: Call, count: int) -> list[float]:
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for start, end in pairs:
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector from running inside a sample."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def clock_for(device: str, *, hot: bool = False) -> Clock:
    """The clock of a device."""
    return CudaClock(hot=hot) if torch.device(device).type == "cuda" else CpuClock()

"""Slowdowns that are really there: a delay inside the measured call, on the device that does the work."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from halobench.machine.clock import Call, Clock
from halobench.measure import graphs

SPIN_CYCLES = 200_000


@dataclass(frozen=True)
class Delay:
    """How to delay on a device: ``amount(ms)`` is cycles of a spinning kernel on a GPU, milliseconds on a CPU.

    A kernel that does nothing takes ``least_ms`` already, so that no shorter delay can be had.
    """

    least_ms: float
    per_ms: float

    def amount(self, ms: float) -> float | None:
        """What makes a call longer by ``ms``, or ``None`` where it cannot be had so short."""
        return (ms - self.least_ms) * self.per_ms if ms >= self.least_ms else None


def delay_of(device: str, clock: Clock) -> Delay:
    """Measure how to delay on a device, inside a call as short ones are measured there: replayed on a GPU."""
    if torch.device(device).type != "cuda":
        return Delay(0.0, 1.0)
    number = torch.zeros(1, device=device)

    def lasting(amount: float | None) -> float:
        replay = graphs.warmed(delayed(lambda: number.add_(1), amount, device), "a delay")
        clock.burst(replay, 10)
        return median(clock.burst(replay, 100).device_ms)

    bare, least, long = lasting(None), lasting(1), lasting(SPIN_CYCLES)
    return Delay(least - bare, (SPIN_CYCLES - 1) / (long - least))


def delayed(call: Call, amount: float | None, device: str) -> Callable[[], object]:
    """The call with a delay after it; ``None`` leaves it as it is."""
    if amount is None:
        return call
    wait: Callable[[], None]
    if torch.device(device).type == "cuda":
        cycles = max(1, round(amount))

        def wait() -> None:
            torch.cuda._sleep(cycles)  # noqa: SLF001 - PyTorch's own spinning kernel has no public name
    else:

        def wait() -> None:
            end = time.perf_counter_ns() + amount * 1e6
            while time.perf_counter_ns() < end:
                pass

    def both() -> object:
        result = call()
        wait()
        return result

    return both

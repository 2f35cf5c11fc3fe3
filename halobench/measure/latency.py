"""Sampling a call until its median is known: when to stop, and what to do about a throttled GPU."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from halobench.machine.clock import Burst, Call, Clock
from halobench.measure.statistics import quick_noise

LEAST = 5  # samples of a call so long that more would take longer than it may
LONG_MS = 2.0  # a call this long works on so much memory that its places average out, and moving that much takes long


@dataclass(frozen=True)
class Effort:
    """How long a call is sampled, in all; a short call in how many places of memory.

    The noise target is the relative half-width of the median's 95 % interval. The fewest samples are those of a place.
    """

    min_samples: int = 10
    min_s: float = 0.03
    max_s: float = 0.25
    noise: float = 0.002
    pause_s: float = 1.0
    least: int = LEAST
    places: int = 1

    @property
    def share(self) -> "Effort":
        """What falls to one of the places."""
        return replace(
            self,
            min_s=self.min_s / self.places,
            max_s=self.max_s / self.places,
            noise=self.noise * math.sqrt(self.places),
            places=1,
        )


def effort_for(device: str) -> Effort:
    """The effort that suits a device: short calls on a GPU depend on where tensors lie, a CPU is noisier."""
    return Effort(least=10, places=8) if torch.device(device).type == "cuda" else Effort(max_s=0.45)


def described(effort: Effort) -> dict[str, float]:
    """How short calls are sampled, for a results file: times taken otherwise do not compare. Empty for one place."""
    return {"places": effort.places, "replayed_to_ms": LONG_MS} if effort.places > 1 else {}


def sample(call: Call, clock: Clock, effort: Effort, move: Callable[[], Call]) -> Burst:
    """Samples of the call's duration, repeated once after a pause if the GPU throttled meanwhile.

    Where the effort asks for several places, ``move`` takes a short call to the next and returns what is to be sampled
    there; the host's times are those of the call itself. All samples of an attempt are kept. A second attempt that
    throttles too is kept as it is, with the reasons in it.
    """
    samples = attempt(call, clock, effort, move)
    if samples.throttles:
        time.sleep(effort.pause_s)
        samples = attempt(call, clock, effort, move)
    return samples


def attempt(call: Call, clock: Clock, effort: Effort, move: Callable[[], Call]) -> Burst:
    """Samples of all places, one after the other; the first decides how many each gets."""
    if effort.places == 1 or clock.burst(call, 1).device_ms[0] > LONG_MS:
        return settle(call, clock, effort)
    host_ms = clock.burst(call, LEAST).host_ms
    samples = settle(move(), clock, effort.share)
    count = len(samples.device_ms)
    for _ in range(effort.places - 1):
        samples.extend(visit(move(), clock, count))
    samples.places, samples.host_ms = effort.places, host_ms
    return samples


def visit(call: Call, clock: Clock, count: int) -> Burst:
    """So many samples in a new place. The first one there is not kept."""
    clock.burst(call, 1)
    return clock.burst(call, count)


def settle(call: Call, clock: Clock, effort: Effort) -> Burst:
    """Bursts until the noise is below the target, or the time is up."""
    started = time.monotonic()
    clock.burst(call, 1)  # not kept: the caches of the allocator and of the host are not yet what they will be
    sample_s = time.monotonic() - started  # its preparation included
    samples, started = Burst(), time.monotonic()
    while True:
        elapsed = time.monotonic() - started
        count = len(samples.device_ms)
        enough = count >= effort.min_samples and elapsed >= effort.min_s
        if enough and quick_noise(samples.device_ms) <= effort.noise:
            return samples
        room = int((effort.max_s - elapsed) / sample_s)
        if room < 1 and count >= effort.least:
            return samples
        # A burst is at most a quarter of the time, so that the stopping rule gets to speak.
        wanted = max(effort.least, min(room, int(effort.max_s / 4 / sample_s), 100))
        samples.extend(clock.burst(call, wanted))

"""Sampling a call until its median is known: when to stop, and what to do about a throttled GPU."""

import time
from dataclasses import dataclass

import torch

from halobench.measure.clock import Burst, Call, Clock
from halobench.measure.statistics import quick_noise

LEAST = 5  # samples of a call so long that more would take longer than it may


@dataclass(frozen=True)
class Effort:
    """How long a call is sampled. The noise target is the relative half-width of the median's 95 % interval."""

    min_samples: int = 10
    min_s: float = 0.03
    max_s: float = 0.25
    noise: float = 0.002
    pause_s: float = 1.0


def effort_for(device: str) -> Effort:
    """The effort that suits a device: a CPU is noisier."""
    return Effort() if torch.device(device).type == "cuda" else Effort(max_s=0.45)


def sample(call: Call, clock: Clock, effort: Effort) -> Burst:
    """Samples of the call's duration, repeated once after a pause if the GPU throttled meanwhile.

    All samples of an attempt are kept. A second attempt that throttles too is kept as it is, with the reasons in it.
    """
    samples = attempt(call, clock, effort)
    if samples.throttles:
        time.sleep(effort.pause_s)
        samples = attempt(call, clock, effort)
    return samples


def attempt(call: Call, clock: Clock, effort: Effort) -> Burst:
    """Bursts until the noise is below the target, or the time is up."""
    started = time.monotonic()
    samples = clock.burst(call, 1)  # how long a sample takes, its preparation included
    sample_s = time.monotonic() - started
    samples = Burst()  # the first one is not representative: caches of the allocator and of the host
    started = time.monotonic()
    while True:
        elapsed = time.monotonic() - started
        count = len(samples.device_ms)
        enough = count >= effort.min_samples and elapsed >= effort.min_s
        if enough and quick_noise(samples.device_ms) <= effort.noise:
            return samples
        room = int((effort.max_s - elapsed) / sample_s)
        if room < 1 and count >= LEAST:
            return samples
        # A burst is at most a quarter of the time, so that the stopping rule gets to speak.
        wanted = max(LEAST, min(room, int(effort.max_s / 4 / sample_s), 100))
        samples.extend(clock.burst(call, wanted))

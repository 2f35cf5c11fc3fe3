"""Sampling the steps of networks: stretches of steps without a pause, those of rivals in turn."""

import math
import time
from collections.abc import Sequence

from halobench.machine.clock import Burst, Call, Clock
from halobench.measure.latency import LEAST, Effort
from halobench.measure.statistics import quick_noise


def alternate(calls: Sequence[Call], clock: Clock, effort: Effort, *, single: bool = False) -> list[Burst]:
    """Samples of each call, taken in turn: A B, B A, A B, ..., so that the n-th samples are pairs.

    A sample is the mean over a stretch of at least a fifth of the time that the effort allows, or over one call where
    ``single`` asks for it. At least five rounds; more until the noise of every call is below the target
    or twice the effort's time is up.
    """
    counts = [1 if single else steps_in(effort.max_s / 5, call, clock) for call in calls]
    bursts = [Burst() for _ in calls]
    started, number = time.monotonic(), 0
    while True:
        turn = list(range(len(calls)))
        for index in turn if number % 2 == 0 else reversed(turn):
            bursts[index].extend(clock.stretch(calls[index], counts[index]))
        number += 1
        elapsed = time.monotonic() - started
        if number < LEAST or elapsed < effort.min_s:
            continue
        quiet = number >= effort.min_samples and all(quick_noise(burst.device_ms) <= effort.noise for burst in bursts)
        if quiet or elapsed + elapsed / number > 2 * effort.max_s * len(calls):
            return bursts


def steps_in(seconds: float, call: Call, clock: Clock) -> int:
    """How many calls last at least that long."""
    return math.ceil(seconds * 1e3 / clock.stretch(call, 1).device_ms[0])

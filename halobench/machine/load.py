"""Who else was at work while something was measured: other processes, the host's other guests, a quota, a shared GPU.

What counts is how much of the processors that a measurement wants was not to be had. Programs on cores that it does not
want do not disturb it, as far as can be seen here: that they share caches and memory with it, nobody counts.
"""

import os
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Self

import torch

from halobench.machine.cgroup import Cgroup, lines, text
from halobench.machine.nvml import Gpu
from halobench.wording import counted

DISTURBED = 0.05
"""The share of the wanted processors, or of a GPU, that others must have had for a time to count as disturbed.

Two processes on a quiet machine differ by up to 5 % anyway (``between_runs_percent`` of ``halobench.compare``): what
others cost beyond that would be taken for a change of the code.
"""
SHORTEST_S = 0.1  # the kernel counts in ticks of 10 ms: in less time nobody can say who was at work
TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
SAMPLED = 8  # processors of which the frequency is read
CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Load:
    """What a watch saw; cores are processor seconds a second. ``None`` where the system does not say.

    ``average`` is the load average of the last minute, which the measurement is a part of; ``cores`` are the
    processors that this process may use; ``others_cores`` is what other processes used of them, ``stolen_cores`` what
    the host gave to other guests, ``throttled_cores`` what a container's quota held back. ``gpu_processes`` counts
    others on the GPU, and ``gpu_share`` is what they used of it. ``by`` says who disturbed the measurement, in words.
    """

    average: float | None
    cores: float
    others_cores: float | None
    stolen_cores: float | None
    throttled_cores: float | None
    cpu_mhz: float | None
    gpu_processes: int | None
    gpu_share: float | None
    disturbed: bool | None
    by: str | None

    @property
    def said(self) -> str:
        """The load in a line."""
        average = "unknown load" if self.average is None else f"load {self.average:.1f}"
        return f"{average} on {counted(self.cores, 'core')}" + (f": {self.by}" if self.by else "")


@dataclass(frozen=True)
class Moment:
    """Seconds that were counted up to a moment: by the clock, and of all wanted processors together."""

    clock: float
    own: float
    busy: float | None
    stolen: float | None
    throttled: float | None


class Watch:
    """Watches from when it is entered, or made, until it is read. ``device`` is what is measured meanwhile."""

    def __init__(self, device: str) -> None:
        cuda = torch.device(device).type == "cuda"
        self.gpu = gpu() if cuda else None
        self.wanted = 1 if cuda else torch.get_num_threads()  # a host has one thread that launches
        self.since_us = int(time.time() * 1e6)
        self.start = moment()

    def __enter__(self) -> Self:
        self.since_us, self.start = int(time.time() * 1e6), moment()
        return self

    def __exit__(self, *_: object) -> None:
        self.load = self.read()

    def read(self) -> Load:
        """What was seen since the watch began."""
        now, cpus = moment(), processors()
        seconds = now.clock - self.start.clock
        ticks = len(cpus) * TICK_S  # each processor's count may be one too high
        own = now.own - self.start.own
        busy = rate(self.start.busy, now.busy, seconds, own + ticks)
        stolen = rate(self.start.stolen, now.stolen, seconds)
        throttled = rate(self.start.throttled, now.throttled, seconds)
        count, share = self.on_the_gpu()
        return judged(
            Load(average(), Cgroup().processors(), busy, stolen, throttled, megahertz(cpus), count, share, None, None),
            self.wanted,
            cores_of(cpus),
        )

    def on_the_gpu(self) -> tuple[int | None, float | None]:
        """How many other processes hold the GPU, and the largest share of it that they used."""
        if self.gpu is None or self.gpu.processes is None:
            return None, None
        found = self.gpu.processes
        if os.getpid() not in found:  # a container's process ids are not the host's: one of those is this process
            return max(len(found) - 1, 0), None
        return len(found) - 1, self.gpu.used_by_others(os.getpid(), self.since_us)


def judged(seen: Load, wanted: float, cores: float) -> Load:
    """The load with its verdict: was something that ``wanted`` so many of ``cores`` disturbed, and by whom?"""
    reasons = []
    crowded = max((seen.others_cores or 0) + wanted - cores, 0)
    for lost, words in (
        (crowded, f"others kept {seen.others_cores or 0:.1f} cores busy"),
        (seen.stolen_cores or 0, f"the host took {seen.stolen_cores or 0:.1f} cores for other guests"),
        (seen.throttled_cores or 0, f"a quota held back {seen.throttled_cores or 0:.1f} cores"),
    ):
        if lost > DISTURBED * wanted:
            reasons.append(words)
    if seen.gpu_processes and (seen.gpu_share is None or seen.gpu_share > DISTURBED):
        used = "how much is unknown" if seen.gpu_share is None else f"{seen.gpu_share:.0%} of its time"
        reasons.append(f"{seen.gpu_processes} other processes used the GPU, {used}")
    undisturbed = None if seen.others_cores is None else False
    return replace(seen, disturbed=True if reasons else undisturbed, by="; ".join(reasons) or None)


def watch(device: str, seconds: float) -> Load:
    """The load over so many seconds in which this process does nothing."""
    begun = Watch(device)
    time.sleep(seconds)
    return begun.read()


def rate(before: float | None, after: float | None, seconds: float, less: float = 0.0) -> float | None:
    """By how much a count grew a second, beyond ``less``; ``None`` where it is unknown or the time was too short."""
    if before is None or after is None or seconds < SHORTEST_S:
        return None
    return max(after - before - less, 0.0) / seconds


def moment() -> Moment:
    """The counts of now."""
    names = {f"cpu{number}" for number in processors()}
    fields = [line.split() for line in lines(Path("/proc/stat"))]
    counts = [[int(count) for count in words[1:]] for words in fields if words and words[0] in names]
    busy = stolen = None
    if counts:
        # user, nice, system, idle, iowait, irq, softirq, steal
        busy = TICK_S * sum(sum(one[:3]) + sum(one[5:7]) for one in counts)
        stolen = TICK_S * sum(one[7] for one in counts)
    return Moment(time.monotonic(), time.process_time(), busy, stolen, Cgroup().throttled_s())


def processors() -> list[int]:
    """The numbers of the processors that this process may be put on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def cores_of(cpus: list[int]) -> float:
    """How many cores these processors are: two threads of one core are one."""
    siblings = {text(CPUS / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in cpus}
    return len(siblings) or float(os.cpu_count() or 1)


def megahertz(cpus: list[int]) -> float | None:
    """The mean frequency of the processors now, MHz."""
    names = (CPUS / f"cpu{number}/cpufreq/scaling_cur_freq" for number in cpus[:SAMPLED])
    known = [int(found) / 1e3 for name in names if (found := text(name)).isdigit()]
    if not known:
        said = (line.partition(":") for line in lines(Path("/proc/cpuinfo")) if line.startswith("cpu MHz"))
        known = [float(value) for _, _, value in said]
    return sum(known) / len(known) if known else None


def average() -> float | None:
    """The load average of the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


@cache
def gpu() -> Gpu:
    """The GPU that this process measures on."""
    return Gpu(torch.cuda.current_device())

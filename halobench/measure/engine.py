"""One case, measured: accuracy first, then memory, latency, energy and cost, each in a pass of its own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from halobench.attention import backends
from halobench.attention.problem import Backend
from halobench.cases import accuracy, asked_again, cost, counters
from halobench.cases.case import Case
from halobench.cases.workload import Workload, bind
from halobench.machine.clock import Burst, Call, Clock
from halobench.machine.load import Watch
from halobench.machine.memory import available_bytes
from halobench.measure import energy, latency, memory
from halobench.measure.placement import Placement
from halobench.measure.statistics import summarize

Fields = dict[str, Any]


class Incorrect(Exception):
    """A backend's answer is wrong; the message gives errors and budgets."""


@dataclass(frozen=True)
class Settings:
    """What holds for all cases of a run. ``timed=False`` checks every case and measures none."""

    device: str
    effort: latency.Effort = field(default_factory=latency.Effort)
    hot: bool = False
    timed: bool = True


@dataclass
class Stopwatch:
    """Where the wall time of a case goes: the backend's own calls (warm-up, measured), or the harness around them.

    ``checks`` is the part of the harness that holds answers against the truth.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"warmup": 0.0, "measured": 0.0, "checks": 0.0})
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block towards a phase, and no longer towards one that it is inside of."""
        start, before = time.monotonic(), sum(self.seconds.values())
        try:
            yield
        finally:
            inner = sum(self.seconds.values()) - before
            self.seconds[name] += time.monotonic() - start - inner

    def total(self) -> dict[str, float]:
        """Seconds by phase; what neither the warm-up nor the measured calls claim is the harness's."""
        claimed = self.seconds["warmup"] + self.seconds["measured"]
        return self.seconds | {"harness": time.monotonic() - self.started - claimed}


def measure(case: Case, clock: Clock, settings: Settings) -> Fields:
    """The measured fields of a case's row.

    Raises:
        ModuleNotFoundError: the backend needs a package that is not installed.
        Unsupported: the backend refuses the task.
        Incorrect: an answer is wrong, before or after the call was timed.
        MemoryError: the task cannot fit.
        Uncapturable: a short call could not be captured as a CUDA graph.
    """
    stopwatch = Stopwatch()
    with stopwatch.phase("warmup"):
        backend = backends.load(case.backend)
    needed = cost.memory_bytes(backend, case.task, case.direction)
    refuse_what_cannot_fit(needed, case.device)
    workload = bind(backend, case.task, case.device)
    workload.relocate()
    checked = verify(backend, case, workload, stopwatch)
    call = workload.call(case.direction)
    if not settings.timed:
        ask_again(backend, case, workload, call, checked, stopwatch)
        return {"accuracy": checked, "seconds": stopwatch.total()}
    with stopwatch.phase("warmup"):
        call()
        clock.synchronize()
    with stopwatch.phase("measured"), Watch(case.device) as watch:
        peak = memory.peak_bytes(call, case.device)
        placement = Placement(backend, workload, call)
        samples = latency.sample(call, clock, settings.effort, placement.move)
        middle = median(samples.device_ms)
        joules = energy.joules_per_call(call, middle, case.device) if case.energy else None
    ask_again(backend, case, workload, placement.call, checked, stopwatch)
    return {
        "samples_ms": samples.device_ms,
        # What was taken to several places was captured in each.
        "latency": latency_fields(samples, replayed=samples.places > 1 and backend.capturable),
        "clock": clock_fields(samples),
        "load": asdict(watch.load),
        "memory": {"peak_bytes": peak, "closed_form_bytes": needed},
        "energy_joules": joules,
        "cost": cost_fields(backend, case, workload),
        "floor": {"passes": passes_fields(backend, case)},
        "accuracy": checked,
        "seconds": stopwatch.total(),
    }


def refuse_what_cannot_fit(needed: int | None, device: str) -> None:
    """Raise ``MemoryError`` for a task that cannot fit: a CPU's memory is overcommitted, and its kernel kills."""
    available = available_bytes(device)
    if needed is not None and available is not None and needed > available:
        raise MemoryError(
            f"needs about {needed / 2**30:.1f} GiB above its inputs, {available / 2**30:.1f} GiB are free"
        )


def verify(backend: Backend, case: Case, workload: Workload, stopwatch: Stopwatch) -> Fields:
    """The accuracy check that a case must pass before it is timed. Its call of the backend compiles and warms up."""
    with stopwatch.phase("warmup"):
        answer = accuracy.ask(workload, case.direction)
    with stopwatch.phase("checks"):
        outcome = accuracy.judge(answer, backend, case.task, workload, case.device)
    if outcome.fault is not None:
        raise Incorrect(outcome.fault)
    return {"errors": outcome.errors, "budgets": outcome.budgets}


def ask_again(
    backend: Backend, case: Case, workload: Workload, call: Call, checked: Fields, stopwatch: Stopwatch
) -> None:
    """Raise ``Incorrect`` where the call that was timed answers wrongly to other values."""

    def answer() -> object:
        with stopwatch.phase("measured"):
            return call()

    with stopwatch.phase("checks"):
        fault = asked_again.fault(backend, case.task, case.direction, workload, answer, checked["budgets"])
    if fault is not None:
        raise Incorrect(fault)


def latency_fields(samples: Burst, *, replayed: bool) -> Fields:
    """Median, interval and noise of the device time, the median of the host time, and samples that waited for it."""
    summary = summarize(samples.device_ms, samples.places)
    return {
        "median_ms": summary.median,
        "low_ms": summary.low,
        "high_ms": summary.high,
        "host_ms": median(samples.host_ms),
        "noise": summary.noise,
        "outliers": summary.outliers,
        "exposed": samples.exposed,
        "places": samples.places,
        "replayed": replayed,
    }


def clock_fields(samples: Burst) -> Fields:
    """SM clock and throttling while the samples were taken; ``None`` where nobody can say."""
    return {
        "sm_mhz": median(samples.sm_mhz) if samples.sm_mhz else None,
        "throttled": bool(samples.throttles) if samples.sm_mhz else None,
        "reasons": sorted(samples.throttles),
    }


def cost_fields(backend: Backend, case: Case, workload: Workload) -> Fields:
    """FLOPs, bytes and exponentials: useful and executed in closed form, and what two counters say of the FLOPs.

    Beside them, the backend's own kernels by name.
    """
    useful = cost.least(backend, case.task, case.direction)
    executed = cost.executed(backend, case.task, case.direction)
    fields: Fields = {"fvcore_flops": None, "torch_flops": None}
    fields["kernels"] = cost.kernels(backend, case.task, case.direction)
    if (
        case.counted and not backend.compiles
    ):  # the counters see nothing there, and what they try spoils the compiler's state
        fields["fvcore_flops"] = counters.multiply_adds(backend.name, case.task, case.device)
        fields["torch_flops"] = counters.counted_by_torch(workload, case.direction)
    for name, amounts in (("useful", useful), ("executed", executed)):
        for quantity in ("flops", "bytes", "exponentials"):
            fields[f"{name}_{quantity}"] = None if amounts is None else getattr(amounts, quantity)
    return fields


def passes_fields(backend: Backend, case: Case) -> list[Fields] | None:
    """The useful work of each pass, for the floor: which ceilings it stands under is known when the run has ended."""
    passes = cost.passes(backend, case.task, case.direction)
    return None if passes is None else [asdict(each) for each in passes]

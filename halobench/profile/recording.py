"""Record a call: torch.profiler's trace, the kernels in it, its memory over time, and the plain loop beside it."""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function, schedule, tensorboard_trace_handler

from halobench.profile.work import Operations, Work, countable, total

LOOP_S = 0.3


@dataclass(frozen=True)
class Kernel:
    """A kernel, or on the CPU an operation, per call: time in ms, launches, and its work where it is known."""

    name: str
    ms: float
    launches: float
    work: Work | None


@dataclass(frozen=True)
class Recording:
    """A recorded call. ``loop_ms`` is a call's time in a plain loop without the profiler, launches included.

    ``work`` is what all operations together moved and computed; ``None`` where they could not be counted.
    ``memory`` holds (ms since the start, bytes in use above it) of one call.
    """

    name: str
    device: str
    loop_ms: float
    kernels: list[Kernel]
    work: Work | None
    memory: list[tuple[float, int]]
    traces: tuple[Path, Path]

    @property
    def busy_ms(self) -> float:
        """What the kernels of a call take together."""
        return sum(kernel.ms for kernel in self.kernels)

    @property
    def launches(self) -> float:
        """Kernels, or operations, of a call."""
        return sum(kernel.launches for kernel in self.kernels)

    @property
    def peak_bytes(self) -> int:
        """The most memory that a call used above what was there before it."""
        return max((in_use for _, in_use in self.memory), default=0)


def record(name: str, call: Callable[[], object], device: str, folder: Path, calls: int) -> Recording:
    """Record a call that has warmed up; the traces go to ``folder``."""
    cuda = torch.device(device).type == "cuda"
    loop_ms = loop(call, device)
    operations = countable(call)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    tensorboard = folder / "tensorboard"
    shutil.rmtree(tensorboard, ignore_errors=True)  # what an earlier run left would be shown as well
    with profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=1, active=calls, repeat=1),
        acc_events=True,
        on_trace_ready=tensorboard_trace_handler(str(tensorboard), worker_name=name),
        record_shapes=True,
        profile_memory=True,
    ) as profiler:
        for _ in range(calls + 1):
            with record_function(name):
                call()
                synchronize(device)
            profiler.step()
    (trace,) = tensorboard.glob("*.pt.trace.json")
    chrome = folder / "trace.json"
    shutil.copyfile(trace, chrome)
    events = profiler.events()
    kernels = of_gpu(events, operations, calls) if cuda else of_cpu(events, operations, calls)
    return Recording(
        name, device, loop_ms, sorted(kernels, key=lambda kernel: -kernel.ms),
        None if operations is None else total(operations),
        memory(json.loads(trace.read_text()), calls, cuda=cuda), (trace, chrome),
    )  # fmt: skip


def synchronize(device: str) -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def loop(call: Callable[[], object], device: str) -> float:
    """The median time of a call in ms, each waited for, launches not hidden."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - started < LOOP_S:
        begin = time.perf_counter()
        call()
        synchronize(device)
        times.append((time.perf_counter() - begin) * 1e3)
    return median(times)


class Matches:
    """Finds the work of profiled operations: both saw the same ones in the same order, the profiler their parts too.

    Autograd may name an operation otherwise under a profiler (a sum in place): what cannot be matched has no work.
    """

    AHEAD = 4

    def __init__(self, events: Any, operations: Operations | None, calls: int) -> None:
        self.work: dict[int, Work] = {}  # by identity: ids of the profiler are not unique
        expected = [one for one in operations or [] if one[1] != Work()] * calls
        inside: set[int] = set()  # parts of an operation that has been matched
        own = [event for event in events if event.device_type == DeviceType.CPU]
        # What begins together is nested: the longer is outside.
        for event in sorted(own, key=lambda event: (event.time_range.start, -event.time_range.end)):
            parent = event.cpu_parent
            if parent is not None and id(parent) in inside:
                inside.add(id(event))
                continue
            ahead = 1 if parent is not None and parent.name.startswith("aten::") else self.AHEAD
            names = [name for name, _ in expected[:ahead]]
            if event.name in names:
                at = names.index(event.name)
                self.work[id(event)] = expected[at][1]
                inside.add(id(event))
                del expected[: at + 1]

    def owner(self, event: Any) -> Any | None:
        """The event itself, or the innermost operation around it, whose work is known."""
        while event is not None and id(event) not in self.work:
            event = event.cpu_parent
        return event


def of_cpu(events: Any, operations: Operations | None, calls: int) -> list[Kernel]:
    """The operations of a call on the CPU, a row a name; what those of known work call in turn is theirs."""
    matches = Matches(events, operations, calls)
    times: dict[str, float] = defaultdict(float)
    owners: dict[str, dict[int, Work | None]] = defaultdict(dict)
    for event in events:
        if event.device_type != DeviceType.CPU or not event.name.startswith(("aten::", "mkldnn::", "graph_call")):
            continue
        owner = matches.owner(event) or event
        times[owner.name] += event.self_cpu_time_total
        owners[owner.name][id(owner)] = matches.work.get(id(owner))
    return [
        Kernel(name, us / 1e3 / calls, len(owners[name]) / calls, summed(owners[name], calls))
        for name, us in times.items()
    ]


def of_gpu(events: Any, operations: Operations | None, calls: int) -> list[Kernel]:
    """The kernels of a call on the GPU, a row a name. The work of an operation that launches several is nobody's."""
    matches = Matches(events, operations, calls)
    times: dict[str, list[float]] = defaultdict(list)
    known: dict[str, dict[int, Work | None]] = defaultdict(dict)
    launched: dict[int, int] = defaultdict(int)
    for event in events:
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            times[event.name].append(event.time_range.elapsed_us())
        elif event.device_type == DeviceType.CPU and event.kernels:
            owner = matches.owner(event)
            for kernel in event.kernels:
                launched[id(owner)] += 1
                known[kernel.name][id(owner)] = matches.work.get(id(owner))
    kernels = []
    for name, us in times.items():
        own = {key: None if launched[key] > 1 else one for key, one in known[name].items()}
        complete = len(own) == len(us)
        kernels.append(Kernel(name, sum(us) / 1e3 / calls, len(us) / calls, summed(own, calls) if complete else None))
    return kernels


def summed(owners: dict[int, Work | None], calls: int) -> Work | None:
    """The work of these runs per call, ``None`` where one is unknown."""
    whole = Work()
    for one in owners.values():
        if one is None:
            return None
        whole += one
    return Work(whole.bytes / calls, whole.flops / calls, whole.exponentials / calls)


def memory(trace: dict[str, Any], calls: int, *, cuda: bool) -> list[tuple[float, int]]:
    """Memory in use over the last call, from the allocations in a trace."""
    steps = [event for event in trace["traceEvents"] if str(event.get("name", "")).startswith("ProfilerStep#")]
    begin = max((event["ts"] for event in steps), default=0.0)
    wanted = 1 if cuda else 0  # c10::DeviceType
    changes = [
        event for event in trace["traceEvents"]
        if event.get("name") == "[memory]" and event["ts"] >= begin and event["args"].get("Device Type") == wanted
    ]  # fmt: skip
    in_use, found = 0, [(0.0, 0)]
    for event in sorted(changes, key=lambda event: event["ts"]):
        in_use += event["args"]["Bytes"]
        found.append(((event["ts"] - begin) / 1e3, in_use))
    return found

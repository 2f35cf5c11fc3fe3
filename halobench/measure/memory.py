"""Peak memory of one call above what was in use before it, as the allocator of the device saw it."""

import gc
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: str) -> int | None:
    """Bytes of tensors alive at the worst moment of one call, its result included, its inputs not.

    CUDA: the caching allocator's own counters. CPU: the allocations and frees that torch's CPU allocator reports to
    the profiler; memory that a library takes past that allocator is not seen. ``None`` where nothing was recorded.
    """
    return cuda_peak(call) if torch.device(device).type == "cuda" else cpu_peak(call)


def cuda_peak(call: Callable[[], object]) -> int:
    """Peak of the bytes that live tensors asked the caching allocator for, during the call.

    Not of the blocks that it gave them: these may be up to 1 MiB larger, depending on what was there before.
    """
    gc.collect()  # garbage that the call's own collections would free must not lower its peak
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    del result
    return int(torch.cuda.memory_stats()["requested_bytes.all.peak"] - before)


def cpu_peak(call: Callable[[], object]) -> int | None:
    """Peak of the running sum of allocations and frees during the call, read from a profiler trace.

    The call runs twice: of what it frees (a training step: the gradients of the step before), only what was allocated
    under a profiler has a size that is known, and right.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    if not changes:
        return None
    in_use = peak = 0
    for event in sorted(changes, key=lambda event: event["ts"]):
        in_use += event["args"]["Bytes"]
        peak = max(peak, in_use)
    return peak


def release() -> None:
    """Give back the memory of what ended.

    What survives are modules and what compilers remember. Frozen, they are not visited by later collections, of which
    each case needs several; visiting them takes longer than most measurements.
    """
    gc.collect()
    gc.freeze()

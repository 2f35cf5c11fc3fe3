"""Memory of the device that nothing uses yet."""

import os
from pathlib import Path

import torch

from halobench.machine.cgroup import Cgroup


def available_bytes(device: str) -> int:
    """Memory that a call could still take.

    On a GPU what is free, and what PyTorch's allocator holds in reserve; else the machine's, or what the container's
    limit leaves of it.
    """
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    free, allowed = machine_bytes(), Cgroup().memory_free()
    return free if allowed is None else min(free, allowed)


def machine_bytes() -> int:
    """Memory that is free on the whole machine."""
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

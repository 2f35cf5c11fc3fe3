"""Memory of the device that nothing uses yet, and errors that say there was too little."""

import os
from pathlib import Path

import torch

from halobench.machine.cgroup import Cgroup

MEMINFO = Path("/proc/meminfo")
TOO_LARGE = ("can't allocate memory", "Storage size calculation overflowed")  # as PyTorch says it of the CPU's


def available_bytes(device: str) -> int | None:
    """Memory that a call could still take; ``None`` where the system does not say.

    On a GPU what is free, and what PyTorch's allocator holds in reserve; else the machine's, or what the container's
    limit leaves of it.
    """
    if torch.device(device).type == "cuda":
        unused, _ = torch.cuda.mem_get_info()
        return unused + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    free, allowed = machine_bytes(), Cgroup().memory_free()
    return min((known for known in (free, allowed) if known is not None), default=None)


def machine_bytes() -> int | None:
    """Memory that is free on the whole machine, or all of it where nobody counts what is free."""
    for line in MEMINFO.read_text().splitlines() if MEMINFO.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory is out, of the GPU or of the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in TOO_LARGE)

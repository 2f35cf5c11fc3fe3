"""Memory of the device that nothing uses yet."""

import os
from pathlib import Path

import torch


def available_bytes(device: str) -> int:
    """Memory that a call could still take: what is free, and what PyTorch's CUDA allocator holds in reserve."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

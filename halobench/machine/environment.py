"""The fingerprint of machine, software and commit that goes with every results file. Unknown is ``None``.

Results are published, so nothing in it names the owner of the machine.
"""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import torch

import halobench
from halobench.attention import backends
from halobench.machine import provenance
from halobench.machine.nvml import Gpu

PACKAGES = ("timm", "torchvision", "fvcore", "nvidia-ml-py", "pytest-benchmark", "halonet-pytorch")


def fingerprint(device: str) -> Mapping[str, object]:
    """Everything that two runs must share for their times to be comparable, and what helps to explain them."""
    return {
        "gpu": gpu() if torch.device(device).type == "cuda" else None,
        "cpu": {"model": cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": installed("triton"),
        "halobench": halobench.__version__,
        "packages": {**{name: installed(name) for name in PACKAGES}, **third_party()},
        "commit": provenance.commit(),
    }


def gpu() -> Mapping[str, object]:
    """The first visible GPU."""
    properties, nvml = torch.cuda.get_device_properties(0), Gpu(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "driver": nvml.driver,
        "power_limit_watts": nvml.power_limit_watts,
        "max_sm_mhz": nvml.max_mhz("SM"),
        "max_memory_mhz": nvml.max_mhz("MEM"),
    }


def cpu_model() -> str | None:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def third_party() -> Mapping[str, str]:
    """The versions of the packages that bring backends of other people."""
    brought = [entry.dist for entry in entry_points(group=backends.ENTRY_POINTS)]
    return {one.name: one.version for one in brought if one is not None}


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None

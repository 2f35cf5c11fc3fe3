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
    """The processor's name as the kernel gives it; on 64-bit ARM, which gives none, by its numbers."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or None
    return cpu_named(text) or cpu_numbered(text)


def cpu_named(text: str) -> str | None:
    """The name in ``/proc/cpuinfo``: ``model name`` on x86, ``cpu`` on POWER, ``Hardware`` or ``Model`` on old ARM."""
    fields = cpu_fields(text)
    found = (fields.get(name) for name in ("model name", "cpu", "Model", "Hardware"))
    return next((values[0] for values in found if values), None)


def cpu_numbered(text: str) -> str | None:
    """An ARM processor by who designed it and which part it is, each kind of core once: a big.LITTLE has several."""
    fields = cpu_fields(text)
    names = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
    cores = sorted(set(zip(*(fields.get(name, ()) for name in names), strict=False)))
    said = [f"implementer {one} part {two} r{int(three, 0)}p{four}" for one, two, three, four in cores]
    return f"ARM {', '.join(said)}" if said else None


def cpu_fields(text: str) -> dict[str, list[str]]:
    """The values of each field of ``/proc/cpuinfo``, a processor after the other; empty ones are left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if value:
            found.setdefault(name, []).append(value)
    return found


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

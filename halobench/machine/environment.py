"""The fingerprint of machine, software and commit that goes with every results file. Unknown is ``None``.

Results are published, so nothing in it names the owner of the machine.
"""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import halobench
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
        "packages": {name: installed(name) for name in PACKAGES},
        "commit": commit(Path.cwd()),
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


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit(folder: Path) -> Mapping[str, object] | None:
    """The git commit of a folder and whether its tracked files differ from it.

    Where there is no history of the files, as in a container, the environment variable ``HALOBENCH_COMMIT`` names the
    commit; it is believed, and whether files differ is unknown then.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    if named := os.environ.get("HALOBENCH_COMMIT"):
        return {"id": named, "dirty": None}
    try:
        return {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None

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
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


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

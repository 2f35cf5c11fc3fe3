"""What this machine can measure and what not, why, and what to do about it. Nothing is changed."""

import importlib.util
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from halobench.attention import backends
from halobench.machine.cgroup import Cgroup, affinity, whole
from halobench.machine.environment import cpu_model
from halobench.machine.load import watch
from halobench.machine.memory import available_bytes
from halobench.machine.nvml import Gpu
from halobench.wording import counted

SECONDS = 0.5  # for which the load is watched
State = Literal["good", "limited", "bad"]
TOOLS = {
    "triton": ("exponential ceiling, FlexAttention and torch.compile on a GPU", "pip install triton"),
    "torch_tb_profiler": ("traces in TensorBoard", "pip install torch-tb-profiler"),
    "fvcore": ("the second opinion on FLOPs", "pip install fvcore"),
    "pynvml": ("clocks, throttling and energy of a GPU", "pip install nvidia-ml-py"),
    "faster_coco_eval": ("halobench.detect and halobench.stamps", "pip install faster-coco-eval"),
    "pyarrow": ("Parquet files of halobench.export", "pip install pyarrow"),
    "selenium": ("the tests of the report", "pip install selenium"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is like, what that means, and the remedy where there is one."""

    what: str
    state: State
    said: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Everything that bears on what can be measured here."""
    yield processor()
    yield load()
    yield memory()
    yield Finding("PyTorch", "good", f"{torch.__version__}, built for CUDA {torch.version.cuda or 'none'}")
    yield from gpu()
    yield from packages()
    yield compiler()


def processor() -> Finding:
    """The processor, how much of it may be used, and with how many threads."""
    cores, threads, allowed = affinity(), torch.get_num_threads(), Cgroup().processors()
    said = f"{cpu_model() or 'unknown'}, {counted(cores, 'core')}"
    if allowed < cores:
        said, threads = f"{said}, of which the container may use {allowed:g}", min(threads, whole(allowed))
    return Finding("processor", "good", f"{said}, {counted(threads, 'thread')}")


def memory() -> Finding:
    """How much memory a call may still take."""
    free, limit = available_bytes("cpu"), Cgroup().memory_limit()
    if free is None:
        said = "how much is free is unknown: what cannot fit is not refused"
        return Finding("memory", "limited", said, "ask the system before large cases")
    enough = free >= 4 * 2**30
    return Finding(
        "memory",
        "good" if enough else "limited",
        f"{free / 2**30:.1f} GiB are free"
        + ("" if limit is None else f", of {limit / 2**30:.1f} GiB that the container may use"),
        "" if enough else "end other programs" if limit is None else "end other programs, or raise the limit",
    )


def load() -> Finding:
    """Whether others keep the processor from what is measured."""
    found = watch("cpu", SECONDS)
    if not found.disturbed:
        return Finding("load", "good", found.said)
    return Finding("load", "limited", f"{found.said}: CPU times will be noisy", "end other programs, or wait")


def gpu() -> Iterator[Finding]:
    """The GPU, its driver, clocks, and whoever else uses it."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            remedy = "install a build of PyTorch for CUDA: https://pytorch.org/get-started/locally"
        elif os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
            remedy = f"unset CUDA_VISIBLE_DEVICES, which is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
        else:
            remedy = "install NVIDIA's driver, or a newer one, where there is a GPU"
        yield Finding("GPU", "limited", "torch sees no CUDA device: suites measure the CPU, in the tier smoke", remedy)
        return
    properties, device = torch.cuda.get_device_properties(0), Gpu(0)
    free, total = torch.cuda.mem_get_info()
    yield Finding("GPU", "good", f"{properties.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    if device.sliced:
        yield from of_slice(device)
        return
    if device.driver is None:
        yield Finding(
            "NVML",
            "limited",
            "gives nothing: no clocks, throttling or energy",
            "pip install nvidia-ml-py, or ask the host",
        )
        return
    yield Finding("driver", "good", device.driver)
    yield from clocks(device)
    yield from others(device)


def of_slice(device: Gpu) -> Iterator[Finding]:
    """That the GPU is a MIG slice, what rows about it lack, and whoever else uses it."""
    if device.driver is None:
        said = "this device is a slice of a GPU, and which one cannot be told: no clocks, throttling or energy"
        yield Finding("MIG", "limited", said, "CUDA_VISIBLE_DEVICES=MIG-..., the one that nvidia-smi -L shows")
        return
    known = {"clock": device.sm_mhz, "throttling": device.throttles, "others on it": device.processes}
    lacking = ", ".join(["energy", "power limit", *(what for what, value in known.items() if value is None)])
    said = f"this device is a slice of a GPU, of which NVML does not say: {lacking}"
    yield Finding("MIG", "limited", said, "measure on a GPU that is not divided (nvidia-smi -mig 0, as root)")
    yield Finding("driver", "good", device.driver)
    if device.processes is not None:
        yield from others(device)


def clocks(device: Gpu) -> Iterator[Finding]:
    """Clock, throttling, persistence and the energy counter."""
    now, most = device.sm_mhz, device.max_mhz("SM")
    if now is None:
        yield Finding(
            "clocks", "limited", "cannot be read: rows will not say whether the GPU throttled", "ask the host for NVML"
        )
    else:
        yield Finding("clocks", "good", f"SM at {now} MHz, at most {most or 'unknown'}")
    if device.throttles:
        said = f"held down by {', '.join(device.throttles)}"
        yield Finding("throttling", "limited", said, "let the GPU cool down, or raise its power limit")
    if device.persistence is False:
        remedy = "nvidia-smi -pm 1, as root"
        yield Finding(
            "persistence", "limited", "off: the driver unloads between programs, and the first call is slow", remedy
        )
    elif device.persistence:
        yield Finding("persistence", "good", "on")
    if device.joules is None:
        yield Finding("energy", "limited", "this GPU has no energy counter: no joules in the rows")
    else:
        yield Finding("energy", "good", "the counter can be read")


def others(device: Gpu) -> Iterator[Finding]:
    """Other processes on the GPU."""
    found = [pid for pid in device.processes or [] if pid != os.getpid()]
    if device.processes is None:
        yield Finding("other processes", "limited", "cannot be listed", "nvidia-smi shows them, if the host allows it")
    elif found:
        said = f"{counted(len(found), 'program')} on this GPU: pid {', '.join(map(str, found))}"
        yield Finding("other processes", "bad", said, "end them, or choose another GPU with CUDA_VISIBLE_DEVICES")
    else:
        yield Finding("other processes", "good", "none on this GPU")


def packages() -> Iterator[Finding]:
    """Optional packages, and backends whose package is missing."""
    for module, (purpose, remedy) in TOOLS.items():
        if importable(module):
            yield Finding(module, "good", purpose)
        else:
            yield Finding(module, "limited", f"cannot be imported: without it no {purpose}", remedy)
    for name in backends.names():
        state, said, remedy = backend(name)
        if state != "good":
            yield Finding(f"backend {name}", state, said, remedy)


def importable(module: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def backend(name: str) -> tuple[State, str, str]:
    """Whether a backend loads, its summary or why not, and the remedy."""
    try:
        return "good", backends.load(name).summary, ""
    except ModuleNotFoundError as error:
        return (
            "limited",
            f"needs the package {error.name}, which is not installed",
            f"pip install {shlex.quote(str(error.name))}",
        )
    except Exception as error:  # noqa: BLE001 - a broken backend must not keep the others from being listed
        return "bad", f"cannot be loaded: {type(error).__name__}: {error}", "mend its module"


def compiler() -> Finding:
    """The C++ compiler that torch.compile needs on a CPU."""
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if found:
        return Finding("C++ compiler", "good", found)
    return Finding(
        "C++ compiler", "limited", "none found: torch.compile cannot build for the CPU", "apt-get install g++"
    )

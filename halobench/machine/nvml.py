"""What NVML says about one GPU. Every reading is ``None`` where the driver does not give it: unknown, never a guess."""

import os
from collections.abc import Callable
from typing import Any

import torch

try:
    import pynvml
except ImportError:  # pragma: no cover - nvidia-ml-py is a dependency; a broken install must not end a run
    pynvml = None

# Reasons for a clock below what was asked for that distort a measurement. Idle and fixed clocks do not.
THROTTLES = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "thermal (software)",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "thermal (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


class Gpu:
    """NVML's view of a CUDA device of this process.

    ``sliced`` says that the device is a MIG slice, a part of a GPU. What NVML counts for the whole GPU only, energy and
    power above all, is unknown of a slice.
    """

    def __init__(self, index: int = 0) -> None:
        self._handle: Any = None
        self.sliced = False
        if pynvml is None:
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        # NVML counts all GPUs of the machine, CUDA only the visible ones: they are matched by UUID. That of a slice is
        # the slice's own from CUDA 13 on (cuDeviceGetUuid_v2), and was its GPU's before.
        uuid = torch.cuda.get_device_properties(index).uuid
        whole, part = (ask("nvmlDeviceGetHandleByUUID", f"{kind}-{uuid}") for kind in ("GPU", "MIG"))
        self.sliced = part is not None or (whole is not None and divided(whole))
        if part is None:
            part = the_slice(whole) if self.sliced else whole
        self._handle = part

    def read(self, function: str, *arguments: object) -> Any:
        """The value of an NVML query of this GPU, or ``None``."""
        return None if self._handle is None else ask(function, self._handle, *arguments)

    @property
    def driver(self) -> str | None:
        """Version of the driver."""
        version: str | None = None if self._handle is None else ask("nvmlSystemGetDriverVersion")
        return version

    @property
    def sm_mhz(self) -> int | None:
        """SM clock now, MHz."""
        clock: int | None = self.read("nvmlDeviceGetClockInfo", getattr(pynvml, "NVML_CLOCK_SM", 1))
        return clock

    @property
    def throttles(self) -> list[str] | None:
        """Why the clock is held down now, in words; empty where it is not."""
        mask = self.read("nvmlDeviceGetCurrentClocksThrottleReasons")
        if mask is None:
            return None
        return [word for constant, word in THROTTLES.items() if mask & getattr(pynvml, constant, 0)]

    @property
    def joules(self) -> float | None:
        """Energy the GPU has used since the driver was loaded; the counter moves every 10 to 100 ms."""
        millijoules = None if self.sliced else self.read("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    @property
    def persistence(self) -> bool | None:
        """Whether the driver stays loaded while nothing uses the GPU."""
        mode = self.read("nvmlDeviceGetPersistenceMode")
        return None if mode is None else bool(mode)

    @property
    def processes(self) -> list[int] | None:
        """Process ids that compute on the GPU; within a container they may be the host's."""
        found = self.read("nvmlDeviceGetComputeRunningProcesses")
        return None if found is None else [process.pid for process in found]

    def used_by_others(self, own: int, since_us: int) -> float | None:
        """The largest share of the SMs that one moment's other processes used since then (microseconds since 1970)."""
        found = self.read("nvmlDeviceGetProcessUtilization", since_us)
        if found is None:
            return None
        used: dict[int, int] = {}
        for sample in found:
            if sample.pid != own:
                used[sample.timeStamp] = used.get(sample.timeStamp, 0) + sample.smUtil
        return max(used.values(), default=0) / 100

    @property
    def power_limit_watts(self) -> float | None:
        """The enforced power limit."""
        milliwatts = None if self.sliced else self.read("nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else milliwatts / 1e3

    def max_mhz(self, domain: str) -> int | None:
        """Highest clock of a domain (``"SM"`` or ``"MEM"``), MHz."""
        clock: int | None = self.read("nvmlDeviceGetMaxClockInfo", getattr(pynvml, f"NVML_CLOCK_{domain}", 1))
        return clock


def divided(handle: Any) -> bool:
    """Whether a GPU is divided into MIG slices: CUDA then runs on one of them, never on the whole."""
    modes = ask("nvmlDeviceGetMigMode", handle)
    return modes is not None and modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def the_slice(whole: Any) -> Any:
    """The slice of a GPU that CUDA runs on, or ``None`` where that cannot be told.

    It is the one that ``CUDA_VISIBLE_DEVICES`` names by its UUID, or by the beginning of that, else the only one.
    """
    found = [ask("nvmlDeviceGetMigDeviceHandleByIndex", whole, number) for number in range(slots(whole))]
    slices = [one for one in found if one is not None]
    name = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if name.startswith("MIG-"):
        slices = [one for one in slices if str(ask("nvmlDeviceGetUUID", one)).startswith(name)]
    return slices[0] if len(slices) == 1 else None


def slots(whole: Any) -> int:
    """How many slices a GPU can be divided into."""
    return ask("nvmlDeviceGetMaxMigDeviceCount", whole) or 0


def ask(function: str, *arguments: object) -> Any:
    """The value of an NVML query, or ``None`` where the driver refuses it."""
    query: Callable[..., Any] = getattr(pynvml, function)
    try:
        value = query(*arguments)
    except pynvml.NVMLError:
        return None
    return value.decode() if isinstance(value, bytes) else value

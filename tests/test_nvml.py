"""What NVML says, and nothing where it says nothing: on an invented library, and on the names of the real one."""

from types import SimpleNamespace

import pynvml
import pytest
import torch

from halobench.machine import nvml
from halobench.machine.nvml import THROTTLES, Gpu

READINGS = ("driver", "sm_mhz", "throttles", "joules", "power_limit_watts", "persistence", "processes")


class FakeNvml:
    """An NVML with one GPU. A query in ``broken`` fails as the real ones do."""

    NVMLError = pynvml.NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM

    def __init__(self, *broken):
        self.broken = broken
        self.mask = 0
        for name in THROTTLES:
            setattr(self, name, getattr(pynvml, name))

    def __getattribute__(self, name):
        if name.startswith("nvml") and name in object.__getattribute__(self, "broken"):
            raise_error = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

            def refuse(*_):
                raise raise_error

            return refuse
        return object.__getattribute__(self, name)

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        assert uuid == "GPU-1234-abcd"
        return "handle"

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return b"570.1"

    def nvmlDeviceGetClockInfo(self, _handle, domain):  # noqa: N802
        return {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[domain]

    def nvmlDeviceGetMaxClockInfo(self, _handle, domain):  # noqa: N802
        return {pynvml.NVML_CLOCK_SM: 1981, pynvml.NVML_CLOCK_MEM: 2620}[domain]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle):  # noqa: N802
        return self.mask

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle):  # noqa: N802
        return 1500

    def nvmlDeviceGetProcessUtilization(self, _handle, since_us):  # noqa: N802
        assert since_us == 17
        samples = [(1, 10, 40), (2, 10, 20), (3, 10, 5), (1, 11, 100), (2, 11, 3)]  # pid, moment, per cent of the SMs
        return [SimpleNamespace(pid=pid, timeStamp=moment, smUtil=used) for pid, moment, used in samples]

    def nvmlDeviceGetPersistenceMode(self, _handle):  # noqa: N802
        return 1

    def nvmlDeviceGetComputeRunningProcesses(self, _handle):  # noqa: N802
        return [SimpleNamespace(pid=4242)]

    def nvmlDeviceGetEnforcedPowerLimit(self, _handle):  # noqa: N802
        return 700_000


@pytest.fixture
def install(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234-abcd"))

    def install(library):
        monkeypatch.setattr(nvml, "pynvml", library)
        return library

    return install


def test_readings_have_our_units(install):
    install(FakeNvml())
    gpu = Gpu()
    assert {name: getattr(gpu, name) for name in READINGS} == {
        "driver": "570.1",
        "sm_mhz": 1980,
        "throttles": [],
        "joules": 1.5,
        "power_limit_watts": 700.0,
        "persistence": True,
        "processes": [4242],
    }
    assert (gpu.max_mhz("SM"), gpu.max_mhz("MEM")) == (1981, 2620)


@pytest.mark.parametrize("constant", THROTTLES)
def test_each_reason_has_a_word(install, constant):
    library = install(FakeNvml())
    library.mask = getattr(library, constant)
    assert Gpu().throttles == [THROTTLES[constant]]


def test_idle_and_fixed_clocks_are_no_throttling(install):
    library = install(FakeNvml())
    library.mask = (
        pynvml.nvmlClocksThrottleReasonGpuIdle
        | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
        | pynvml.nvmlClocksThrottleReasonSyncBoost
    )
    assert Gpu().throttles == []


def test_the_real_library_knows_every_reason():
    """A name that it does not know would never be reported."""
    masks = [getattr(pynvml, name) for name in THROTTLES]
    assert len(set(masks)) == len(masks)
    assert all(masks)


def nothing(gpu):
    return all(getattr(gpu, name) is None for name in READINGS) and gpu.max_mhz("SM") is None


def test_no_driver_and_no_library(install):
    install(FakeNvml("nvmlInit"))
    assert nothing(Gpu())
    install(FakeNvml("nvmlDeviceGetHandleByUUID"))
    assert nothing(Gpu())
    install(None)
    assert nothing(Gpu())


@pytest.mark.parametrize(
    ("query", "reading"),
    [
        ("nvmlSystemGetDriverVersion", "driver"),
        ("nvmlDeviceGetClockInfo", "sm_mhz"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "throttles"),
        ("nvmlDeviceGetTotalEnergyConsumption", "joules"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_watts"),
        ("nvmlDeviceGetPersistenceMode", "persistence"),
        ("nvmlDeviceGetComputeRunningProcesses", "processes"),
    ],
)
def test_a_reading_that_is_not_supported_is_unknown_and_the_others_are_not(install, query, reading):
    install(FakeNvml(query))
    gpu = Gpu()
    assert [name for name in READINGS if getattr(gpu, name) is None] == [reading]


def test_what_others_use_is_the_most_of_any_moment(install):
    install(FakeNvml())
    assert Gpu().used_by_others(1, 17) == pytest.approx(0.25)
    install(FakeNvml("nvmlDeviceGetProcessUtilization"))
    assert Gpu().used_by_others(1, 17) is None

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
    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE

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
        if uuid != "GPU-1234-abcd":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "handle"

    def nvmlDeviceGetMigMode(self, _handle):  # noqa: N802
        return [pynvml.NVML_DEVICE_MIG_DISABLE, pynvml.NVML_DEVICE_MIG_ENABLE]  # now, and after the next reset

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


class SlicedNvml(FakeNvml):
    """A GPU that is divided into these slices. Of a slice it counts processes; what it says of energy is the GPU's."""

    REFUSED = ("nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetCurrentClocksThrottleReasons")

    def __init__(self, *slices):
        super().__init__(*self.REFUSED, "nvmlDeviceGetPersistenceMode")
        self.slices = slices

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return uuid if uuid in self.slices else super().nvmlDeviceGetHandleByUUID(uuid)

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        assert handle == "handle"
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, _handle):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _handle, index):  # noqa: N802
        if index % 2 or index // 2 >= len(self.slices):  # slices need not lie side by side
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.slices[index // 2]

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return handle

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return [SimpleNamespace(pid=100 + self.slices.index(handle))]


def of_slice(gpu):
    """What is known of a slice; everything else must be unknown."""
    unknown = ("sm_mhz", "throttles", "joules", "power_limit_watts", "persistence")
    assert gpu.sliced
    assert [name for name in unknown if getattr(gpu, name) is not None] == []
    assert gpu.max_mhz("SM") is None
    return gpu.driver, gpu.processes


@pytest.mark.parametrize(
    ("slices", "visible", "pid"),
    [
        (("MIG-1234-abcd", "MIG-b"), None, 100),  # CUDA gives the slice's own UUID
        (("MIG-a", "MIG-1234-abcd"), "MIG-a", 101),
        (("MIG-aa", "MIG-ab"), "MIG-ab", 101),  # CUDA gives the GPU's
        (("MIG-a1-x", "MIG-b1-x"), "MIG-b1", 101),
        (("MIG-GPU-1234-abcd/1/0", "MIG-GPU-1234-abcd/2/0"), "MIG-GPU-1234-abcd/2/0", 101),  # drivers before 470
        (("MIG-a",), "0", 100),
        (("MIG-a",), None, 100),
    ],
)
def test_of_a_slice_only_what_is_its_own_is_known(install, monkeypatch, slices, visible, pid):
    install(SlicedNvml(*slices))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert of_slice(Gpu()) == ("570.1", [pid])


@pytest.mark.parametrize("visible", ["0", "", "MIG-a", "MIG-aa,MIG-ab", "MIG-c"])
def test_a_slice_that_cannot_be_told_from_others_is_unknown(install, monkeypatch, visible):
    install(SlicedNvml("MIG-aa", "MIG-ab"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert of_slice(Gpu()) == (None, None)


def test_a_slice_without_permissions_is_unknown_and_no_crash(install, monkeypatch):
    library = install(SlicedNvml("MIG-1234-abcd"))
    library.broken = (*library.broken, "nvmlDeviceGetComputeRunningProcesses", "nvmlSystemGetDriverVersion")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert of_slice(Gpu()) == (None, None)


def test_a_gpu_that_could_be_divided_and_is_not_is_whole(install):
    install(FakeNvml())
    assert not Gpu().sliced
    install(FakeNvml("nvmlDeviceGetMigMode"))  # an older one
    assert not Gpu().sliced

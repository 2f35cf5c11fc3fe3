"""Clocks: as many samples as were asked for, of the call and nothing else."""

import time

import pytest
import torch

from halobench.machine import clock
from halobench.machine.clock import Burst, CpuClock, CudaClock, clock_for


def test_cpu_clock_calls_once_a_sample():
    calls = []
    burst = CpuClock().burst(lambda: calls.append(None), 7)
    assert len(calls) == len(burst.device_ms) == len(burst.host_ms) == 7
    assert burst.host_ms == burst.device_ms
    assert burst.host_ms is not burst.device_ms
    assert (burst.sm_mhz, burst.throttles) == ([], set())


def test_cpu_clock_counts_the_call_in_milliseconds(monkeypatch):
    now = [0]

    def call():
        now[0] += 2_500_000

    def perf_counter_ns():
        return now[0]

    monkeypatch.setattr(time, "perf_counter_ns", perf_counter_ns)
    assert CpuClock().burst(call, 3).device_ms == [2.5, 2.5, 2.5]


def test_bursts_add_up():
    burst = Burst([1.0], [2.0], [1500], {"power cap"}, 1)
    burst.extend(Burst([3.0, 4.0], [5.0, 6.0], [1600], {"power brake"}, 2))
    assert burst == Burst([1.0, 3.0, 4.0], [2.0, 5.0, 6.0], [1500, 1600], {"power cap", "power brake"}, 3)


def test_clock_of_a_device(monkeypatch):
    assert isinstance(clock_for("cpu"), CpuClock)
    monkeypatch.setattr(clock, "CudaClock", lambda hot: f"cuda clock, hot {hot}")
    assert clock_for("cuda", hot=True) == "cuda clock, hot True"
    assert clock_for("cuda:0") == "cuda clock, hot False"


@pytest.mark.gpu
@pytest.mark.parametrize("hot", [False, True])
def test_cuda_clock(hot):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    matrix = torch.randn(2048, 2048, device="cuda")
    calls = []

    def call():
        calls.append(None)
        return matrix @ matrix

    burst = CudaClock(hot=hot).burst(call, 5)
    assert len(calls) >= 1 + (10 if hot else 5)  # one to see how long the host needs
    assert len(burst.device_ms) == len(burst.host_ms) == 5
    assert burst.exposed == 0
    assert min(burst.device_ms) > 0
    assert len(burst.sm_mhz) <= 1


@pytest.mark.gpu
def test_a_slow_host_is_covered():
    """The host pauses inside the call, in the third sample for longer than any before: the device never waits."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    small = torch.zeros(8, device="cuda")
    calls = []

    def call():
        calls.append(None)
        small.add_(1)
        time.sleep(0.008 if len(calls) == 4 else 0.001)
        small.add_(1)

    burst = CudaClock().burst(call, 6)
    assert len(calls) > 1 + 6  # an exposed sample was taken again
    assert burst.exposed == 0
    assert max(burst.device_ms) < 1.0
    assert min(burst.host_ms) >= 1.0


@pytest.mark.gpu
def test_a_host_too_slow_to_cover_is_told():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    burst = CudaClock().burst(lambda: time.sleep(0.03), 3)
    assert burst.exposed == 3


def test_a_stretch_is_one_sample_of_many_calls():
    calls = []
    burst = CpuClock().stretch(lambda: calls.append(time.sleep(0.002)), 5)
    assert len(calls) == 5
    assert len(burst.device_ms) == len(burst.host_ms) == 1
    assert burst.device_ms[0] >= 2  # a mean: sleeping never ends early


@pytest.mark.gpu
def test_a_stretch_on_a_gpu_waits_for_its_last_call():
    """Launching takes no time, the products do."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    side = 8192
    left = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    clock = CudaClock()
    clock.stretch(lambda: left @ left, 3)
    burst = clock.stretch(lambda: left @ left, 20)
    assert burst.device_ms[0] > 2 * side**3 / 1e16 * 1e3  # no GPU multiplies at 10 000 TFLOP/s
    assert burst.host_ms[0] < burst.device_ms[0]

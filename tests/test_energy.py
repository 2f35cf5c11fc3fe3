"""Joules per call from a counter that moves now and then, on a GPU and a time that are invented."""

import pytest
import torch

from halobench.measure import energy
from halobench.measure.energy import between_ticks, joules_per_call


class Machine:
    """A GPU that draws ``watts``, whose counter is brought up to date every ``tick_s``; a call takes ``call_s``."""

    def __init__(self, watts=500.0, tick_s=0.1, call_s=0.004):
        self.watts, self.tick_s, self.call_s = watts, tick_s, call_s
        self.now = 100.03  # in the middle between two moves of the counter
        self.calls = 0

    @property
    def joules(self):
        return None if self.tick_s is None else self.watts * self.tick_s * int(self.now / self.tick_s)

    def monotonic(self):
        return self.now

    def call(self):
        self.calls += 1
        self.now += self.call_s


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def measured(machine):
        monkeypatch.setattr(energy, "time", machine)
        return between_ticks(machine.call, machine)

    return measured


@pytest.mark.parametrize("tick_s", [0.01, 0.025, 0.1])
@pytest.mark.parametrize("call_s", [0.001, 0.004, 0.05])
def test_power_times_duration(measured, tick_s, call_s):
    machine = Machine(500.0, tick_s, call_s)
    assert measured(machine) == pytest.approx(500.0 * call_s, rel=2 * call_s / energy.WINDOW_S)
    assert machine.now - 100.03 >= energy.WINDOW_S


def test_a_call_longer_than_the_window(measured):
    assert measured(Machine(500.0, 0.1, 0.7)) == pytest.approx(350.0, rel=0.2)


def test_a_counter_that_stands_still_is_unknown(measured):
    machine = Machine(watts=0.0)
    assert measured(machine) is None
    assert machine.now - 100.03 < 5 * energy.WINDOW_S  # and does not keep the run waiting


def test_no_counter_is_unknown(measured):
    machine = Machine(tick_s=None)
    assert measured(machine) is None
    assert machine.calls == 0


def test_a_counter_that_disappears_is_unknown(measured):
    class Losing(Machine):
        @property
        def joules(self):
            return None if self.calls > 60 else super().joules

    assert measured(Losing()) is None


def test_no_energy_without_a_gpu_or_for_short_calls():
    def call():
        raise AssertionError

    assert joules_per_call(call, 50.0, "cpu") is None
    assert joules_per_call(call, 0.99, "cuda") is None


def test_steady_work_comes_first(monkeypatch):
    """The window begins once the GPU has worked for half a window: its power has settled by then."""
    machine = Machine(call_s=0.004)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(energy, "Gpu", lambda _: machine)
    calls_before = []
    monkeypatch.setattr(energy, "between_ticks", lambda *_: calls_before.append(machine.calls))
    joules_per_call(machine.call, 4.0, "cuda")
    assert calls_before == [50]

"""The stopping rule, on a clock whose samples and whose time are invented."""

import math
from itertools import cycle

import pytest

from halobench.machine.clock import Burst
from halobench.measure import latency
from halobench.measure.latency import LEAST, Effort, sample


class Machine:
    """A clock and the time it tells: a sample of ``ms`` takes ``sample_s`` seconds. Throttles for some attempts."""

    def __init__(self, ms=(1.0,), sample_s=0.001, throttles=(), probe_ms=math.nan):
        self.ms, self.sample_s, self.throttles, self.probe_ms = cycle(ms), sample_s, list(throttles), probe_ms
        self.now, self.bursts, self.pauses = 0.0, [], []
        self.moves = []  # after how many bursts the call was moved
        self.calls = []  # what was sampled in each burst

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def burst(self, call, count):
        self.bursts.append(count)
        self.calls.append(call)
        for _ in range(count):
            call()
        self.now += count * self.sample_s
        probe = count == 1
        reasons = set() if probe or not self.throttles else self.throttles.pop(0)
        taken = [self.probe_ms if probe else next(self.ms) for _ in range(count)]  # a probe that is kept would show
        return Burst(taken, [2 * ms for ms in taken], [1500], reasons)

    def synchronize(self):
        pass


@pytest.fixture
def run(monkeypatch):
    def call():
        pass

    def run(machine, **effort):
        def move():
            machine.moves.append(len(machine.bursts))
            return lambda: None

        monkeypatch.setattr(latency, "time", machine)
        return sample(call, machine, Effort(**effort), move)

    return run


def test_what_makes_times_comparable_is_said():
    assert latency.described(latency.effort_for("cuda")) == {"places": 8, "replayed_to_ms": 2.0}
    assert latency.described(latency.effort_for("cpu")) == {}


NOISY = tuple(1.0 + 0.5 * (i % 7) for i in range(70))


def test_quiet_calls_stop_at_the_least_time(run):
    machine = Machine()
    samples = run(machine, min_samples=10, min_s=0.03, max_s=0.2)
    assert 0.03 <= len(samples.device_ms) * 0.001 < 0.09
    assert machine.pauses == []


def test_noisy_calls_use_the_time_they_have(run):
    machine = Machine(NOISY)
    samples = run(machine, max_s=0.2, noise=0.002)
    assert len(samples.device_ms) == pytest.approx(0.2 / 0.001, abs=LEAST)


def test_noise_that_falls_below_the_target_stops_early(run):
    machine = Machine(NOISY)
    samples = run(machine, max_s=2.0, noise=0.25)
    assert 30 <= len(samples.device_ms) < 1000


def test_minimum_samples(run):
    """Calls so slow that the least time is over at once are still sampled ``min_samples`` times, if time allows."""
    machine = Machine(sample_s=0.02)
    assert len(run(machine, min_samples=24, min_s=0.03, max_s=1.0).device_ms) >= 24


@pytest.mark.parametrize("sample_s", [0.05, 1.0, 60.0])
def test_long_calls_stop_at_least(run, sample_s):
    machine = Machine(NOISY, sample_s=sample_s)
    assert len(run(machine, min_samples=10, max_s=0.2).device_ms) == LEAST


def test_the_first_sample_is_not_kept(run):
    machine = Machine()
    samples = run(machine)
    assert machine.bursts[0] == 1
    assert set(samples.device_ms) == {1.0}
    assert set(samples.host_ms) == {2.0}
    assert len(samples.device_ms) == sum(machine.bursts) - 1


def test_bursts_are_short(run):
    """No burst is so long that the stopping rule could not speak in between, or that a GPU would heat up in it."""
    machine = Machine(NOISY, sample_s=1e-6)
    run(machine, max_s=0.01)
    assert max(machine.bursts) == 100
    machine = Machine(NOISY, sample_s=0.001)
    run(machine, max_s=0.2)
    assert max(machine.bursts) == 50


def test_a_throttled_attempt_is_repeated_after_a_pause(run):
    machine = Machine(ms=(1.0,), sample_s=1.0, throttles=[{"power cap"}])
    samples = run(machine, max_s=0.2, pause_s=3.0)
    assert machine.pauses == [3.0]
    assert machine.bursts == [1, LEAST, 1, LEAST]
    assert samples.throttles == set()
    assert len(samples.device_ms) == LEAST  # the throttled samples are not among them


def test_a_second_throttled_attempt_is_kept_with_its_reasons(run):
    machine = Machine(sample_s=1.0, throttles=[{"power cap"}, {"thermal (hardware)"}, {"power brake"}])
    samples = run(machine, max_s=0.2)
    assert len(machine.pauses) == 1
    assert samples.throttles == {"thermal (hardware)"}
    assert len(samples.device_ms) == LEAST


def test_one_throttled_burst_marks_the_attempt(run):
    machine = Machine(NOISY, sample_s=0.001, throttles=[set(), {"power cap"}, set(), set(), set(), {"power cap"}])
    samples = run(machine, max_s=0.2)
    assert len(machine.pauses) == 1
    assert samples.throttles == {"power cap"}


def test_each_place_gets_as_many_samples_and_a_first_one_that_is_not_kept(run):
    machine = Machine(NOISY)
    samples = run(machine, max_s=0.2, places=4)
    each = len(samples.device_ms) // 4
    assert each == pytest.approx(0.2 / 4 / 0.001, abs=5)
    start, first = machine.moves[:2]
    assert machine.bursts[: start + 1] == [1, LEAST, 1]  # how long it is, and for the host; the first in this place
    assert sum(machine.bursts[start + 1 : first]) == each
    assert machine.bursts[first:] == [1, each] * 3
    assert machine.moves[2:] == [first + 2, first + 4]
    assert not any(map(math.isnan, samples.device_ms))
    assert samples.places == 4
    assert len(samples.host_ms) == LEAST


def test_what_a_move_returns_is_sampled_there(run):
    """The call itself only before the first move."""
    machine = Machine()
    run(machine, places=3)
    assert len(set(machine.calls)) == 1 + 3
    assert len(set(machine.calls[: machine.moves[0]])) == 1


def test_a_place_gets_the_fewest_samples_at_least(run):
    """However quiet the call, and however long its preparation: the first ones after a move are not the best."""
    machine = Machine(sample_s=0.004)
    assert len(run(machine, places=5, min_samples=10, least=2).device_ms) >= 5 * 10
    machine = Machine(sample_s=1.0)
    assert len(run(machine, places=5, least=7).device_ms) == 5 * 7


def test_a_long_call_stays_where_it_is(run):
    """So do its samples: all the time there is goes to one place."""
    machine = Machine(ms=[2.5], probe_ms=2.5)
    samples = run(machine, places=5)
    assert machine.moves == []
    assert samples.places == 1
    assert len(samples.device_ms) == len(run(Machine(ms=[2.5])).device_ms)


def test_one_throttled_place_repeats_them_all(run):
    machine = Machine(NOISY, throttles=[set(), set(), {"power cap"}])
    samples = run(machine, places=2)
    assert len(machine.pauses) == 1
    assert len(machine.moves) == 4
    assert samples.throttles == set()


def test_one_place_is_the_one_where_the_call_is(run):
    machine = Machine()
    run(machine)
    assert machine.moves == []

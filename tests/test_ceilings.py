"""Ceilings are the best of several routes and sizes, named; routes that are slow or do not work cost no time."""

import json
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from halobench.cases.options import Options
from halobench.machine import ceilings
from halobench.machine.ceilings import Size, fastest, least_s
from halobench.machine.clock import CpuClock
from halobench.measure.engine import Settings
from halobench.measure.run import Run
from halobench.records import floors
from halobench.records.roofline import Ceilings


class Scripted:
    """A clock that takes each call's time from the call itself, in ms, one sample after the other."""

    def burst(self, call, count):
        return SimpleNamespace(device_ms=[call() for _ in range(count)])


def taking(ms):
    return lambda: ms


def test_the_best_size_of_the_best_route_wins():
    routes = [
        iter([Size("small", 10, taking(1.0)), Size("large", 30, taking(2.0))]),
        iter([Size("other", 12, taking(1.0))]),
    ]
    assert fastest(Scripted(), routes) == (pytest.approx(15e3), "large")


def test_the_best_sample_counts():
    samples = iter([9.0, 5.0, 4.0, *[6.0] * 19, 3.0, *[6.0] * 100])
    assert least_s(Scripted(), lambda: next(samples)) == pytest.approx(3e-3)  # of 20 samples the last
    hiccup = iter([400.0, 5.0, *[4.0] * 100])
    assert least_s(Scripted(), lambda: next(hiccup)) == pytest.approx(
        4e-3
    )  # a call that was kept waiting is no slow one
    assert least_s(Scripted(), taking(1e-4)) == pytest.approx(1e-7)


def test_a_slow_route_is_left():
    asked = []

    def size(name, ms):
        return Size(name, 1, lambda: asked.append(name) or ms)

    found = fastest(Scripted(), [iter([size("slow", 5000.0), size("slower", 50000.0)]), iter([size("good", 1.0)])])
    assert found == (pytest.approx(1e3), "good")
    assert asked.count("slow") == 1
    assert "slower" not in asked


def test_a_route_that_this_build_lacks_is_none():
    def refuse():
        raise RuntimeError("the fp16 path needs another processor")

    assert fastest(Scripted(), [iter([Size("none", 1, refuse)])]) is None
    assert fastest(Scripted(), [iter([Size("none", 1, refuse)]), iter([Size("one", 1, taking(1.0))])])[1] == "one"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_ceilings_of_a_cpu(dtype):
    started = time.process_time()
    found = ceilings.measure("cpu", dtype)
    assert time.process_time() - started < 20 * torch.get_num_threads()  # a product in float16 takes minutes here
    assert (found.device, found.dtype) == ("cpu", dtype)
    rates = (found.copy_bytes_per_s, found.matmul_flops_per_s, found.exponentials_per_s)
    assert all(rate > 1e6 for rate in rates)
    assert set(found.routes) == {"bytes", "flops", "exponentials"}
    assert found.raised == {}


@pytest.mark.parametrize(
    "route",
    [
        lambda: ceilings.copies("cpu", cuda=False),
        lambda: ceilings.scalings("cpu", cuda=False),
        lambda: ceilings.products("cpu", torch.float32, cuda=False),
        *[lambda kernel=kernel: ceilings.convolution("cpu", torch.float32, kernel, ((2, 8, 9),)) for kernel in (1, 3)],
        lambda: ceilings.cpu_exponentials(torch.exp),
    ],
)
def test_a_size_does_what_it_says(route):
    """Counted by PyTorch where it counts: FLOPs of products and convolutions; else by what the call returns."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - slow to import

    size = next(route())
    with FlopCounterMode(display=False) as counter:
        result = size.call()
    if counter.get_total_flops():
        assert size.amount == counter.get_total_flops()
    else:
        assert size.amount in (result.numel(), 2 * result.nbytes)
    assert least_s(CpuClock(), size.call) > 0


GIVEN = Ceilings("cpu", "float32", 1e10, 2e11, 3e9, {"bytes": "copy"}, {"flops": {"measured": 1e11, "by": "a"}})


def handed(tmp_path, monkeypatch, found):
    file = tmp_path / "first.json"
    file.write_text(json.dumps({"halobench": {"ceilings": found}}))
    monkeypatch.setenv(ceilings.OF_THE_JOB, str(file))


def test_a_run_takes_over_the_ceilings_of_its_job_and_its_file_says_so(tmp_path, monkeypatch):
    handed(tmp_path, monkeypatch, asdict(GIVEN))
    found = ceilings.of_the_job("cpu", "float32")
    assert found == replace(GIVEN, taken_over=True)
    settled, _ = floors.settled(asdict(found), [])
    assert settled == asdict(found)


def test_without_a_job_there_is_nothing_to_take_over(monkeypatch):
    monkeypatch.delenv(ceilings.OF_THE_JOB, raising=False)
    assert ceilings.of_the_job("cpu", "float32") is None
    assert not GIVEN.taken_over


@pytest.mark.parametrize("found", [None, {}, asdict(GIVEN) | {"dtype": "float16"}, asdict(GIVEN) | {"device": "cuda"}])
def test_ceilings_of_something_else_are_refused_before_a_worker_starts(tmp_path, monkeypatch, found):
    handed(tmp_path, monkeypatch, found)
    options = Options("smoke", ("sdpa",), "cpu", "float32")
    with pytest.raises(RuntimeError, match=r"HALOBENCH_CEILINGS: '.*first.json' has no ceilings of cpu in float32"):
        Run(Settings("cpu"), options, None)


@pytest.mark.parametrize("content", [None, "", "[]", '{"benchmarks": []}'])
def test_a_file_without_ceilings_is_refused(tmp_path, monkeypatch, content):
    file = tmp_path / "first.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(ceilings.OF_THE_JOB, str(file))
    with pytest.raises(RuntimeError, match=r"HALOBENCH_CEILINGS: '.*first.json' is no results file"):
        ceilings.of_the_job("cpu", "float32")

"""Comparing files of other benchmarks: pytest-benchmark's own, written here by it, and NVBench's."""

import json
import subprocess
import sys

import numpy as np
import pytest

from halobench.compare.__main__ import main
from halobench.compare.outcome import Exit

SUITE = """
import pytest
@pytest.mark.parametrize("size", [10, 20])
def test_sum(benchmark, size):
    benchmark.pedantic(lambda: sum(range(1000 * size)), rounds=30)
"""


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """What real pytest-benchmark writes of somebody's suite: with raw samples, and saved without them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_theirs.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-json=base.json", "--benchmark-save=first"]
    subprocess.run(command, check=True, capture_output=True, timeout=90)
    (saved,) = tmp_path.rglob("0001_first.json")
    return tmp_path / "base.json", saved


def slowed(path, to, factor, start="test_theirs.py::test_sum[20]"):
    document = json.loads(path.read_text())
    for each in document["benchmarks"]:
        times = factor if each["fullname"] == start else 1.0001
        each["stats"]["median"] *= times
        if "data" in each["stats"]:
            each["stats"]["data"] = [sample * times for sample in each["stats"]["data"]]
    to.write_text(json.dumps(document))
    return str(to)


def test_pytest_benchmarks_files_are_compared_by_name(tmp_path, measured, capsys):
    base, saved = measured
    assert main([str(base), slowed(base, tmp_path / "head.json", 3.0)]) == Exit.REGRESSION
    said = capsys.readouterr().out
    assert "test_theirs.py::test_sum[20]" in said
    assert "1 regression (1 SLOWER" in said
    assert "base.json is pytest-benchmark's: no clocks, memory or FLOPs are compared" in said
    assert main([str(base), slowed(base, tmp_path / "same.json", 1.0001)]) == Exit.FINE
    capsys.readouterr()
    assert main([str(saved), slowed(saved, tmp_path / "other.json", 3.0)]) == Exit.FINE  # nothing can be shown
    said = capsys.readouterr().out
    assert "no raw samples are in it" in said
    assert "2 AMBIGUOUS" in said


def test_medians_of_enough_files_are_judged(tmp_path, measured):
    _, saved = measured
    for side, factor in (("base", 1.0), ("head", 3.0)):
        (tmp_path / side).mkdir()
        for number in range(8):
            slowed(saved, tmp_path / side / f"{number}.json", factor * (1 + number / 1000))
    settings = tmp_path / "pyproject.toml"
    settings.write_text("[tool.halobench.compare]\ngated_from_us = 0\n")
    assert main([str(tmp_path / "base"), str(tmp_path / "head")]) == Exit.REGRESSION


def nvbench(folder, factor, *, binary):
    """A file in NVBench's format 1.0.0: numbers are text, samples lie in a folder beside it."""
    folder.mkdir()
    states = []
    for number, middle in enumerate((1e-3, 2e-3)):
        times = (
            middle
            * (factor if number else 1)
            * np.random.default_rng([number, round(10 * factor)]).normal(1, 0.001, 50)
        )
        value = {"name": "value", "type": "float64", "value": str(float(np.median(times)))}
        summaries = [{"tag": "nv/cold/time/gpu/median", "name": "Median GPU Time", "hint": "duration", "data": [value]}]
        if binary:
            (folder / "run.json-bin").mkdir(exist_ok=True)
            times.astype("<f4").tofile(folder / "run.json-bin" / f"{number}.bin")
            data = [
                {"name": "filename", "type": "string", "value": f"run.json-bin/{number}.bin"},
                {"name": "size", "type": "int64", "value": "50"},
            ]
            summaries.append({"tag": "nv/json/bin:nv/cold/sample_times", "hint": "file/sample_times", "data": data})
        states.append({"name": f"Device=0 N={number}", "summaries": summaries, "is_skipped": False})
    states.append({"name": "Device=0 N=9", "summaries": None, "is_skipped": True, "skip_reason": "too large"})
    document = {
        "meta": {"argv": ["bench"], "version": {"json": {"major": 1, "minor": 0, "patch": 0, "string": "1.0.0"}}},
        "devices": [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}],
        "benchmarks": [{"name": "copy", "index": 0, "axes": [], "states": states}],
    }
    (folder / "run.json").write_text(json.dumps(document))
    return str(folder / "run.json")


@pytest.mark.parametrize(("binary", "status"), [(True, Exit.REGRESSION), (False, Exit.FINE)])
def test_nvbenchs_files_are_compared(tmp_path, monkeypatch, capsys, binary, status):
    monkeypatch.chdir(tmp_path)
    base, head = (nvbench(tmp_path / name, factor, binary=binary) for name, factor in (("a", 1.0), ("b", 1.2)))
    assert main([base, head]) == status
    said = capsys.readouterr().out
    assert "copy[Device=0 N=1]" in said
    assert ("no raw samples are beside it" in said) is not binary


def test_a_case_that_stands_twice_and_a_time_that_is_none_are_refused(tmp_path, measured, capsys):
    base, _ = measured
    document = json.loads(base.read_text())
    twice = json.loads(base.read_text())
    twice["benchmarks"].append(twice["benchmarks"][0])
    document["benchmarks"][0]["stats"]["data"][0] = -1.0
    for spoilt, message in ((twice, "stands in it twice"), (document, "finite numbers above 0")):
        (tmp_path / "bad.json").write_text(json.dumps(spoilt))
        assert main([str(base), str(tmp_path / "bad.json")]) == Exit.UNUSABLE
        said = capsys.readouterr().err
        assert message in said
        assert said.count("bad.json") == 1

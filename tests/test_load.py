"""Who else was at work while something was measured: a burning process is seen, and its rows bear it everywhere."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from halobench.compare.__main__ import main as compare
from halobench.compare.outcome import Exit
from halobench.compare.sides import Repeated
from halobench.doctor import load as load_finding
from halobench.figures.selection import selections
from halobench.figures.summary import write
from halobench.machine import load
from halobench.machine.load import DISTURBED, Load, Moment, Watch, judged, watch
from halobench.records import table as results
from halobench.report.page import page
from tests import results_files as files

QUIET = Load(0.5, 4.0, 0.0, 0.0, 0.0, 2600.0, None, None, None, None)


def seen(**changes):
    return Load(**asdict(QUIET) | changes)


@pytest.mark.parametrize(
    ("changes", "wanted", "said"),
    [
        ({}, 4, None),
        ({"others_cores": 0.19}, 4, None),  # less than the threshold
        ({"others_cores": 0.21}, 4, "others kept 0.2 cores busy"),
        ({"others_cores": 1.9}, 2, None),  # on cores that nobody wanted
        ({"others_cores": 2.2}, 2, "others kept 2.2 cores busy"),
        ({"stolen_cores": 1.0}, 4, "the host took 1.0 cores for other guests"),
        ({"throttled_cores": 0.5}, 4, "a quota held back 0.5 cores"),
        ({"gpu_processes": 0}, 1, None),
        ({"gpu_processes": 1, "gpu_share": 0.0}, 1, None),  # it only holds memory
        ({"gpu_processes": 1, "gpu_share": 0.4}, 1, "1 other processes used the GPU, 40% of its time"),
        ({"gpu_processes": 2}, 1, "2 other processes used the GPU, how much is unknown"),
        ({"others_cores": 4.0, "stolen_cores": 1.0}, 4,
         "others kept 4.0 cores busy; the host took 1.0 cores for other guests"),
    ],
)  # fmt: skip
def test_what_disturbs(changes, wanted, said):
    found = judged(seen(**changes), wanted, 4.0)
    assert (found.disturbed, found.by) == (said is not None, said)


def test_what_is_unknown_is_null():
    unknown = seen(others_cores=None, stolen_cores=None, throttled_cores=None, average=None)
    assert judged(unknown, 4, 4.0).disturbed is None
    assert judged(seen(others_cores=None, stolen_cores=2.0), 4, 4.0).disturbed is True
    assert unknown.said == "unknown load on 4 cores"


def test_counts_become_cores(monkeypatch):
    """Ten seconds on two processors: this process had 6 s, others 5 s less two ticks, the host took 2 s."""
    moments = iter(
        [Moment(0.0, 1.0, 100.0, 7.0, 0.5), Moment(0.0, 1.0, 100.0, 7.0, 0.5), Moment(10.0, 7.0, 111.0, 9.0, 1.5)]
    )
    monkeypatch.setattr(load, "moment", lambda: next(moments))
    monkeypatch.setattr(load, "processors", lambda: [0, 1])
    with Watch("cpu") as found:
        pass
    tick = 2 / os.sysconf("SC_CLK_TCK")
    assert found.load.others_cores == pytest.approx((5.0 - tick) / 10)
    assert (found.load.stolen_cores, found.load.throttled_cores) == pytest.approx((0.2, 0.1))


def test_in_too_short_a_time_nobody_can_say():
    assert Watch("cpu").read().others_cores is None


def test_others_on_the_gpu(monkeypatch):
    asked = []
    gpu = SimpleNamespace(processes=[os.getpid(), 4242], used_by_others=lambda *given: asked.append(given) or 0.3)
    monkeypatch.setattr(load, "gpu", lambda: gpu)
    watching = Watch("cuda")
    assert watching.wanted == 1
    assert watching.on_the_gpu() == (1, 0.3)
    assert asked == [(os.getpid(), watching.since_us)]
    gpu.processes = [1, 2, 3]  # of another namespace
    assert watching.on_the_gpu() == (2, None)
    gpu.processes = None
    assert watching.on_the_gpu() == (None, None)


BURN = "import time; print(flush=True); end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@pytest.fixture
def burners():
    """As many busy processes as there are processors."""
    started = [
        subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) for _ in range(len(load.processors()))
    ]
    for process in started:
        process.stdout.readline()
    yield
    for process in started:
        process.kill()
        process.communicate()


def test_busy_processes_are_seen(burners):
    found = watch("cpu", 0.5)
    assert found.others_cores > 0.5 * len(load.processors())
    assert found.disturbed
    assert "others kept " in found.by
    assert load_finding().state == "limited"


def test_own_work_is_not_others():
    begun, until = Watch("cpu"), time.monotonic() + 0.5
    own = time.process_time()
    while time.monotonic() < until:
        torch.ones(64, 64).sum()
    others, own = begun.read().others_cores, time.process_time() - own
    total = others + own / 0.5
    assert total < len(load.processors()) + 0.1  # what this process did is in no other's count


def under_load(row, average=4.6):
    return row | {"load": asdict(judged(seen(average=average, cores=2.0, others_cores=1.8), 2, 2.0))}


def test_rows_and_tables_bear_it(tmp_path):
    rows = [
        under_load(files.row("sdpa")),
        files.row("conv") | {"load": asdict(judged(QUIET, 4, 4.0))},
        files.row("flex"),
    ]
    found = results.read(files.write(tmp_path / "mine.json", rows))
    table = found.table.set_index("backend")
    assert (table.loc["sdpa", "load_average"], table.loc["sdpa", "others_cores"]) == (4.6, 1.8)
    assert list(table["disturbed"].fillna(value=False)) == [True, False, False]
    assert table["disturbed"].isna()["flex"]  # of a file from before: unknown
    (one,) = selections(found)
    write(found, [one], [], tmp_path)
    said = "1 of 3 times were measured while something else was at work: they are too long"
    assert said in (tmp_path / "summary.md").read_text()
    assert "OK, others kept 1.8 cores busy" in (tmp_path / "summary.md").read_text()
    assert "disturbed" in (tmp_path / "summary.csv").read_text().splitlines()[0]
    assert said in page(found)
    assert "1 measured under load" in one.footer(one.table)


def test_a_quiet_run_says_nothing(tmp_path):
    (one,) = selections(results.read(files.write(tmp_path / "mine.json", [files.row("sdpa")])))
    assert "under load" not in one.footer(one.table)
    assert one.doubts == []


def slower(row, factor=10.0):
    return row | {"samples_ms": [factor * ms for ms in row["samples_ms"] * 10]}


def verdict(tmp_path, capsys, base, head):
    for name, rows in (("base", base), ("head", head)):
        files.write(tmp_path / f"{name}.json", rows)
    status = compare([str(tmp_path / "base.json"), str(tmp_path / "head.json"), "--json", str(tmp_path / "out.json")])
    return status, json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_comparison_under_load_is_inconclusive(tmp_path, capsys, side):
    pair = {"base": [slower(files.row("sdpa"), 1.0)], "head": [slower(files.row("sdpa"))]}
    pair[side] = [under_load(row) for row in pair[side]]
    status, told, said = verdict(tmp_path, capsys, **pair)
    assert status == Exit.INCONCLUSIVE
    assert f"inconclusive: {side} was measured under load 4.6 on 2 cores (others kept 1.8 cores busy)" in said
    assert told["cases"][0]["verdict"] == "DISTURBED"
    assert not told["cases"][0]["regressed"]


def test_what_was_not_disturbed_still_regresses(tmp_path, capsys):
    base = [slower(files.row(name), 1.0) for name in ("sdpa", "flex")]
    head = [slower(files.row("sdpa")), under_load(slower(files.row("flex")))]
    status, told, _ = verdict(tmp_path, capsys, base, head)
    assert status == Exit.REGRESSION
    assert {case["verdict"] for case in told["cases"]} == {"SLOWER", "DISTURBED"}


def test_memory_does_not_depend_on_load(tmp_path, capsys):
    base, head = slower(files.row("sdpa"), 1.0), under_load(slower(files.row("sdpa"), 1.001))
    head["memory"] = {"peak_bytes": 2 * base["memory"]["peak_bytes"]}
    status, told, _ = verdict(tmp_path, capsys, [base], [head])
    assert (status, told["cases"][0]["verdict"]) == (Exit.REGRESSION, "LARGER")


@pytest.mark.parametrize(("runs", "disturbed", "expected"), [(1, 1, True), (2, 1, True), (3, 1, False), (8, 4, True)])
def test_a_median_over_runs_stands_on_the_quiet_ones_while_they_are_most(runs, disturbed, expected):
    side = Repeated(samples_ms=[(1.0,)] * runs, disturbed=["load 4.6 on 2 cores"] * disturbed)
    assert (side.under_load is not None) == expected


def test_the_threshold_is_what_two_processes_differ_by():
    from halobench.compare.settings import Settings  # noqa: PLC0415 - what it must agree with

    assert Settings().between_runs_percent / 100 == DISTURBED

"""The calibration: planted delays are really there, processes are fresh and go on, and the judgement counts right."""

import json
import random
from statistics import median

import pytest
import torch

from halobench.calibrate import campaign, judgement, rehearsal
from halobench.calibrate.__main__ import main
from halobench.calibrate.campaign import LEVELS, PLAIN, Campaign, CampaignError
from halobench.calibrate.planted import Delay, delay_of, delayed
from halobench.calibrate.process import Plan
from halobench.compare.settings import Settings
from halobench.machine.clock import clock_for

PLAN = Plan("cpu", ("conv",), (16,), 1)
QUIET, NOISY, SHORT = "calibration/a/quiet", "calibration/b/noisy", "calibration/c/short"


def test_a_delay_lasts_at_least_as_long_as_asked(device):
    """A spinning kernel on a GPU, a busy host on a CPU: the measured call really takes longer."""
    clock = clock_for(device)
    number = torch.zeros(1000, device=device)
    delay = delay_of(device, clock)
    plain = median(clock.burst(lambda: number.add_(1), 50).device_ms)
    slow = median(clock.burst(delayed(lambda: number.add_(1), delay.amount(2.0), device), 50).device_ms)
    assert slow - plain > 1.9


def test_no_delay_leaves_the_call_alone_and_its_result_is_handed_on():
    def call():
        return 7

    assert delayed(call, None, "cpu") is call
    assert delayed(call, 0.01, "cpu")() == 7


def test_a_delay_that_cannot_be_had_so_short_is_not_planted():
    delay = Delay(least_ms=0.002, per_ms=1e6)
    assert delay.amount(0.001) is None
    assert delay.amount(0.003) == pytest.approx(1000)


def test_levels_are_mixed_and_always_alike():
    order = campaign.levels(60, 20)
    assert [order.count(level) for level in (PLAIN, *LEVELS)] == [60, 20, 20, 20]
    assert order == campaign.levels(60, 20)
    assert all(set(order[start : start + 60]) == {PLAIN, *LEVELS} for start in (0, 60))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A calibration of a few real processes."""
    path = tmp_path_factory.mktemp("calibration") / "run.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "PILOTS", 1)
        campaign.measure(path, PLAN, [PLAIN, 0.1], print)
    return path


def test_every_process_adds_a_line_with_all_cases(measured):
    found = campaign.finished(measured)
    names = {case.name for case in PLAN.cases()}
    assert [process["level"] for process in found.processes] == [PLAIN, 0.1]
    assert all(set(process["cases"]) == names for process in found.processes)
    assert all(len(row["samples_ms"]) <= 25 for process in found.processes for row in process["cases"].values())
    for level in LEVELS:
        assert set(found.header["amounts"][str(level)]) == names
    assert found.header["fingerprint"]["torch"] == torch.__version__


def test_a_killed_calibration_goes_on_after_its_last_whole_line(measured, tmp_path):
    """With nothing to do, no process starts: what is there stays, the line that was cut short goes."""
    lines = measured.read_text().splitlines(keepends=True)
    killed = tmp_path / "killed.jsonl"
    killed.write_text("".join(lines) + lines[-1][:20])
    said = []
    campaign.measure(killed, PLAN, [PLAIN, 0.1], said.append)
    assert killed.read_text() == measured.read_text()
    assert said == []
    with pytest.raises(CampaignError, match="another plan"):
        campaign.measure(killed, PLAN, [PLAIN], said.append)


def test_a_process_that_dies_ends_the_calibration_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "PILOTS", 1)
    with pytest.raises(CampaignError, match="ended with 1"):
        campaign.measure(tmp_path / "run.jsonl", Plan("cpu", ("nothing",), (16,), 1), [PLAIN], print)


def invented(*, short_ms=0.01, level_of=lambda level: level):
    """A calibration of 60 + 3 x 20 processes: one quiet case, one noisy, one short, slowed as planted."""
    source = random.Random(0)
    true = {QUIET: (1.0, 0.002), NOISY: (1.0, 0.08), SHORT: (short_ms, 0.002)}
    processes = []
    for level in campaign.levels(60, 20):
        cases = {}
        for name, (ms, noise) in true.items():
            middle = ms * (1 + level_of(level)) * source.gauss(1, noise)
            samples = [middle * source.gauss(1, 0.002) for _ in range(10)]
            cases[name] = {"ms": middle, "mhz": 1980, "samples_ms": samples}
        processes.append({"level": level, "cases": cases})
    amounts = {str(level): dict.fromkeys(true, 1.0) for level in LEVELS}
    amounts["0.02"][SHORT] = None
    header = {"plan": {}, "order": [process["level"] for process in processes], "fingerprint": {}, "amounts": amounts}
    return Campaign(header, processes)


@pytest.fixture(scope="module")
def judged():
    """The judgement of an invented calibration, from fewer draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judgement, "DRAWS", 20)
        return judgement.judge(invented(), Settings())


def test_a_quiet_case_is_gated_and_every_planted_slowdown_in_it_found(judged):
    for name in ("ab", "compare, folders in turns", "compare, folders one after the other"):
        case = judged["cases"][QUIET]["protocols"][name]
        assert case["false_alarms"] == 0
        assert set(case["found"].values()) == {1.0}
        assert judged["protocols"][name]["found"] == {"0.02": 1.0, "0.05": 1.0, "0.1": 1.0}
    assert judged["cases"][QUIET]["planted_percent"]["0.05"] == pytest.approx(5, abs=0.3)


def test_single_files_cannot_show_small_slowdowns(judged):
    found = judged["cases"][QUIET]["protocols"]["compare, single files"]["found"]
    assert found["0.02"] == 0
    assert found["0.1"] == 1


def test_a_noisy_case_is_said_to_be_too_noisy_and_a_short_one_stands_apart(judged):
    assert judged["too_noisy"] == [NOISY]
    assert NOISY in judged["cases"][NOISY]["advisory"]
    assert "shorter" in judged["cases"][SHORT]["advisory"]
    assert judged["protocols"]["ab"]["found_in_short_cases"]["0.02"] is None
    assert "0.02" not in judged["cases"][SHORT]["planted_percent"]
    assert judged["protocols"]["ab"]["found_in_short_cases"]["0.1"] == 1.0


def test_what_was_not_planted_is_not_found(monkeypatch):
    """The judgement reads measurements, not labels: processes that say 10 % and took no longer show nothing."""
    monkeypatch.setattr(judgement, "DRAWS", 5)
    judged = judgement.judge(invented(level_of=lambda _: 0.0), Settings())
    assert set(judged["cases"][QUIET]["protocols"]["ab"]["found"].values()) == {0.0}


def test_groups_are_disjoint():
    processes = [{"number": number} for number in range(12)]
    groups = list(rehearsal.dealt(processes, (3, 4, 5), random.Random(1)))
    assert sorted(process["number"] for group in groups for process in group) == list(range(12))


def test_too_few_processes_are_refused_before_anything_is_measured(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    assert main(["measure", str(path), "--backends", "conv", "--device", "cpu", "--plain", "5"]) == 2
    assert "needed are 48 plain processes and 16" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("content", [None, "", "{}\n", "[1]\n", "no JSON\n"])
def test_what_is_no_calibration_is_refused(tmp_path, capsys, content):
    path = tmp_path / "run.jsonl"
    if content is not None:
        path.write_text(content)
    assert main(["judge", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_backend_is_refused(tmp_path, capsys):
    assert main(["measure", str(tmp_path / "run.jsonl"), "--backends", "nobody", "--device", "cpu"]) == 2
    assert "'nobody'" in capsys.readouterr().err


def test_the_command_shows_and_writes_the_judgement(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(judgement, "DRAWS", 2)
    monkeypatch.chdir(tmp_path)
    whole = invented()
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (whole.header, *whole.processes)))
    assert main(["judge", str(path), "--output", "out.json"]) == 0
    said = capsys.readouterr().out
    assert "too noisy" in said
    assert "compare, single files" in said
    assert json.loads((tmp_path / "out.json").read_text())["too_noisy"] == [NOISY]

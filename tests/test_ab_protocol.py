"""Measuring in turns: the order, suspects, and how long they are measured again."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from halobench.ab import protocol
from halobench.ab.__main__ import ab
from halobench.ab.display import Display
from halobench.ab.protocol import BASE, CONTROL, HEAD, STREAMS, Stage
from halobench.ab.worktrees import Checkout
from halobench.compare.settings import Settings
from halobench.compare.sides import Repeated
from halobench.compare.verdict import Verdict
from tests import results_files
from tests.compared_runs import failing, times


@pytest.mark.parametrize("rounds", [2, 4, 6, 8])
def test_a_steady_drift_adds_the_same_to_each_stream(rounds):
    places = {stream: [] for stream in STREAMS}
    for place, (_, stream) in enumerate(protocol.order(range(rounds))):
        places[stream].append(place)
    assert {sum(found) for found in places.values()} == {sum(range(3 * rounds)) / 3}


def test_each_stream_stands_in_every_place_equally_often():
    stood = Counter((stream, place % 3) for place, (_, stream) in enumerate(protocol.order(range(6))))
    assert set(stood.values()) == {2}


def test_streams_are_measured_where_they_belong(tmp_path):
    calls = []

    def measure(folder, output, cases=()):
        calls.append((folder, output.parent.name, tuple(cases)))
        output.parent.mkdir(parents=True, exist_ok=True)
        rows = [results_files.row()]
        rows[0]["samples_ms"] = [random.random() for _ in range(5)]
        results_files.write(output, rows)

    folders = {BASE: Path("b"), HEAD: Path("h"), CONTROL: Path("b")}
    found = protocol.measure_rounds(measure, folders, tmp_path / "stage", range(2), lambda _: None, ["id"])
    assert [side.runs for side in found.values()] == [2, 2, 2]
    assert {(folder, stream) for folder, stream, _ in calls} == {(folders[stream], stream) for stream in STREAMS}
    assert {cases for *_, cases in calls} == {("id",)}


def test_suspects_are_those_of_the_head_and_of_the_control():
    base, same = ({name: times(seed) for name in "abc"} for seed in (1, 2))
    stage = Stage(base, {**same, "a": times(3, 1.02)}, {**same, "b": times(4, 0.98)})
    assert protocol.suspects(stage, Settings()) == ["a", "b"]
    assert protocol.suspects(stage, Settings(threshold_percent=5.0)) == []


def test_a_suspect_is_judged_by_its_confirmation_alone():
    """Unlucky in the screening, as usual in the confirmation: the same, whatever the screening said."""
    screening = Stage({"a": times(1, runs=4)}, {"a": times(2, 1.05, runs=4)}, {"a": times(3, runs=4)})
    confirmation = Stage({"a": times(4)}, {"a": times(5)}, {"a": times(6)})
    (head,), (control,) = protocol.verdicts(screening, confirmation, Settings())
    assert (head.verdict, control.verdict) == (Verdict.SAME, Verdict.SAME)
    (head,), _ = protocol.verdicts(
        screening, Stage({"a": times(4)}, {"a": times(5, 1.05)}, {"a": times(6)}), Settings()
    )
    assert head.verdict is Verdict.SLOWER


def test_a_failure_in_the_screening_stays_one():
    """It has no time to confirm."""
    failed = failing("CRASHED")
    screening = Stage({"a": times(1), "b": times(2)}, {"a": failed, "b": times(3)}, {"a": times(4), "b": times(5)})
    confirmation = Stage({"a": times(6)}, {"a": times(7)}, {"a": times(8)})
    head, _ = protocol.verdicts(screening, confirmation, Settings())
    assert [case.verdict for case in head] == [Verdict.FAILED, Verdict.SAME]


def invented(speeds, seed=0):
    """Measures cases of 1 ms, which take a stream so many times as long, without a process; and what it measured."""
    source, calls = random.Random(seed), []

    def measure(folder, output, cases=()):
        number, stream = int(output.stem), output.parent.name
        calls.append((number, stream, tuple(cases)))
        output.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for name in cases or speeds:
            factor = speeds[name].get(stream, 1.0)
            median = source.gauss(1, speeds[name].get("spread", 0.001)) * factor
            samples = [median * source.gauss(1, 1e-4) for _ in range(5)]
            rows.append({**results_files.row(), "case": name, "samples_ms": samples})
        results_files.write(output, rows)

    return measure, calls


def measured_rounds(calls, name):
    return len({number for number, _, cases in calls if name in cases})


@pytest.mark.parametrize("seed", range(5))
def test_a_suspect_is_measured_as_long_as_that_may_decide_something(tmp_path, seed):
    """What leans to the end, what was bad luck for four rounds; all suspects stand in the verdict."""
    speeds = {"slow": {HEAD: 1.03}, "fast": {HEAD: 0.97}, "unsteady": {CONTROL: 1.05}, "same": {}, "twitchy": {}}
    speeds["twitchy"]["spread"] = 0.004  # within the threshold, in the middle of some runs
    measure, calls = invented(speeds, seed)
    folders = dict.fromkeys(STREAMS, tmp_path)
    started = []
    stage = protocol.confirm(
        measure, folders, tmp_path / "c", {name: name for name in speeds}, Settings(), started.append
    )
    rounds = {name: measured_rounds(calls, name) for name in speeds}
    assert [rounds[name] for name in ("slow", "fast", "unsteady", "same")] == [12, 12, 12, 4]
    assert rounds["twitchy"] < 12
    assert started == [stream for _, stream, _ in calls]
    assert [number for number, _, _ in calls] == sorted(number for number, _, _ in calls)
    assert {name: len(case.samples_ms) for name, case in stage.head.items()} == rounds
    head, control = protocol.verdicts(stage, stage, Settings())
    verdicts = {case.case: case.verdict for case in head}
    assert verdicts.pop("twitchy") in (Verdict.SAME, Verdict.AMBIGUOUS)
    assert verdicts == {
        "slow": Verdict.SLOWER,
        "fast": Verdict.FASTER,
        **dict.fromkeys(("unsteady", "same"), Verdict.SAME),
    }
    assert [case.case for case in control if case.verdict is Verdict.SLOWER] == ["unsteady"]


def test_no_process_runs_once_no_suspect_is_left(tmp_path):
    measure, calls = invented({"a": {}, "b": {}})
    protocol.confirm(
        measure, dict.fromkeys(STREAMS, tmp_path), tmp_path / "c", {"a": "a", "b": "b"}, Settings(), lambda _: None
    )
    assert len(calls) == 3 * protocol.LOOK_AFTER


def of(*medians_ms):
    return Repeated(samples_ms=[(each,) for each in medians_ms])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((1.02, 1.03, 1.02, 1.03), True),
        ((0.97, 0.98, 0.97, 0.98), True),
        ((1.005, 1.005, 1.005, 1.005), False),  # slower in every pair, and by less than what counts
        ((1.5, 0.7, 1.5, 0.7), False),  # noise beyond all thresholds
        ((1.5, 1.5, 1.5, 0.7), True),  # three of four
        ((1.5, 1.5, 1.0, 0.7), False),
    ],
)
def test_a_side_leans_where_it_is_beyond_the_threshold_and_pairs_of_runs_agree(other, expected):
    assert protocol.leans(of(1.0, 1.001, 0.999, 1.0), of(*other), 0.01) is expected


def test_a_suspect_that_fails_when_it_is_measured_again_is_not_waited_for():
    failed = failing("CRASHED")
    assert not protocol.undecided("a", Stage({"a": times(1)}, {"a": failed}, {"a": times(2)}), Settings())
    assert not protocol.undecided("a", Stage({"a": failed}, {"a": times(1)}, {"a": times(2)}), Settings())
    assert protocol.undecided("a", Stage({"a": times(1)}, {"a": failed}, {"a": times(2, 1.1)}), Settings())


def test_nothing_is_confirmed_of_cases_that_cannot_fail_the_gate(tmp_path):
    """A case under 50 us that looks slower is reported from the screening, and costs no process more."""
    speeds = {"short": {HEAD: 1.2}, "chosen": {HEAD: 1.2}, "same": {}}
    measure, calls = invented({name: {**own, "spread": 1e-4} for name, own in speeds.items()})
    settings = Settings(advisory=("chosen",))
    sides = [Checkout(name, "0" * 40, tmp_path) for name in ("base", "head")]

    def shorter(folder, output, cases=()):
        measure(folder, output, cases)
        document = json.loads(output.read_text())
        for one in document["benchmarks"]:
            if one["extra_info"]["halobench"]["case"] == "short":
                one["stats"]["data"] = [sample / 25 for sample in one["stats"]["data"]]
        output.write_text(json.dumps(document))

    with Display() as shown:
        outcome = ab(*sides, shorter, tmp_path / "results", settings, shown)
    assert len(calls) == 3 * protocol.SCREENING_ROUNDS
    assert outcome.status == 0
    assert "measured in the screening alone, where they looked changed: 2 advisory cases" in outcome.notes


@pytest.mark.parametrize(("disturbed", "expected"), [(5, True), (6, False)])
def test_a_suspect_that_will_be_disturbed_whatever_follows_is_dropped(disturbed, expected):
    """Six of twelve runs of the base; its head is far off."""
    base = times(1, runs=6)
    base.disturbed = ["load 4.0 on 2 cores"] * disturbed
    stage = Stage({"a": base}, {"a": times(2, 2.0, runs=6)}, {"a": times(3, runs=6)})
    assert protocol.undecided("a", stage, Settings()) is expected
    (judged,), _ = protocol.verdicts(stage, stage, Settings())
    assert judged.verdict is Verdict.DISTURBED


@pytest.mark.parametrize(("quiet_runs", "processes"), [(0, 0), (1, 18)])
def test_what_a_busy_machine_spoils_is_not_measured_again(tmp_path, quiet_runs, processes):
    """As long as every run of the base is disturbed, further ones would be; what was measured is inconclusive.

    Else the suspect is measured again until six of twelve runs are disturbed.
    """
    measure, calls = invented({"a": {HEAD: 1.3, "spread": 1e-4}})
    sides = [Checkout(name, "0" * 40, tmp_path) for name in ("base", "head")]
    busy = {"average": 4.0, "cores": 2, "disturbed": True, "by": "others kept 1.3 cores busy"}

    def disturbed(folder, output, cases=()):
        measure(folder, output, [case.rpartition("::")[2] for case in cases])
        document = json.loads(output.read_text())
        if "screening" not in output.parts or int(output.stem) >= quiet_runs:
            document["benchmarks"][0]["extra_info"]["halobench"]["load"] = busy
        output.write_text(json.dumps(document))

    with Display() as shown:
        outcome = ab(*sides, disturbed, tmp_path / "results", Settings(), shown)
    assert len(calls) - 3 * protocol.SCREENING_ROUNDS == processes
    assert outcome.status == 3
    said = "measured in the screening alone, where they looked changed and every run of the base was disturbed: 1 case"
    assert (said in outcome.notes) == (not processes)

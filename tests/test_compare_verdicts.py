"""Verdicts on cases of two sides: time, memory, FLOPs and failures, of operators and networks, and all together."""

import pytest

from halobench.compare import sides
from halobench.compare.__main__ import compare
from halobench.compare.outcome import Exit
from halobench.compare.settings import Settings
from halobench.compare.verdict import Judged, Verdict, judge
from tests import results_files
from tests.compared_runs import SLOW, SLOW_NETWORK, case_of, failing, judged, mixed, networks, outcome, rows, times


def test_the_same_code_is_the_same(tmp_path):
    assert {case.verdict for case in judged(tmp_path)} == {Verdict.SAME}


@pytest.mark.parametrize(("factor", "verdict"), [(1.03, Verdict.SLOWER), (0.97, Verdict.FASTER), (1.005, Verdict.SAME)])
def test_a_change_beyond_the_threshold_is_found_in_its_case_alone(tmp_path, factor, verdict):
    found = judged(tmp_path, head={"factor": factor})
    assert case_of(found).verdict is verdict
    assert all(case.verdict is Verdict.SAME for case in found if not case.case.startswith(SLOW))


def test_a_longer_time_at_a_lower_clock_is_no_slowdown_of_the_code(tmp_path):
    """All cases take 3 % longer, at a clock that is 3 % lower: the same number of cycles."""
    found = judged(tmp_path, head={"slow": "operator/", "factor": 1.03, "mhz": 1980 / 1.03})
    assert {case.verdict for case in found} == {Verdict.AMBIGUOUS}
    assert all("clock" in case.reason for case in found)


def test_a_threshold_of_its_own_excuses_a_case(tmp_path):
    chosen = Settings(cases={"operator/*": 2.0, "operator/sdpa/*": 10.0})
    found = judged(tmp_path, head={"factor": 1.05}, chosen=chosen)
    assert case_of(found).verdict is Verdict.SAME
    assert case_of(found).threshold == pytest.approx(0.1)


def test_a_difference_below_the_absolute_floor_does_not_count(tmp_path):
    chosen = Settings(threshold_us=1e6)
    assert case_of(judged(tmp_path, head={"factor": 1.5}, chosen=chosen)).verdict is Verdict.SAME


@pytest.mark.parametrize("chosen", [Settings(gated_from_us=1e9), Settings(advisory=("operator/sdpa/*",))])
def test_advisory_cases_are_reported_and_do_not_fail(tmp_path, chosen):
    case = case_of(judged(tmp_path, head={"factor": 1.05}, chosen=chosen))
    assert case.verdict is Verdict.SLOWER
    assert case.advisory
    assert not case.regressed


@pytest.mark.parametrize(
    ("base", "head", "verdict", "regressed"),
    [
        (times(1), failing("OOM"), Verdict.FAILED, True),
        (times(1), None, Verdict.MISSING, False),
        (None, times(1), Verdict.NEW, False),
        (failing("OOM"), times(1), Verdict.NEW, False),
        (None, failing("UNSUPPORTED"), Verdict.NEW, False),
        (None, failing("INCORRECT"), Verdict.FAILED, True),
        (failing("UNSUPPORTED"), failing("CRASHED"), Verdict.FAILED, True),
        (failing("UNSUPPORTED"), failing("OOM"), Verdict.SAME, False),
        (failing("CRASHED"), failing("CRASHED"), Verdict.SAME, False),
    ],
)
def test_cases_without_a_time_on_both_sides(base, head, verdict, regressed):
    pair = [{"case": side} if side else {} for side in (base, head)]
    (case,) = judge(*pair, Settings())
    assert (case.verdict, case.regressed) == (verdict, regressed)


def test_a_failure_in_one_run_of_the_head_is_a_failure():
    flaky = times(2)
    flaky.failures.append(("CRASHED", "signal 11"))
    (case,) = judge({"case": times(1)}, {"case": flaky}, Settings())
    assert case.verdict is Verdict.FAILED


@pytest.mark.parametrize(("share", "grown"), [(1.0005, False), (1.002, True)])
def test_memory_may_grow_by_its_tolerance(tmp_path, share, grown):
    def change(row):
        row["memory"]["peak_bytes"] *= share

    found = judged(tmp_path, head={"change": change})
    assert [bool(case.grown) for case in found] == [grown] * len(found)
    assert {case.verdict for case in found} == {Verdict.LARGER if grown else Verdict.SAME}
    assert [case.regressed for case in found] == [grown] * len(found)


def test_one_more_flop_is_a_regression_and_one_less_is_not(tmp_path):
    def change(row):
        row["cost"]["executed_flops"] += 1e-3 * row["cost"]["executed_flops"] * (1 if "flex" in row["case"] else -1)

    found = judged(tmp_path, head={"change": change})
    assert [case.regressed for case in found] == ["flex" in case.case for case in found]
    assert all(case.shrunk for case in found if "sdpa" in case.case)


@pytest.mark.parametrize(("made", "count"), [(networks, 3), (mixed, 7)])
@pytest.mark.parametrize(("factor", "verdict"), [(1.03, Verdict.SLOWER), (0.97, Verdict.FASTER), (1.0, Verdict.SAME)])
def test_networks_are_cases_like_any_other(tmp_path, made, count, factor, verdict):
    found = judged(tmp_path, head={"factor": factor}, made=made, slow=SLOW_NETWORK)
    assert len(found) == count
    assert case_of(found, SLOW_NETWORK).verdict is verdict
    assert case_of(found, SLOW_NETWORK).cycles is not None
    assert all(case.verdict is Verdict.SAME for case in found if not case.case.startswith(SLOW_NETWORK))


def test_memory_and_failures_of_networks_are_regressions(tmp_path):
    def larger():
        rows = networks()
        rows[0]["memory"]["peak_bytes"] *= 1.01
        failed = results_files.failed_network("OOM", "no room", "halonet_h0", "sdpa", rival="efficientnet_b0")
        return [rows[0], failed, rows[2]]

    base = results_files.write(tmp_path / "base.json", networks(), gpu=results_files.H100)
    head = results_files.write(tmp_path / "head.json", larger(), gpu=results_files.H100)
    rival, lost, same = compare(sides.load(base), sides.load(head), Settings()).cases
    assert rival.grown == ("peak_bytes 3000000000 -> 3030000000 (+1.0%)",)
    assert (lost.verdict, lost.reason) == (Verdict.FAILED, "OOM: no room")
    assert [case.regressed for case in (rival, lost, same)] == [True, True, False]


@pytest.mark.parametrize(
    ("before", "after", "verdict", "reason"),
    [
        ([128] * 4, [64] * 4, Verdict.FAILED, "fits at batch 64, before at 128"),
        ([64] * 4, [128] * 4, Verdict.NEW, "fits at batch 128, before at 64"),
        ([64] * 4, [64] * 4, Verdict.SAME, ""),
        ([128] * 4, [128, 64, 128, 128], Verdict.FAILED, "OOM: fits at batch 128 in one run and at 64 in another"),
        ([128] * 4, [None] * 4, Verdict.SAME, ""),
    ],
)
def test_steps_at_two_batches_are_not_compared_in_time(tmp_path, before, after, verdict, reason):
    """The same step, halved because it no longer fits, would look twice as fast."""
    for name, batches in (("base", before), ("head", after)):
        (tmp_path / name).mkdir()
        for number, batch in enumerate(batches):
            made = rows(f"{name} {number}", made=networks)
            made[1]["throughput"]["batch"] = batch
            if batch == 64:
                made[1]["samples_ms"] = [sample / 2 for sample in made[1]["samples_ms"]]
                made[1]["memory"]["peak_bytes"] /= 2
            results_files.write(tmp_path / name / f"{number}.json", made, gpu=results_files.H100)
    base, head = (sides.load(tmp_path / name) for name in ("base", "head"))
    case = case_of(judge(base.cases, head.cases, Settings()), SLOW_NETWORK)
    assert (case.verdict, case.reason) == (verdict, reason)
    assert case.shrunk == ()


def test_a_control_that_fires_makes_times_inconclusive_but_not_failures():
    slower, failed = Judged("a", Verdict.SLOWER), Judged("b", Verdict.FAILED)
    quiet, loud = Judged("a", Verdict.SAME), Judged("a", Verdict.FASTER)
    assert outcome(slower, control=[quiet]).status is Exit.REGRESSION
    assert outcome(slower, control=[loud]).status is Exit.INCONCLUSIVE
    assert outcome(failed, control=[loud]).status is Exit.REGRESSION
    assert outcome(quiet, control=[Judged("a", Verdict.SLOWER, advisory="short")]).status is Exit.FINE


def test_what_matters_comes_first():
    verdicts = [Verdict.SAME, Verdict.NEW, Verdict.SLOWER, Verdict.AMBIGUOUS, Verdict.FAILED]
    assert [case.verdict for case in outcome(*(Judged(str(each), each) for each in verdicts)).sorted] == [
        Verdict.FAILED, Verdict.SLOWER, Verdict.AMBIGUOUS, Verdict.NEW, Verdict.SAME,
    ]  # fmt: skip

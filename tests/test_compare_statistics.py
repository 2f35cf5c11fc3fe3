"""What times of two sides can show: false alarms, few runs, few samples, the rank test, its correction, intervals."""

import numpy as np
import pytest
from scipy import stats

from halobench.compare import sides
from halobench.compare.__main__ import compare
from halobench.compare.settings import Settings
from halobench.compare.statistics import adjusted, estimate, least_p
from halobench.compare.verdict import Verdict, judge
from tests import results_files
from tests.compared_runs import case_of, judged, rows, times


def test_noise_alone_raises_few_alarms():
    """Cases that differ by 10 % from run to run: the rank test keeps the promise of its level, with room for luck."""
    alarms = 0
    for seed in range(200):
        base, head = ({"case": times(f"{side} {seed}", noise=0.1)} for side in "ab")
        alarms += judge(base, head, Settings())[0].verdict in (Verdict.SLOWER, Verdict.FASTER)
    assert alarms <= 6


def test_few_runs_see_only_what_two_processes_do_not_differ_in_anyway(tmp_path):
    small, large = (tmp_path / name for name in ("small", "large"))
    for place, factor in ((small, 1.04), (large, 1.08)):
        place.mkdir()
        found = judged(place, head={"factor": factor}, runs=1)
        assert case_of(found).verdict is (Verdict.SLOWER if factor > 1.05 else Verdict.SAME)


def test_too_few_runs_for_many_cases_is_said_so():
    """Four runs a side reach p = 0.03; a change must then exceed what two runs differ by anyway, and is still found."""
    base = {f"case {number}": times(number, runs=4) for number in range(100)}
    head = {f"case {number}": times(1000 + number, {0: 1.03, 1: 1.2}.get(number, 1.0), runs=4) for number in range(100)}
    small, large, *others = judge(base, head, Settings())
    assert small.verdict is Verdict.AMBIGUOUS
    assert "too few runs" in small.reason
    assert large.verdict is Verdict.SLOWER
    assert {case.verdict for case in others} == {Verdict.SAME}


def test_a_few_samples_find_what_two_processes_do_not_differ_in(tmp_path):
    """Long steps have five samples: no rank test over them is significant among many cases."""

    def many():
        return [results_files.network_row("halonet_h0", f"backend{number}") for number in range(20)]

    for name, factor in (("base", 1.0), ("head", 1.3)):
        made = rows(name, made=many, slow="training/backend7", factor=factor, samples=5)
        results_files.write(tmp_path / f"{name}.json", made, gpu=results_files.H100)
    found = compare(*(sides.load(tmp_path / name) for name in ("base.json", "head.json")), Settings())
    assert [case.case for case in found.cases if case.regressed] == [case_of(found.cases, "training/backend7/").case]


def test_the_rank_test_is_exact_and_its_least_p_is_what_separated_groups_get():
    base, head = np.arange(5.0)[None], np.arange(10.0, 16.0)[None]
    (got,) = estimate(base + 1, head + 1)
    assert got.p == pytest.approx(stats.mannwhitneyu(base[0], head[0], method="exact").pvalue)
    assert got.p == pytest.approx(least_p(5, 6))
    assert got.low <= got.ratio <= got.high


def test_the_correction_is_that_of_benjamini_and_hochberg():
    """By hand: p sorted, times count over rank, and no later one above an earlier one."""
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert adjusted([]) == []


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    source = np.random.default_rng(0)
    base, head = source.normal(1, 0.01, (400, 8)), source.normal(1.05, 0.01, (400, 8))
    covered = np.mean([each.low <= 1.05 <= each.high for each in estimate(base, head)])
    assert 0.88 < covered < 0.995

"""Comparing results files: verdicts, thresholds, refusals, exit statuses, and what is shown."""

import copy
import errno
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from halobench import terminal
from halobench.compare import settings, sides
from halobench.compare.__main__ import compare, main
from halobench.compare.outcome import Exit, Outcome
from halobench.compare.render import markdown
from halobench.compare.settings import Settings
from halobench.compare.sides import Repeated
from halobench.compare.statistics import adjusted, estimate, least_p
from halobench.compare.verdict import Judged, Verdict, judge
from halobench.records.table import ResultsError, read
from tests import results_files

SLOW = "operator/sdpa/forward"
SLOW_NETWORK = "training/sdpa/training"
NOISE = 0.002
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _nowhere(tmp_path, monkeypatch):
    """Away from the project's own thresholds."""
    monkeypatch.chdir(tmp_path)


def operators():
    return [results_files.row(backend, way) for backend in ("sdpa", "flex") for way in ("forward", "training")]


def networks():
    rows = [results_files.network_row("efficientnet_b0")]
    return [
        *rows,
        *[results_files.network_row("halonet_h0", each, rival="efficientnet_b0") for each in ("sdpa", "fused")],
    ]


def mixed():
    return [*operators(), *networks()]


def rows(seed, *, made=operators, slow=SLOW, factor=1.0, samples=30, mhz=1980.0, change=None):
    """The rows of a run; the times of ``slow`` are longer by a factor, and every process is a little off."""
    source = random.Random(seed)
    made = copy.deepcopy(made())
    for row in made:
        middle = row["latency"]["median_ms"] * 10 * source.gauss(1, NOISE)
        middle *= factor if row["case"].startswith(slow) else 1.0
        row["samples_ms"] = [middle * source.gauss(1, NOISE) for _ in range(samples)]
        row["clock"]["sm_mhz"] = mhz
        if change:
            change(row)
    return made


def folder(tmp_path, name, seed, runs=8, **changes):
    """A folder of runs."""
    place = tmp_path / name
    place.mkdir()
    for number in range(runs):
        results_files.write(place / f"{number}.json", rows(f"{seed}-{number}", **changes), gpu=results_files.H100)
    return place


def test_the_rows_of_a_table_are_as_pandas_has_them(tmp_path):
    """What is missing, too: ``None`` where a flag or a text is, no number where a number is."""
    found = read(results_files.write(tmp_path / "mine.json", rows(1, made=mixed)))
    for table in (found.table, found.networks):
        assert repr(list(sides.rows_of(table))) == repr(table.to_dict("records")) != "[]"


def case_of(judged, start=SLOW):
    (case,) = [case for case in judged if case.case.startswith(start)]
    return case


def judged(tmp_path, *, base=None, head=None, chosen=None, **more):
    one, other = (
        folder(tmp_path, "base", 1, **(base or {}), **more),
        folder(tmp_path, "head", 2, **(head or {}), **more),
    )
    return judge(sides.load(one).cases, sides.load(other).cases, chosen or Settings())


def test_the_same_code_is_the_same(tmp_path):
    assert {case.verdict for case in judged(tmp_path)} == {Verdict.SAME}


@pytest.mark.parametrize(("factor", "verdict"), [(1.03, Verdict.SLOWER), (0.97, Verdict.FASTER), (1.005, Verdict.SAME)])
def test_a_change_beyond_the_threshold_is_found_in_its_case_alone(tmp_path, factor, verdict):
    found = judged(tmp_path, head={"factor": factor})
    assert case_of(found).verdict is verdict
    assert all(case.verdict is Verdict.SAME for case in found if not case.case.startswith(SLOW))


def test_a_longer_time_at_a_lower_clock_is_no_slowdown_of_the_code(tmp_path):
    """All cases take 3 % longer, at a clock that is 3 % lower: the same number of cycles."""
    found = case_of(judged(tmp_path, head={"factor": 1.03, "mhz": 1980 / 1.03}))
    assert found.verdict is Verdict.AMBIGUOUS
    assert "clock" in found.reason


def test_noise_alone_raises_few_alarms():
    """Cases that differ by 10 % from run to run: the rank test keeps the promise of its level, with room for luck."""
    alarms = 0
    for seed in range(200):
        base, head = ({"case": times(f"{side} {seed}", 1.0, runs=8, noise=0.1)} for side in "ab")
        alarms += judge(base, head, Settings())[0].verdict in (Verdict.SLOWER, Verdict.FASTER)
    assert alarms <= 6


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


def test_few_runs_see_only_what_two_processes_do_not_differ_in_anyway(tmp_path):
    small, large = (tmp_path / name for name in ("small", "large"))
    for place, factor in ((small, 1.04), (large, 1.08)):
        place.mkdir()
        found = judged(place, head={"factor": factor}, runs=1)
        assert case_of(found).verdict is (Verdict.SLOWER if factor > 1.05 else Verdict.SAME)


def test_too_few_runs_for_many_cases_is_said_so():
    """Four runs a side reach p = 0.03; a change must then exceed what two runs differ by anyway, and is still found."""
    base = {f"case {number}": times(number, 1.0) for number in range(100)}
    head = {f"case {number}": times(1000 + number, {0: 1.03, 1: 1.2}.get(number, 1.0)) for number in range(100)}
    small, large, *others = judge(base, head, Settings())
    assert small.verdict is Verdict.AMBIGUOUS
    assert "too few runs" in small.reason
    assert large.verdict is Verdict.SLOWER
    assert {case.verdict for case in others} == {Verdict.SAME}


def times(seed, factor, runs=4, noise=NOISE):
    source = random.Random(seed)
    return Repeated(samples_ms=[(factor * source.gauss(1, noise),) for _ in range(runs)])


def failing(status="OOM"):
    return Repeated(failures=[(status, "why")])


@pytest.mark.parametrize(
    ("base", "head", "verdict", "regressed"),
    [
        (times(1, 1), failing("OOM"), Verdict.FAILED, True),
        (times(1, 1), None, Verdict.MISSING, False),
        (None, times(1, 1), Verdict.NEW, False),
        (failing("OOM"), times(1, 1), Verdict.NEW, False),
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
    flaky = times(2, 1)
    flaky.failures.append(("CRASHED", "signal 11"))
    (case,) = judge({"case": times(1, 1)}, {"case": flaky}, Settings())
    assert case.verdict is Verdict.FAILED


@pytest.mark.parametrize(("share", "grown"), [(1.0005, False), (1.002, True)])
def test_memory_may_grow_by_its_tolerance(tmp_path, share, grown):
    def change(row):
        row["memory"]["peak_bytes"] *= share

    found = judged(tmp_path, head={"change": change})
    assert [bool(case.grown) for case in found] == [grown] * len(found)
    assert {case.verdict for case in found} == {Verdict.LARGER if grown else Verdict.SAME}
    assert [case.regressed for case in found] == [grown] * len(found)


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


def test_a_few_samples_find_what_two_processes_do_not_differ_in(tmp_path):
    """Long steps have five samples: no rank test over them is significant among many cases."""

    def many():
        return [results_files.network_row("halonet_h0", f"backend{number}") for number in range(20)]

    for name, factor in (("base", 1.0), ("head", 1.3)):
        made = rows(name, made=many, slow="training/backend7", factor=factor, samples=5)
        results_files.write(tmp_path / f"{name}.json", made, gpu=results_files.H100)
    found = compare(*(sides.load(tmp_path / name) for name in ("base.json", "head.json")), Settings())
    assert [case.case for case in found.cases if case.regressed] == [case_of(found.cases, "training/backend7/").case]


def test_one_more_flop_is_a_regression_and_one_less_is_not(tmp_path):
    def change(row):
        row["cost"]["executed_flops"] += 1e-3 * row["cost"]["executed_flops"] * (1 if "flex" in row["case"] else -1)

    found = judged(tmp_path, head={"change": change})
    assert [case.regressed for case in found] == ["flex" in case.case for case in found]
    assert all(case.shrunk for case in found if "sdpa" in case.case)


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


def outcome(*cases, control=()):
    return Outcome("base", "head", cases, Settings(), control=control)


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


@pytest.mark.parametrize(("made", "slow"), [(operators, SLOW), (networks, SLOW_NETWORK)])
def test_the_command_says_and_writes_what_it_found(tmp_path, capsys, made, slow):
    same = {"made": made, "slow": slow}
    base, head = folder(tmp_path, "base", 1, **same), folder(tmp_path, "head", 2, **same, factor=1.05)
    others = len(made()) - 1
    arguments = [str(base), str(head), "--json", "out.json", "--markdown", "out.md"]
    assert main(arguments) == Exit.REGRESSION
    said = capsys.readouterr().out
    assert f"1 regression (1 SLOWER, {others} SAME)" in said
    assert re.search(rf"{slow}\S* +SLOWER .*\+[45]\.\d%", said)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["status"] == "regression"
    assert [case["regressed"] for case in written["cases"]] == [True] + [False] * others
    assert "SLOWER" in (tmp_path / "out.md").read_text()
    assert main([*arguments[:2], "--threshold", "10%"]) == Exit.FINE
    assert main([str(head), str(base)]) == Exit.FINE  # faster is no regression


@pytest.mark.parametrize(("made", "slow"), [(operators, SLOW), (networks, SLOW_NETWORK)])
@pytest.mark.parametrize("setting", ['cases = {{ "{}*" = 20 }}', 'advisory = ["{}*"]', "gated_from_us = 1e9"])
def test_thresholds_come_from_pyproject(tmp_path, made, slow, setting):
    base, head = (folder(tmp_path, *of, made=made, slow=slow) for of in (("base", 1), ("head", 2)))
    slower = folder(tmp_path, "slower", 3, made=made, slow=slow, factor=1.05)
    assert [main([str(base), str(each)]) for each in (head, slower)] == [Exit.FINE, Exit.REGRESSION]
    (tmp_path / "pyproject.toml").write_text(f"[tool.halobench.compare]\n{setting.format(slow)}\n")
    assert main([str(base), str(slower)]) == Exit.FINE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("threshold = 2", "no setting 'threshold'"),
        ("threshold_percent = -1", "finite number of at least 0"),
        ("advisory = 'a'", "a list of patterns"),
        ("cases = { a = 'b' }", "a number of percent"),
        ("= 3", "Invalid"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[tool.halobench.compare]\n{content}\n")
    with pytest.raises(ResultsError, match=message):
        settings.load(path)


@pytest.mark.parametrize("made", [operators, networks])
def test_another_machine_is_refused_with_the_differences_unless_asked_for(tmp_path, capsys, made):
    base, head = tmp_path / "base.json", tmp_path / "head.json"
    results_files.write(base, rows(1, made=made), gpu=results_files.H100)
    results_files.write(head, rows(2, made=made), gpu={**results_files.H100, "driver": "600"}, tier="smoke")
    assert main([str(base), str(head)]) == Exit.UNUSABLE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "gpu.driver: 570.1 | 600" in said
    assert "tier: full | smoke" in said
    assert main([str(base), str(head), "--across"]) == Exit.FINE
    assert "gpu.driver: 570.1 | 600" in capsys.readouterr().out


def test_a_commit_may_differ_between_sides_and_not_within_one(tmp_path):
    place = folder(tmp_path, "base", 1, runs=1)
    other = results_files.write(tmp_path / "other.json", rows(2), gpu=results_files.H100, commit="f" * 20)
    assert main([str(place), str(other)]) == Exit.FINE
    (place / "other.json").write_bytes(other.read_bytes())
    with pytest.raises(ResultsError, match="no repetitions: commit"):
        sides.load(place)


def test_a_copied_run_is_no_repetition(tmp_path):
    place = folder(tmp_path, "base", 1, runs=2)
    (place / "again.json").write_bytes((place / "0.json").read_bytes())
    with pytest.raises(ResultsError, match="copy of the other"):
        sides.load(place)


@pytest.mark.parametrize("made", ["itself", "link", "copy"])
def test_a_run_is_not_compared_with_itself(tmp_path, capsys, made):
    """Such a gate would be open whatever the code does. A file under another name is no other run."""
    base = results_files.write(tmp_path / "base.json", rows(1), gpu=results_files.H100)
    head = base if made == "itself" else tmp_path / "head.json"
    if made == "link":
        head.symlink_to(base)
    if made == "copy":
        head.write_bytes(base.read_bytes())
    assert main([str(base), str(head)]) == Exit.UNUSABLE
    assert ("one is a copy of the other" if made == "copy" else f"the same: {base}") in capsys.readouterr().err


def test_a_folder_that_holds_a_run_of_the_other_is_refused(tmp_path, capsys):
    base, head = folder(tmp_path, "base", 1, runs=5), folder(tmp_path, "head", 2, runs=4)
    (head / "stray.json").write_bytes((base / "3.json").read_bytes())
    assert main([str(base), str(head)]) == Exit.UNUSABLE
    assert f"{base} and {head} hold the same samples of operator/" in capsys.readouterr().err


def without_samples(document):
    del document["benchmarks"][0]["stats"]["data"]


def negative(document):
    document["benchmarks"][0]["stats"]["data"][3] = -1.0


def zero(document):
    document["benchmarks"][0]["stats"]["data"][3] = 0


def not_a_number(document):
    document["benchmarks"][0]["stats"]["data"][3] = float("nan")


def twice(document):
    document["benchmarks"].append(document["benchmarks"][0])


def foreign(document):
    del document["halobench"]


def from_the_future(document):
    document["halobench"]["schema"] = 99


@pytest.mark.parametrize("spoil", [without_samples, negative, zero, not_a_number, twice, foreign, from_the_future])
def test_unusable_files_are_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, spoil):
    good = results_files.write(tmp_path / "good.json", rows(1), gpu=results_files.H100)
    document = json.loads(good.read_text())
    spoil(document)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(document))
    assert main([str(good), str(bad), "--json", "out.json"]) == Exit.UNUSABLE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "bad.json" in captured.err
    assert not (tmp_path / "out.json").exists()


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path, capsys):
    good = results_files.write(tmp_path / "good.json", rows(1))
    (tmp_path / "empty").mkdir()
    for other in ("nowhere.json", "empty"):
        assert main([str(good), str(tmp_path / other)]) == Exit.UNUSABLE
        assert other in capsys.readouterr().err


def test_sides_without_a_common_case_are_no_success(tmp_path, capsys):
    one = results_files.write(tmp_path / "one.json", rows(1)[:2])
    other = results_files.write(tmp_path / "other.json", rows(2)[2:])
    assert main([str(one), str(other)]) == Exit.UNUSABLE
    assert "no case in common" in capsys.readouterr().err


def test_a_run_that_did_not_finish_is_compared_and_named(tmp_path):
    finished = results_files.write(tmp_path / "base.json", rows(1), gpu=results_files.H100)
    killed = results_files.write_journal(tmp_path / "head.jsonl", rows(2)[:2], gpu=results_files.H100)
    found = compare(sides.load(finished), sides.load(killed), Settings())
    assert any("head.jsonl is of a run that did not finish" in note for note in found.notes)
    assert sum(case.verdict is Verdict.MISSING for case in found.cases) == 2


def test_names_are_text_in_markdown():
    hostile = "a|b`c`<script>alert(1)</script>[x](y)\n# title @someone"
    shown = markdown(outcome(Judged(hostile, Verdict.FAILED, hostile)))
    assert "<script>" not in shown
    assert "\n#" not in shown.removeprefix("###")
    row = next(line for line in shown.splitlines() if "FAILED" in line and "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert r"\@someone" in row


def test_long_comments_are_cut_and_say_so():
    shown = markdown(outcome(*(Judged(f"case {number}", Verdict.SLOWER) for number in range(500))))
    assert "400 more" in shown
    assert len(shown) < 65536


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "base.json head.json" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["a", "b", "--threshold", "-3"])
    assert "percent above 0" in capsys.readouterr().err


UNWRITABLE = {
    "closed": "{} | exec true",
    "full": "{} > /dev/full",
    "gone": "{} >&-",
    "json": "{} --json nowhere/out.json",
    "markdown": "{} --markdown /dev/full",
}


@pytest.mark.parametrize("kind", UNWRITABLE)
@pytest.mark.fault
def test_what_cannot_be_written_is_no_regression(tmp_path, kind):
    """Exit status 2 instead of 1 or 0, and the verdict is said in spite of it."""
    base, same = folder(tmp_path, "base", 1, runs=5), folder(tmp_path, "same", 2, runs=5)
    command = UNWRITABLE[kind].format(f"{sys.executable} -m halobench.compare {base} {same}")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.UNUSABLE, done.stderr
    assert "no regression (4 SAME)" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.fault
def test_a_file_that_cannot_be_written_is_named_and_the_other_is_written(tmp_path, capsys):
    base, same = folder(tmp_path, "base", 1, runs=5), folder(tmp_path, "same", 2, runs=5)
    markdown = tmp_path / "comment.md"
    full = Path("/dev/full")  # of which Python's own message names no file
    assert main([str(base), str(same), "--json", str(full), "--markdown", str(markdown)]) == Exit.UNUSABLE
    assert capsys.readouterr().err.endswith(f"{full} cannot be written: {os.strerror(errno.ENOSPC)}\n")
    assert markdown.read_text().startswith("### halobench: no regression")


@pytest.mark.fault
def test_what_nobody_foresaw_is_no_regression(capsys):
    """Python ends with 1 then, which would be one."""

    def broken():
        raise KeyError("unforeseen")

    with pytest.raises(SystemExit) as ended:
        terminal.end("a.command", broken)
    assert ended.value.code == Exit.UNUSABLE
    assert "unforeseen" in capsys.readouterr().err

"""Results files are read by Bencher and by github-action-benchmark: the published ones, and one without any time."""

import json
from pathlib import Path

import pytest

from halobench.measure.pytest_plugin import without_benchmarks
from halobench.records.table import read
from tests import results_files
from tests.other_readers import bencher, github_action_benchmark

RESULTS = Path(__file__).parent.parent / "results"
FILES = [RESULTS / f"h100-{name}.json" for name in ("batch64", "training", "transfer")]  # operators, networks, failures


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_both_find_every_case_that_has_a_time(file):
    text, ours = file.read_text(), read(file)
    timed = len(ours.samples_ms)
    theirs, others = bencher(text), github_action_benchmark(text)
    assert len(theirs) == len(others) == timed > 0  # no two cases have one name there
    medians = sorted(median * 1e3 for _, _, median, _ in theirs.values())
    assert medians == pytest.approx(sorted(medians_of(ours)))
    for ops, _, mean, rounds in others.values():
        assert ops == pytest.approx(1 / mean)
        assert rounds >= 1


def medians_of(ours):
    """The medians of all rows with a time, ms."""
    return [float(median) for table in (ours.table, ours.networks) for median in table["median_ms"].dropna()]


def test_a_run_in_which_no_case_has_a_time_is_an_empty_list_to_them(tmp_path):
    """pytest-benchmark writes no file then; ours has all parts that they look for, and a date."""
    failures = [results_files.without_samples(results_files.failed("OOM", "no memory"))]
    document = without_benchmarks(results_files.section() | {"failures": failures})
    text = json.dumps(document)
    assert bencher(text) == github_action_benchmark(text) == {}
    (tmp_path / "mine.json").write_text(text)
    found = read(tmp_path / "mine.json")
    assert list(found.table["status"]) == ["OOM"]
    assert found.headers["mine.json"].datetime is not None


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda document: document.pop("commit_info"),
        lambda document: document.update(machine_info=None),
        lambda document: document["benchmarks"][0]["stats"].update(mean=float("nan")),
        lambda document: document["benchmarks"][0]["stats"].pop("iqr"),
        lambda document: document["benchmarks"][0].update(fullname=""),
    ],
)
def test_what_they_would_refuse_is_refused_here(spoilt):
    document = json.loads(FILES[0].read_text())
    spoilt(document)
    with pytest.raises((AssertionError, LookupError, ValueError)):
        bencher(json.dumps(document))

"""Which results files make a side, and which two sides are compared: the others are refused in one line."""

import json

import pytest

from halobench.compare import sides
from halobench.compare.__main__ import compare, main
from halobench.compare.outcome import Exit
from halobench.compare.settings import Settings
from halobench.compare.verdict import Verdict
from halobench.records.table import ResultsError, read
from tests import results_files
from tests.compared_runs import folder, mixed, networks, operators, rows

pytestmark = pytest.mark.usefixtures("nowhere")


def test_the_rows_of_a_table_are_as_pandas_has_them(tmp_path):
    """What is missing, too: ``None`` where a flag or a text is, no number where a number is."""
    found = read(results_files.write(tmp_path / "mine.json", rows(1, made=mixed)))
    for table in (found.table, found.networks):
        assert repr(list(sides.rows_of(table))) == repr(table.to_dict("records")) != "[]"


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


SAID = {
    without_samples: "is OK and has no samples",
    negative: "a sample must be a finite number above 0, 1e-30 to 1e+30, got -1.0",
    zero: "a sample must be a finite number above 0, 1e-30 to 1e+30, got 0",
    not_a_number: "a sample must be a finite number above 0, 1e-30 to 1e+30, got nan",
    twice: "stands in it twice",
    foreign: "not a halobench results file",
    from_the_future: "schema version 99",
}


@pytest.mark.parametrize("spoil", SAID)
def test_unusable_files_are_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, spoil):
    good = results_files.write(tmp_path / "good.json", rows(1), gpu=results_files.H100)
    document = results_files.document(rows(2), gpu=results_files.H100)
    spoil(document)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(document))
    assert main([str(good), str(bad), "--json", "out.json"]) == Exit.UNUSABLE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "bad.json: " in captured.err
    assert SAID[spoil] in captured.err
    assert not (tmp_path / "out.json").exists()


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path, capsys):
    good = results_files.write(tmp_path / "good.json", rows(1))
    (tmp_path / "empty").mkdir()
    for other, said in (("nowhere.json", "No such file or directory"), ("empty", "holds no results files")):
        assert main([str(good), str(tmp_path / other)]) == Exit.UNUSABLE
        assert f"{tmp_path / other}: {said}" in capsys.readouterr().err


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

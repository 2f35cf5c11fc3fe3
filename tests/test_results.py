"""Results files: what can be read becomes one tidy table, what cannot gets one line that says why."""

import json
import math

import pandas as pd
import pytest

from halobench.records import table as results
from halobench.records.schema import all_positive
from halobench.records.table import ResultsError
from tests import results_files as files


@pytest.fixture
def rows():
    """Two measured rows and a failure."""
    return [
        files.row("naive_unfold"),
        files.row("sdpa", "training"),
        files.failed("OOM", "CUDA out of memory", "global_sa", height=256),
    ]


def refusal(path):
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(ResultsError) as refused:
        results.read(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_every_leaf_of_a_row_reaches_the_table(tmp_path, rows):
    read = results.read(files.write(tmp_path / "mine.json", rows, gpu=files.H100))
    assert tuple(read.table.columns) == results.COLUMNS
    row = read.table.set_index("backend").loc["naive_unfold"]
    told = rows[0]
    assert row["median_ms"] == told["latency"]["median_ms"]
    assert row["high_ms"] == told["latency"]["high_ms"]
    assert row["peak_bytes"] == told["memory"]["peak_bytes"]
    assert row["executed_bytes"] == told["cost"]["executed_bytes"]
    assert row["floor_share"] == told["floor"]["share"]
    assert (row["block"], row["halo"], row["height"], row["dtype"]) == (8, 3, 64, "bfloat16")
    assert row["machine"] == "NVIDIA H100 80GB HBM3"
    assert (row["torch"], row["tier"], row["file"], row["samples"]) == ("2.14.1", "full", "mine.json", 3)
    assert row["groups"] == "side block halo grid"
    assert not row["throttled"]


def test_a_failure_is_a_row_with_a_reason_and_no_time(tmp_path, rows):
    table = results.read(files.write(tmp_path / "mine.json", rows)).table
    failure = table[table["status"] != "OK"].iloc[0]
    assert (failure["status"], failure["reason"]) == ("OOM", "CUDA out of memory")
    assert math.isnan(failure["median_ms"])


def test_samples_of_the_json_are_in_milliseconds(tmp_path, rows):
    read = results.read(files.write(tmp_path / "mine.json", rows))
    assert read.samples_ms["mine.json", rows[0]["case"]] == pytest.approx(rows[0]["samples_ms"])


def test_the_header_keeps_what_belongs_to_the_run(tmp_path, rows):
    header = results.read(files.write(tmp_path / "mine.json", rows, gpu=files.H100)).headers["mine.json"]
    assert header.harness["wall_s"] == 90.0
    assert header.ceilings["copy_bytes_per_s"] == files.CEILINGS["copy_bytes_per_s"]
    assert header.complete
    assert header.machine("cpu") == files.CPU["model"]


def test_a_journal_reads_as_the_finished_file_does(tmp_path, rows):
    finished = results.read(files.write(tmp_path / "mine.json", rows))
    journal = results.read(files.write_journal(tmp_path / "mine.jsonl", rows))
    same = [name for name in results.COLUMNS if name != "file"]
    pd.testing.assert_frame_equal(finished.table[same], journal.table[same])
    assert not journal.headers["mine.jsonl"].complete


@pytest.mark.parametrize("cut", [2, 40, 500])
@pytest.mark.fault
def test_a_journal_loses_at_most_its_last_line(tmp_path, rows, cut):
    journal = results.read(files.write_journal(tmp_path / "mine.jsonl", rows, cut=cut))
    assert list(journal.table["backend"]) == ["naive_unfold", "sdpa"]


@pytest.mark.fault
def test_a_journal_broken_in_the_middle_is_refused(tmp_path, rows):
    path = files.write_journal(tmp_path / "mine.jsonl", rows)
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:50]
    path.write_text("\n".join(lines))
    assert "line 2: not JSON, or cut short" in refusal(path)


def test_a_journal_of_a_header_alone_has_no_rows(tmp_path):
    assert results.read(files.write_journal(tmp_path / "mine.jsonl", [])).table.empty


def test_unknown_leaves_are_null(tmp_path):
    bare = files.row()
    bare |= {"latency": None, "memory": {"peak_bytes": None}, "clock": None, "energy_joules": None, "floor": {}}
    del bare["cost"]
    row = results.read(files.write(tmp_path / "mine.json", [bare])).table.iloc[0]
    assert row[["median_ms", "peak_bytes", "sm_mhz", "throttled", "useful_flops", "floor_ms", "bound"]].isna().all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        ('{"benchmarks": [', "not JSON, or cut short"),
        ('{"benchmarks": [], "machine_info": {}}', "a pytest-benchmark file of something else"),
        ('{"name": "package"}', "some other JSON"),
        ("[1, 2, 3]", "some other JSON"),
        ("\x00\x01", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"halobench": {"schema": 2}, "benchmarks": []}', "schema version 2, this halobench reads 1"),
        ('{"halobench": {}, "benchmarks": []}', "schema version None"),
    ],
)
@pytest.mark.fault
def test_a_foreign_or_broken_file_is_refused_in_a_line(tmp_path, content, said):
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert said in refusal(path)


@pytest.mark.parametrize(("content", "said"), [("", "empty"), ('{"halo', "line 1"), ('{"a": 1}', "line 1 has no")])
@pytest.mark.fault
def test_a_journal_without_a_header_is_refused(tmp_path, content, said):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    assert said in refusal(path)


@pytest.mark.fault
def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe\xff")
    assert "UTF-8" in refusal(path)


@pytest.mark.fault
def test_a_missing_file_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.json")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, "fast", True, 10**400, 1e308, 5e-324])
@pytest.mark.fault
def test_an_impossible_latency_is_refused(tmp_path, value):
    bad = files.row()
    bad["latency"]["median_ms"] = value
    message = refusal(files.write(tmp_path / "bad.json", [bad]))
    assert bad["case"] in message
    assert "latency.median_ms must be a finite number above 0" in message


@pytest.mark.parametrize("value", [math.nan, -0.001])
@pytest.mark.fault
def test_an_impossible_sample_is_refused(tmp_path, value):
    document = files.document([files.row()])
    document["benchmarks"][0]["stats"]["data"][1] = value
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    assert "a sample must be a finite number above 0" in refusal(path)


ODD = (math.nan, math.inf, -math.inf, -1.0, 0, 0.0, 1e-31, 1e31, 10**400, True, "1", None, [1.0])


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:9])
@pytest.mark.parametrize("place", [0, 1, 4])
def test_one_impossible_sample_is_found_among_many(place, odd):
    """All at once, as one by one; also beside another."""
    samples = [0.5, 2, 1e-30, 1e30, 0.25]
    assert all_positive(samples)
    samples[place] = odd
    assert not all_positive(samples)
    for other in ODD:
        assert not all_positive([*samples, other])
    assert not all_positive([])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "FINE"}, "status must be one of OK, OOM"),
        ({"direction": "sideways"}, "direction must be one of forward, training"),
        ({"status": "OOM"}, "status OOM with a latency"),
        ({"groups": "side"}, "groups must be a list"),
        ({"backend": None}, "backend must be text, got None"),
        ({"problem": None}, "problem.geometry.block must be an integer of at least 0, at most 2147483647, got None"),
        ({"memory": 7}, "memory.peak_bytes must be inside an object"),
        (
            {"memory": {"peak_bytes": -1}},
            "memory.peak_bytes must be a finite number of at least 0, at most 1e+30, got -1",
        ),
    ],
)
@pytest.mark.fault
def test_an_impossible_row_is_refused_with_its_case(tmp_path, changes, said):
    bad = files.row() | changes
    path = files.write_journal(tmp_path / "bad.jsonl", [bad])
    message = refusal(path)
    assert said in message
    assert bad["case"] in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tier": None}, "halobench.tier must be text"),
        ({"fingerprint": []}, "halobench.fingerprint must be an object"),
        ({"fingerprint": {"gpu": {"name": 1}}}, "gpu.name must be text"),
        (
            {"harness": {"wall_s": "long"}},
            "harness.wall_s must be a finite number of at least 0, at most 1e+30, got 'long'",
        ),
        ({"ceilings": {"copy_bytes_per_s": math.nan}}, "ceilings.copy_bytes_per_s must be a finite number above 0"),
    ],
)
@pytest.mark.fault
def test_an_impossible_header_is_refused(tmp_path, changes, said):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"halobench": files.section() | changes}) + "\n")
    assert said in refusal(path)


@pytest.mark.fault
def test_a_case_that_stands_twice_is_refused(tmp_path):
    assert "stands in it twice" in refusal(files.write(tmp_path / "bad.json", [files.row(), files.row()]))


def test_a_benchmark_of_something_else_among_ours_is_refused(tmp_path):
    document = files.document([files.row()])
    document["benchmarks"].append({"name": "test_sort", "extra_info": {}, "stats": {}})
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    assert "benchmarks[1] has no extra_info.halobench" in refusal(path)


def test_a_folder_is_read_in_one_table_and_bad_files_are_reported(tmp_path, rows, capsys):
    files.write(tmp_path / "b.json", rows, gpu=files.H100)
    files.write_journal(tmp_path / "a.jsonl", [files.row(device="cpu")])
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "notes.txt").write_text("not a results file")
    (tmp_path / "deeper").mkdir()
    files.write(tmp_path / "deeper" / "c.json", rows)
    read = results.read_all(tmp_path)
    assert set(read.headers) == {"a.jsonl", "b.json"}
    assert len(read.table) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"skipped {tmp_path / 'bad.json'}: not JSON")


def test_named_files_must_be_readable(tmp_path, rows):
    good, bad = files.write(tmp_path / "good.json", rows), tmp_path / "bad.json"
    bad.write_text("{")
    assert len(results.read_all([good]).table) == 3
    with pytest.raises(ResultsError, match=r"bad\.json"):
        results.read_all([good, bad])


def test_two_files_of_one_name_are_refused(tmp_path, rows):
    for folder in ("base", "head"):
        (tmp_path / folder).mkdir()
        files.write(tmp_path / folder / "mine.json", rows)
    with pytest.raises(ResultsError, match=r"two files are called mine\.json"):
        results.read_all([tmp_path / "base", tmp_path / "head"])


def test_one_file_given_twice_is_not_called_two(tmp_path, rows):
    file = files.write(tmp_path / "mine.json", rows)
    (tmp_path / "below").mkdir()
    for again in (file, tmp_path, tmp_path / "below" / ".." / "mine.json"):
        with pytest.raises(ResultsError, match=r"mine\.json is given twice"):
            results.read_all([file, again])


@pytest.mark.parametrize(
    ("bad", "said"), [(0, "holds no results files"), (2, "holds 2 results files, and none could be read")]
)
def test_a_folder_without_anything_readable_is_refused(tmp_path, bad, said):
    for number in range(bad):
        (tmp_path / f"{number}.json").write_text("")
    with pytest.raises(ResultsError, match=said):
        results.read_all(tmp_path)


def test_an_unknown_machine_says_so(tmp_path):
    path = files.write_journal(tmp_path / "mine.jsonl", [files.row()])
    assert results.read(path).table["machine"].item() == "unknown cuda"

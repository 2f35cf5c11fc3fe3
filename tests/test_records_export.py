"""Results as SQLite, Parquet and CSV: what is read back is what was there, runs are added once, and nothing is lost."""

import json
import math
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from halobench.export import files, sqlite
from halobench.export.__main__ import main
from halobench.export.tables import TABLES, TYPES, tables
from halobench.pages import dictionary
from halobench.records import columns
from halobench.records.table import COLUMNS, NETWORK_COLUMNS, read_all
from tests import results_files

KEYS = {"runs": ["run"], "cases": ["run", "case"], "networks": ["run", "case"], "samples": ["run", "case", "number"]}
DOCS = Path(__file__).parent.parent / "docs" / "records.md"


def odd_row():
    """A row with values of all kinds: nested ones, text that needs quotes, numbers that JSON does not have."""
    row = results_files.row("sdpa", "forward", height=16, label='a "label", with\nlines and Größe')
    row["clock"] = {"sm_mhz": None, "throttled": None, "reasons": ["power cap", "thermal"]}
    row["accuracy"] = {"errors": {"output": math.nan, "query": math.inf}, "budgets": {"output": 0.5}}
    row["latency"] |= {"places": 8, "replayed": False}
    return row


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of several files: operators with failures, networks with rivals, a CPU's, and a killed run's journal."""
    folder = tmp_path_factory.mktemp("results")
    rows = [
        odd_row(),
        results_files.row("conv", "training"),
        results_files.failed("OOM", "no memory", "flex", "forward"),
        results_files.failed("UNSUPPORTED", "why", "conv", "forward", height=32),
    ]
    results_files.write(folder / "gpu.json", rows, gpu=results_files.H100)
    results_files.write(folder / "networks.json", results_files.pair_rows(), gpu=results_files.H100)
    results_files.write(folder / "cpu.json", [results_files.row("sdpa", device="cpu")], ceilings=None)
    results_files.write_journal(folder / "killed.jsonl", [results_files.row("conv"), results_files.row("sdpa")], cut=9)
    return folder


def read_sqlite(path):
    with closing(sqlite3.connect(path)) as database:
        return {name: pd.read_sql(f"SELECT * FROM {name}", database) for name in TABLES}


def read_parquet(path):
    return {name: pd.read_parquet(place) for name, place in files.paths(path).items()}


def read_csv(path):
    return {
        name: pd.read_csv(
            place,
            keep_default_na=False,
            na_values=[""],
            dtype={column: TYPES[kind] for column, kind in TABLES[name].items()},
        )
        for name, place in files.paths(path).items()
    }


READERS = {"sqlite": read_sqlite, "parquet": read_parquet, "csv": read_csv}


def in_order(made):
    """The tables with the types of their columns, by key."""
    types = {name: {column: TYPES[kind] for column, kind in of.items()} for name, of in TABLES.items()}
    return {name: made[name].astype(types[name]).sort_values(KEYS[name], ignore_index=True) for name in made}


@pytest.mark.parametrize("suffix", READERS)
def test_what_is_read_back_is_what_was_there(results, tmp_path, capsys, suffix):
    path = tmp_path / f"records.{suffix}"
    assert main([str(results), "--to", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    found, expected = READERS[suffix](path), in_order(tables(read_all(results)))
    assert {name: len(table) > 0 for name, table in expected.items()} == dict.fromkeys(TABLES, True)
    for name, table in in_order(found).items():
        exact = {"check_exact": False, "rtol": 1e-15} if suffix == "csv" else {"check_exact": True}  # pandas reads so
        pd.testing.assert_frame_equal(table, expected[name], **exact)


def test_parquet_has_types_even_of_columns_without_a_value(results, tmp_path):
    main([str(results / "cpu.json"), "--to", str(tmp_path / "records.parquet")])
    found = read_parquet(tmp_path / "records.parquet")
    assert found["networks"].empty
    schema = pyarrow.parquet.read_schema(tmp_path / "records.parquet")
    named = {"block": "int64", "kernel": "int64", "latency.places": "int64", "sm_mhz": "double", "throttled": "bool"}
    assert {name: str(schema.field(name).type) for name in named} == named
    for name, of in TABLES.items():
        assert {column: str(dtype) for column, dtype in found[name].dtypes.items()} == {
            column: {"string": found[name].dtypes["run"]}.get(TYPES[kind], TYPES[kind]) for column, kind in of.items()
        }


def test_every_column_of_the_dictionary_is_there_and_every_column_is_in_it():
    rows = {*TABLES["cases"], *TABLES["networks"]}
    assert {*COLUMNS, *NETWORK_COLUMNS} <= rows
    paths = {field.path for field in dictionary.TABLES["rows"].values()}
    paths |= {field.path for field in dictionary.OWN.values()}
    assert {*columns.BESIDE} - rows <= {*paths, "samples_ms", "paired.rival_samples_ms"}
    described = {name for table in dictionary.TABLES.values() for name in table}
    assert {name for of in TABLES.values() for name in of} <= described


def test_values_with_parts_are_json_and_unknown_is_null(results, tmp_path):
    main([str(results), "--to", str(tmp_path / "records.sqlite")])
    with closing(sqlite3.connect(tmp_path / "records.sqlite")) as database:
        ask = lambda query: database.execute(query).fetchall()  # noqa: E731
        odd = "FROM cases WHERE label LIKE 'a %'"
        assert ask(f'SELECT json_extract("accuracy.errors", "$.query"), "latency.places" {odd}') == [("inf", 8)]
        assert ask(f'SELECT json_extract("clock.reasons", "$[1]"), throttled, sm_mhz {odd}') == [
            ("thermal", None, None)
        ]
        assert ask("SELECT median_ms, reason FROM cases WHERE status = 'OOM'") == [(None, "no memory")]
        gpu = """json_extract(fingerprint, '$.gpu.name')"""
        assert ask(f"SELECT {gpu} FROM runs WHERE file = 'gpu.json'") == [(results_files.H100["name"],)]
        paired = 'SELECT count(*), count(samples.rival_ms) FROM samples JOIN networks USING (run, "case") WHERE rival '
        (count, beside), (alone, none) = ask(paired + "IS NOT NULL")[0], ask(paired + "IS NULL")[0]
        assert count == beside > 0
        assert (alone > 0, none) == (True, 0)
        assert ask("SELECT complete FROM runs WHERE file = 'killed.jsonl'") == [(0,)]


def test_dates_are_in_utc_so_that_text_is_in_order_of_time(tmp_path):
    results_files.write(tmp_path / "a.json", [results_files.row()], datetime="2026-11-20T01:30:00+02:00")
    assert list(tables(read_all(tmp_path))["cases"]["datetime"]) == ["2026-11-19T23:30:00.000000+00:00"]


@pytest.mark.parametrize("suffix", READERS)
def test_half_a_character_does_not_end_the_export(tmp_path, suffix):
    results_files.write(tmp_path / "odd.json", [results_files.row(label="half \ud800 of one, \N{GRINNING FACE}")])
    assert main([str(tmp_path / "odd.json"), "--to", str(tmp_path / f"records.{suffix}")]) == 0
    assert list(READERS[suffix](tmp_path / f"records.{suffix}")["cases"]["label"]) == [
        "half \ufffd of one, \N{GRINNING FACE}"
    ]


def night(folder, number, commit=None, factor=1.0):
    """The results of a night; the fused_cuda of the reference point takes ``number`` times as long as in the first."""
    axes = {"groups": ["side", "block", "halo", "grid"]}
    rows = [results_files.row(name, way, **axes) for name in ("fused_cuda", "sdpa") for way in ("forward", "training")]
    rows.append(results_files.row("fused_cuda", "forward", height=128, groups=["side"]))
    for row in rows:
        row["latency"]["median_ms"] = number * factor
        row["samples_ms"] = [number * factor] * 3
    when = f"2026-{1 + number // 28:02}-{1 + number % 28:02}T02:17:00+00:00"
    commit = commit or f"{number:040x}"
    return results_files.write(folder / f"{number}.json", rows, gpu=results_files.H100, datetime=when, commit=commit)


def count(path, table):
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_a_history_grows_night_by_night_and_has_each_run_once(tmp_path, capsys):
    history = tmp_path / "history.sqlite"
    said = []
    for number in (1, 2, 2):
        main([str(night(tmp_path, number)), "--to", str(history)])
        said.append(capsys.readouterr().out.rpartition(": ")[2].strip())
    copy = tmp_path / "another name.json"
    copy.write_text(json.dumps(json.loads((tmp_path / "1.json").read_text()), indent=4))  # a copy looks different
    main([str(copy), str(tmp_path / "2.json"), str(night(tmp_path, 3)), "--to", str(history)])
    said.append(capsys.readouterr().out.rpartition(": ")[2].strip())
    assert said == ["1 run, 1 of them new", "1 run, 1 of them new", "1 run, 0 of them new", "3 runs, 1 of them new"]
    assert [count(history, table) for table in ("runs", "cases", "samples")] == [3, 15, 45]


def test_a_copy_within_one_export_counts_once(tmp_path):
    shutil.copy(night(tmp_path, 1), tmp_path / "copy.json")
    made = tables(read_all(tmp_path))
    assert [len(made[name]) for name in ("runs", "cases", "samples")] == [1, 5, 15]


def test_the_documented_line_of_sql_answers_for_the_last_30_commits(tmp_path):
    """As it stands in docs/records.md: the newest run of each commit, the newest commits first."""
    (line,) = re.findall(r"^SELECT .*LIMIT 30;$", DOCS.read_text(), re.MULTILINE)
    history = tmp_path / "history.sqlite"
    for number in range(1, 41):
        night(tmp_path, number)
    night(tmp_path, 41, commit=f"{40:040x}", factor=2.0)  # the last commit is measured again
    main([str(tmp_path), "--to", str(history)])
    with closing(sqlite3.connect(history)) as database:
        found = database.execute(line).fetchall()
    assert [(commit, median) for commit, _, median in found] == [
        (f"{40:040x}", 82.0),
        *((f"{number:040x}", float(number)) for number in range(39, 10, -1)),
    ]


def test_every_query_of_the_page_runs(results, tmp_path):
    path = tmp_path / "records.sqlite"
    main([str(results), "--to", str(path)])
    lines = re.findall(r"^SELECT .*;$", DOCS.read_text(), re.MULTILINE)
    assert len(lines) >= 3
    with closing(sqlite3.connect(path)) as database:
        for line in lines:
            database.execute(line).fetchall()


def test_a_history_of_an_older_version_gets_new_columns_and_keeps_its_own(tmp_path):
    history = tmp_path / "history.sqlite"
    main([str(night(tmp_path, 1)), "--to", str(history)])
    with closing(sqlite3.connect(history)) as database:
        database.execute("DROP VIEW reference")
        database.execute("ALTER TABLE cases DROP COLUMN noise")
        database.execute("ALTER TABLE cases ADD COLUMN gone TEXT DEFAULT 'kept'")
        database.commit()
    assert main([str(night(tmp_path, 2)), "--to", str(history)]) == 0
    with closing(sqlite3.connect(history)) as database:
        found = database.execute("SELECT noise IS NULL, gone FROM reference ORDER BY datetime").fetchall()
    assert {(unknown, gone) for unknown, gone in found[:4]} == {(1, "kept")}
    assert len(found) == 8


def refusal(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), said
    assert said.err.startswith("halobench.export: ")
    return said.err


def broken(*_):
    raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_a_history_as_it_was(tmp_path, capsys, monkeypatch, there):
    history = tmp_path / "history.sqlite"
    if there:
        main([str(night(tmp_path, 1)), "--to", str(history)])
        capsys.readouterr()
    before = read_sqlite(history) if there else None
    monkeypatch.setattr(sqlite, "insert_samples", broken)
    assert "database or disk is full" in refusal(capsys, night(tmp_path, 2), "--to", history)
    assert history.exists() == there
    if there:
        assert all(table.equals(before[name]) for name, table in read_sqlite(history).items())


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_full_disk_leaves_the_tables_as_they_were(tmp_path, capsys, monkeypatch, suffix):
    path = tmp_path / f"records.{suffix}"
    main([str(night(tmp_path, 1)), "--to", str(path)])
    capsys.readouterr()
    before = {place: place.read_bytes() for place in files.paths(path).values()}
    whole = getattr(files, f"to_{suffix}")

    def half(table, file):
        whole(table, file)
        if "samples" in file.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, f"to_{suffix}", half)
    assert "No space left on device" in refusal(capsys, night(tmp_path, 2), "--to", path)
    assert {place: place.read_bytes() for place in before} == before
    assert not list(tmp_path.glob(".halobench-export-*"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("other.csv", b"run,name\n1,2\n"),
        ("other.csv", b"\xff\xfe\x00"),
        ("other.parquet", b"PAR1 and more"),
        ("other-samples.csv", b"a,b\n"),
        ("other.sqlite", b"some text that is no database, and long enough for a header" * 20),
        ("other.sqlite", None),
    ],
)
def test_files_of_others_are_left_alone(tmp_path, capsys, name, content):
    place = tmp_path / name
    if content is None:
        with closing(sqlite3.connect(place)) as database:
            database.execute("CREATE TABLE runs (run TEXT)")
    else:
        place.write_bytes(content)
    before = place.read_bytes()
    said = refusal(capsys, night(tmp_path, 1), "--to", tmp_path / name.replace("-samples", ""))
    assert "give another --to" in said
    assert place.read_bytes() == before


def test_a_parquet_file_of_others_is_left_alone(tmp_path, capsys):
    pd.DataFrame({"run": [1], "speed": [2]}).to_parquet(tmp_path / "other.parquet")
    assert "give another --to" in refusal(capsys, night(tmp_path, 1), "--to", tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("results", "to", "said"),
    [
        ("1.json", "records.xlsx", "--to must end in .sqlite, .parquet or .csv, got "),
        ("1.json", "records", "--to must end in .sqlite, .parquet or .csv, got "),
        ("empty", "records.csv", "holds no results files"),
        ("nowhere.json", "records.csv", "No such file"),
        ("1.json", "nowhere/records.csv", "cannot be written: No such file"),
        ("1.json", "nowhere/records.sqlite", "cannot be written: unable to open database file"),
        ("1.json", "folder.sqlite", "cannot be written: unable to open database file"),
        ("1.json", "folder.csv", "give another --to"),
        ("places.json", "records.csv", "latency.places must be an integer"),
        ("rival.json", "records.csv", "paired.rival_samples_ms must be 3 samples"),
        ("date.json", "records.csv", "datetime must be a date, got 'yesterday'"),
    ],
)
def test_what_cannot_be_exported_gets_one_line(tmp_path, capsys, results, to, said):
    night(tmp_path, 1)
    for folder in ("empty", "folder.sqlite", "folder.csv"):
        (tmp_path / folder).mkdir()
    odd = results_files.row()
    odd["latency"]["places"] = "many"
    results_files.write(tmp_path / "places.json", [odd])
    rival = results_files.network_row("halonet_h0", "sdpa", rival="efficientnet_b0")
    rival["paired"]["rival_samples_ms"] = [1.0]
    results_files.write(tmp_path / "rival.json", [rival])
    results_files.write(tmp_path / "date.json", [results_files.row()], datetime="yesterday")
    before = sorted(tmp_path.rglob("*"))
    assert said in refusal(capsys, tmp_path / results, "--to", tmp_path / to)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_pyarrow_there_is_a_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda _: None)
    assert "pip install pyarrow" in refusal(capsys, night(tmp_path, 1), "--to", tmp_path / "records.parquet")
    assert main([str(tmp_path / "1.json"), "--to", str(tmp_path / "records.csv")]) == 0


def test_a_later_export_replaces_the_tables(tmp_path):
    path = tmp_path / "records.parquet"
    main([str(night(tmp_path, 1)), str(night(tmp_path, 2)), "--to", str(path)])
    main([str(night(tmp_path, 3)), "--to", str(path)])
    assert np.unique(pd.read_parquet(path)["median_ms"]) == [3.0]


def test_help_says_which_files_are_written(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("FILE.sqlite", "FILE-samples.parquet", "FILE.csv", "pyarrow"))

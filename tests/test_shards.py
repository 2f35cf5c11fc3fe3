"""A sweep in shards: which cases each takes, and how their files are read as one."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from halobench import backends, listing
from halobench.cases.options import Options
from halobench.cases.shard import Shard, predicted_s, together
from halobench.compare.__main__ import main as compare
from halobench.export.__main__ import main as export
from halobench.measure.sharding import Sharding
from halobench.records.table import ResultsError, read, read_all
from halobench.report.__main__ import main as report
from tests import results_files

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sweep():
    """All cases of the default tier on a GPU."""
    options = Options("default", tuple(backends.names()), "cuda", "bfloat16")
    return list(listing.cases(listing.suites(ROOT / "suites"), options))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 50])
def test_every_case_is_in_one_shard_and_all_take_as_long(sweep, count):
    """As long as neighbours that stay together allow: no shard is longer than the mean and the longest of these."""
    taken = [Shard(number, count).takes(sweep) for number in range(1, count + 1)]
    assert all(sum(flags) == 1 for flags in zip(*taken, strict=True))
    lengths = [predicted_s([case for case, mine in zip(sweep, flags, strict=True) if mine]) for flags in taken]
    networks = Counter()
    for case in sweep:
        networks[str(together(case))] += predicted_s([case])
    assert max(lengths) <= predicted_s(sweep) / count + max(networks.values())
    assert min(lengths) > 0


def test_cases_that_share_a_rival_stay_together(sweep):
    for number in range(1, 9):
        mine = {case.name for case, taken in zip(sweep, Shard(number, 8).takes(sweep), strict=True) if taken}
        for one, other in pairwise(sweep):
            if together(one) == together(other):
                assert (one.name in mine) == (other.name in mine)


def test_what_is_installed_changes_no_shard(sweep, monkeypatch):
    """A machine without some package must take the same cases."""
    wanted = Shard(2, 8).takes(sweep)
    monkeypatch.setattr(backends, "load", None)
    assert Shard(2, 8).takes(sweep) == wanted


@pytest.mark.parametrize("text", ["0/8", "9/8", "2", "2/", "/8", "a/b", "-1/8", "2/8/3", "1.5/8", "\u00b2/8"])
def test_a_shard_that_cannot_be_is_named(text):
    with pytest.raises(ValueError, match=r"--shard must be a number of a count, such as 2/8, got"):
        Shard.parse(text)
    assert Shard.parse("2/8") == Shard(2, 8)


def test_pytest_measures_the_cases_of_its_shard(sweep):
    """What is no case stays; what is left out is counted as deselected, and the file names the whole sweep."""
    out = []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda *, items: out.extend(items)))
    cases = [
        SimpleNamespace(callspec=SimpleNamespace(params={"case": case}), fixturenames=["measure"]) for case in sweep
    ]
    items = [SimpleNamespace(), *cases]
    sharding = Sharding(Shard(1, 3))
    sharding.pytest_collection_modifyitems(config, items)
    wanted = [item for item, mine in zip(cases, Shard(1, 3).takes(sweep), strict=True) if mine]
    assert items[1:] == wanted
    assert len(items) + len(out) == len(sweep) + 1
    assert sharding.section == {"number": 1, "count": 3, "cases": [case.name for case in sweep]}


ROWS = results_files.campaign(backends=("sdpa", "fused"))


def shards(folder, numbers=(1, 2, 3), rows=None, **header):
    """Files of three shards of one sweep, row by row in turn."""
    rows = ROWS if rows is None else rows
    folder.mkdir(exist_ok=True)
    names = [row["case"] for row in rows]
    given = {"gpu": results_files.H100, **header}
    return [
        results_files.write(
            folder / f"mine-{number}.json", rows[number - 1 :: 3], shard={"number": number, "count": 3, "cases": names},
            datetime=f"2026-11-2{number}T10:00:00+00:00", **given,
        )
        for number in numbers
    ]  # fmt: skip


def test_shards_are_read_as_the_file_of_one_run(tmp_path):
    """The same tables as the whole sweep's, under the highest ceilings; the file of the last that ended."""
    faster = {**results_files.CEILINGS, "copy_bytes_per_s": 3.1e12}
    shards(tmp_path / "shards", numbers=(1, 3))
    shards(tmp_path / "shards", numbers=(2,), ceilings=faster)
    whole = read(results_files.write(tmp_path / "mine-*.json", ROWS, gpu=results_files.H100))
    results = read_all(tmp_path / "shards")
    assert list(results.headers) == ["mine-*.json"]
    header = results.headers["mine-*.json"]
    assert (header.complete, header.lacking, header.datetime) == (True, None, "2026-11-23T10:00:00+00:00")
    assert header.harness["wall_s"] == 270
    assert header.ceilings["copy_bytes_per_s"] == 3.1e12
    by_case = [table.sort_values("case", ignore_index=True) for table in (results.table, whole.table)]
    assert by_case[0].equals(by_case[1])
    assert results.samples_ms == whole.samples_ms
    assert set(results.rows) == set(whole.rows)


def test_missing_cases_are_named(tmp_path, capsys):
    """By name, as far as a line goes, and with the shards that are not there."""
    shards(tmp_path, numbers=(1, 3))
    header = read_all(tmp_path).headers["mine-*.json"]
    missing = [row["case"] for row in ROWS[1::3]]
    said = f"lacks {len(missing)} cases of its sweep: {', '.join(missing[:3])} and {len(missing) - 3} more"
    assert header.lacking == f"{said}; there is no shard 2/3"
    assert not header.complete
    assert capsys.readouterr().err == f"mine-*.json {header.lacking}\n"
    assert read_all(tmp_path / "mine-1.json").headers["mine-1.json"].lacking.endswith("there is no shard 2/3, 3/3")


def test_a_shard_or_a_case_twice_is_named(tmp_path):
    [first, second] = shards(tmp_path, numbers=(1, 2))
    again = tmp_path / "again.json"
    again.write_bytes(first.read_bytes())
    with pytest.raises(ResultsError, match=r"again.json and mine-1.json are both shard 1/3 of one sweep"):
        read_all(tmp_path)
    again.unlink()
    document = json.loads(second.read_text())
    document["benchmarks"].append(json.loads(first.read_text())["benchmarks"][0])
    second.write_text(json.dumps(document))
    with pytest.raises(ResultsError, match=rf"case '{ROWS[0]['case']}' stands in mine-1.json and in mine-2.json"):
        read_all(tmp_path)


def test_other_machines_and_other_sweeps_are_other_runs(tmp_path):
    shards(tmp_path, numbers=(1, 2))
    other = {**results_files.H100, "name": "NVIDIA H200"}
    [third] = shards(tmp_path, numbers=(3,), gpu=other)
    headers = read_all(tmp_path).headers
    assert set(headers) == {"mine-*.json", third.name}
    assert not any(header.complete for header in headers.values())


@pytest.mark.parametrize(
    "said", [{"number": 4, "count": 3, "cases": []}, {"number": "a"}, [], {"number": 1, "count": 2, "cases": [1]}]
)
def test_an_impossible_shard_is_refused(tmp_path, said):
    if not said:
        said = ["2/8"]
    file = results_files.write(tmp_path / "mine.json", ROWS, gpu=results_files.H100, shard=said)
    with pytest.raises(ResultsError, match=r"mine.json: halobench.shard"):
        read(file)


def test_the_readers_take_shards_as_one_run(tmp_path, capsys):
    """A comparison with the whole sweep, a page, and tables; figures are drawn of the same ``read_all``."""
    files = shards(tmp_path / "head", rows=ROWS[:6])
    slower = [{**row, "samples_ms": row["samples_ms"] and [1.001 * ms for ms in row["samples_ms"]]} for row in ROWS[:6]]
    base = results_files.write(tmp_path / "base.json", slower, gpu=results_files.H100)
    assert compare([str(base), str(tmp_path / "head")]) == 0
    assert "1 against 1 run" in capsys.readouterr().out
    assert report([*map(str, files), "-o", str(tmp_path / "page.html")]) == 0
    assert "of 1 file" in capsys.readouterr().out
    assert export([*map(str, files), "--to", str(tmp_path / "records.csv")]) == 0
    assert "1 run: 6 rows in" in capsys.readouterr().out

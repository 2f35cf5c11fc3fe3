"""One truth of the shares: the ceilings that the fastest call of the run left, for early rows and in journals too."""

import json

import pytest

from halobench.figures.selection import selections
from halobench.figures.summary import write
from halobench.records import floors
from halobench.records import table as results
from halobench.report.page import page
from tests import results_files as files

FLOPS = {"bytes": 0.0, "flops": 7.2e11, "exponentials": 0.0}  # 1 ms under the ceilings of these files


def row(backend, ms, *passes, **changes):
    made = files.row(backend, **changes)
    made["floor"] = {"passes": list(passes) or [FLOPS]}
    made["latency"] |= {"median_ms": ms, "low_ms": ms, "high_ms": ms}
    return made


def ceilings(**changes):
    return files.section(gpu=files.H100)["ceilings"] | changes


def test_an_early_row_gets_the_ceiling_that_a_late_one_raised():
    rows = [row("sdpa", 2.0), row("conv", 0.5), row("flex", 4.0)]
    final, settled = floors.settled(ceilings(), rows)
    assert [each["floor"]["share"] for each in settled] == pytest.approx([0.25, 1.0, 0.125])
    assert final["matmul_flops_per_s"] == pytest.approx(2 * files.CEILINGS["matmul_flops_per_s"])
    assert final["raised"]["flops"] == {"measured": files.CEILINGS["matmul_flops_per_s"], "by": rows[1]["case"]}
    assert floors.settled(final, settled) == (final, settled)
    assert json.loads(json.dumps(final, allow_nan=False)) == final


def test_the_floor_of_two_passes_is_their_sum():
    work = {"bytes": 2.9e9, "flops": 0, "exponentials": 0}
    _, (found,) = floors.settled(ceilings(), [row("sdpa", 8.0, FLOPS, work)])
    assert found["floor"] | {"passes": None} == {"ms": pytest.approx(2.0), "share": pytest.approx(0.25),
                                                 "bound": "flops", "passes": None}  # fmt: skip


def test_rows_without_work_or_time_stay_as_they_are():
    before = [
        files.row(),
        files.failed("OOM", "too large"),
        files.network_row("halonet_h0"),
        row("sdpa", 1.0) | {"floor": None},
    ]
    final, after = floors.settled(ceilings(), before)
    assert after == before
    assert final["raised"] == {}
    assert floors.settled(None, before) == (None, before)


@pytest.mark.parametrize(
    "broken",
    [
        {"copy_bytes_per_s": -1},
        {"matmul_flops_per_s": "many"},
        {"device": None},
        {"exponentials_per_s": float("nan")},
    ],
)
def test_impossible_ceilings_are_left_for_the_checks(broken):
    given = ceilings(**broken)
    rows = [row("sdpa", 0.1)]
    assert floors.settled(given, rows) == (given, rows)
    assert floors.notes(given) == []


@pytest.mark.parametrize("work", [[{"bytes": 1}], [None], "text", [{**FLOPS, "flops": -1}], [{**FLOPS, "flops": 1e40}]])
def test_impossible_work_is_no_work(work):
    given = row("sdpa", 0.1)
    given["floor"] = {"passes": work, "share": 0.5}
    final, (found,) = floors.settled(ceilings(), [given])
    assert found == given
    assert final["raised"] == {}


def test_an_unknown_ceiling_gives_no_share():
    _, (found,) = floors.settled(ceilings(exponentials_per_s=None), [row("sdpa", 1.0)])
    assert (found["floor"]["ms"], found["floor"]["share"]) == (None, None)


def test_the_higher_of_two_parts_of_a_run():
    later = ceilings(copy_bytes_per_s=1e13, matmul_flops_per_s=1.0)
    best = floors.higher(ceilings(), later)
    assert (best["copy_bytes_per_s"], best["matmul_flops_per_s"]) == (1e13, files.CEILINGS["matmul_flops_per_s"])
    assert floors.higher(ceilings(), None) == ceilings()
    assert floors.higher(ceilings(), ceilings(dtype="float32", copy_bytes_per_s=1e20)) == ceilings()


def test_a_journal_reads_under_its_own_fastest_call(tmp_path):
    """The row on disk has the share of its moment."""
    rows = [row("sdpa", 2.0), row("conv", 0.5)]
    rows[0]["floor"] |= {"ms": 1.0, "share": 0.5, "bound": "flops"}
    found = results.read(files.write_journal(tmp_path / "mine.jsonl", rows, gpu=files.H100))
    assert list(found.table.sort_values("backend")["floor_share"]) == pytest.approx([1.0, 0.25])
    assert not found.table["floor_doubted"].any()
    assert "conv" in floors.notes(found.headers["mine.jsonl"].ceilings)[0]


def shown(tmp_path, rows, **header):
    """What the summary, the page and the figures' feet say of these rows."""
    found = results.read(files.write(tmp_path / "mine.json", rows, gpu=files.H100, **header))
    (one,) = selections(found)
    write(found, [one], [], tmp_path)
    return found.table, one, (tmp_path / "summary.md").read_text(), page(found)


def test_a_doubt_stands_wherever_shares_do(tmp_path):
    """A file from before ceilings were raised, whose calls were faster than they could have been."""
    old = [files.row("sdpa"), files.row("conv"), files.failed("OOM", "too large", "flex")]
    old[1]["floor"] = {"ms": 2.0, "share": 2.28, "bound": "flops"}
    table, one, summary, html = shown(tmp_path, old)
    said = "1 case took less time than the floor, by a factor of up to 2.28"
    assert said in summary
    assert html.count(f"bfloat16: {said}") > 2  # above the table of all cases, and at every chart
    assert "shares too high: 1 case below the floor, by up to 2.28" in one.footer(one.table, shares=True)
    assert "shares too high" not in one.footer(one.table)
    doubted = table.set_index("backend")["floor_doubted"]
    assert (doubted["sdpa"], doubted["conv"], doubted.isna()["flex"]) == (True, True, True)
    assert "floor_doubted" in (tmp_path / "summary.csv").read_text().splitlines()[0]


def test_a_raised_ceiling_is_said(tmp_path):
    final, rows = floors.settled(ceilings(), [row("sdpa", 2.0), row("conv", 0.5)])
    table, one, summary, html = shown(tmp_path, rows, ceilings={**final})
    note = f"the ceiling of flops was raised from 7.2e+14 to 1.44e+15 a second by {rows[1]['case']}"
    assert note in summary
    assert note in html
    assert "shares too high" not in one.footer(one.table, shares=True)
    assert not table["floor_doubted"].any()


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (2.114e11, "2.11e+11 to 2.114e+11 a"),
        (2.1100001e11, "2.11e+11 to 2.1100001e+11 a"),
        (3e11, "2.11e+11 to 3e+11 a"),
    ],
)
def test_however_little_a_ceiling_was_raised_its_note_tells_the_two_apart(rate, said):
    lifted = {"flops": {"by": "conv", "measured": 2.11e11}}
    (note,) = floors.notes({**ceilings(), "matmul_flops_per_s": rate, "raised": lifted})
    assert said in note


def test_without_a_doubt_nothing_is_said(tmp_path):
    table, one, summary, html = shown(tmp_path, [files.row("sdpa")])
    assert one.doubts == []
    assert "raised" not in summary
    assert 'class="doubt"' not in html
    assert list(table["floor_doubted"]) == [False]

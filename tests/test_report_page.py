"""The report as it is made: numbers as on other pages, pages of results that lack something, refusals in one line."""

import pytest

from halobench.figures.selection import network_selections, selections
from halobench.pages import networks, operators
from halobench.records.table import read_all
from halobench.report import charts, headline, network_charts
from halobench.report.__main__ import main
from halobench.report.page import page
from halobench.report.points import points
from tests import results_files as files


def test_the_headline_has_the_numbers_of_the_readmes_tables(tmp_path):
    """Both are made of the same rows."""
    rows = [*files.campaign(sides=(64,), blocks=(8,), halos=(3,), grid=(), stages=0), *files.network_campaign()]
    results = read_all([files.write(tmp_path / "mine.json", rows, gpu=files.H100)])
    at_reference, of_networks = headline.headlines(results)
    tables = operators.reference(selections(results)), networks.pairs(network_selections(results))
    assert (len(at_reference.table.lines), len(of_networks.table.lines)) == (len(files.BACKENDS), 4)
    for line in of_networks.table.lines:
        assert f"| {' | '.join(line[:5])} | " in tables[1]
    for name, forward, training, *_ in at_reference.table.lines:
        times = [cell.partition(" ")[0] for cell in (forward, training)]
        assert f"| `{name}` | {times[0]} ms | {times[1]} ms |" in tables[0]


def test_pairs_of_different_batches_are_one_line_and_each_batch_of_inference_is_one(tmp_path):
    """Large networks need smaller batches; inference is measured at two of each network."""
    for number, batch in ((0, 128), (1, 128), (7, 16)):
        rows = [files.network_row(f"halonet_h{number}", "fused", batch=batch)]
        rows += [files.network_row(f"halonet_h{number}", "fused", "forward", batch=of) for of in (1, batch)]
        files.write(tmp_path / f"{number}.json", rows, gpu=files.H100)
    rows = points(read_all([tmp_path]))
    lines = rows.assign(line=network_charts.apart(rows)).groupby("direction")["line"].unique()
    assert list(lines["training"]) == [""]
    assert sorted(lines["forward"]) == ["1.0", "128.0", "16.0"]


def test_cells_of_block_and_halo_are_of_replayed_steps_where_there_are_any(tmp_path):
    """A launched step would lie in the same cell; cells of operators stay as they are."""
    same = {"groups": ["grid"], "overrides": {"block": "8", "halo": "3"}}
    rows = [files.network_row("halonet_h1", "fused", **same, captured=captured) for captured in (False, True)]
    files.write(tmp_path / "mine.json", [files.row(groups=["grid"]), *rows], gpu=files.H100)
    results = read_all([tmp_path])
    (grid,) = [figure for figure in charts.draw(results, points(results)) if figure.name == "grid"]
    (drawn,) = grid.spec()["datasets"].values()
    wanted = ["operator", "training"]
    assert sorted(row["suite"] for row in drawn) == wanted
    assert [row["case"].endswith("captured-block=8-halo=3") for row in drawn if row["suite"] == "training"] == [True]


def test_a_run_that_was_killed_before_its_first_case_makes_a_page(tmp_path, capsys):
    path = files.write_journal(tmp_path / "mine.jsonl", [], gpu=files.H100)
    assert main([str(path), "-o", str(tmp_path / "page.html")]) == 0
    assert "0 cases of 1 file" in capsys.readouterr().out


def test_rows_with_a_time_and_nothing_else_make_a_page(tmp_path):
    bare = {"cost": None, "floor": None, "memory": None, "groups": []}
    rows = [files.row("sdpa", **bare), files.network_row("halonet_h0", "sdpa", memory=None, throughput=None, groups=[])]
    path = files.write(tmp_path / "mine.json", rows, gpu=files.H100)
    assert "data-chart=" not in page(read_all(path))


def test_networks_without_a_rival_make_a_page(tmp_path):
    path = files.write(tmp_path / "mine.json", [files.network_row("halonet_h0", "sdpa")], gpu=files.H100)
    made = page(read_all(path))
    assert "the fastest of each network" in made
    assert "data:image/png" not in made  # there is no ratio to be drawn


@pytest.mark.parametrize("failed", [files.failed, files.failed_network])
def test_results_without_a_time_make_a_page(tmp_path, failed):
    path = files.write(tmp_path / "mine.json", [failed("OOM", "too large", "sdpa")])
    made = page(read_all(path))
    assert "too large" in made
    assert "data-chart=" not in made


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.json"], "absent.json: No such file or directory"),
        (["mine.json", "-o", "mine.json"], "--output must name an HTML file, got mine.json"),
        (["mine.json", "-o", "absent/report.html"], "absent/report.html cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_gets_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    path = files.write(tmp_path / "mine.json", [files.row()])
    before = path.read_bytes()
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"halobench.report: {said}\n"
    assert path.read_bytes() == before


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m halobench.report results/" in capsys.readouterr().out

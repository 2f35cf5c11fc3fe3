"""Figures: every row that was measured is drawn, every failure is marked, and the same results give the same bytes."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.figure import Figure

from halobench import plot
from halobench.figures.scale import three_digits
from halobench.figures.selection import selections
from halobench.figures.style import FAILURES, KNOWN, look, styles
from halobench.records import table as results
from tests import results_files as files

FEW = ("naive_unfold", "flex", "fused", "timm_halo", "lucidrains", "global_sa", "my_own")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """The results of a whole run on a GPU, with a layer suite."""
    rows = files.campaign(FEW)
    rows += [files.row(name, suite="layer", height=side, groups=["side"]) for name in FEW[:3] for side in (32, 64)]
    rows += [files.row(name, suite="layer", height=40, groups=[]) for name in FEW[:3]]
    path = files.write(tmp_path_factory.mktemp("results") / "h100.json", rows, gpu=files.H100)
    return results.read_all([path])


@pytest.fixture(scope="module")
def drawn(campaign):
    """Its figures by name, or why there is none."""
    with look():
        return dict(plot.figures(selections(campaign)[0]))


def read(folder, rows, **header):
    """The only selection of these rows."""
    (selection,) = selections(results.read(files.write(folder / "mine.json", rows, **header)))
    return selection


def figures_of(selection):
    """The figures of a selection by name, or why there is none."""
    with look():
        return dict(plot.figures(selection))


def panels(figure):
    """The axes of a figure that are no strip of failures."""
    return [axes for axes in figure.axes if axes.get_label() != "failures"]


def test_a_whole_run_yields_every_figure(drawn):
    both = ("side", "block", "halo", "grid", "stages", "roofline", "closed-form")
    expected = {f"{name}-{direction}" for name in both for direction in ("forward", "training")}
    expected |= {"speedup", "work", "layer-side-forward", "layer-latency-1"}
    assert {name for name, figure in drawn.items() if isinstance(figure, Figure)} == expected
    assert drawn["layer-block"] == "no layer rows of group 'block'"


def test_stages_of_several_batches_are_several_figures(tmp_path):
    rows = [files.row(batch=batch, groups=["stages"], label="H0 stage 1") for batch in (8, 64)]
    drawn = figures_of(read(tmp_path, rows))
    for batch in (8, 64):
        figure = drawn[f"stages-forward-n{batch}"]
        assert f"batch {batch}:" in "".join(text.get_text() for text in figure.texts)


def test_axes_carry_units(drawn):
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in panels(drawn["side-forward"])]
    assert labels == [
        ("feature-map side (pixels)", "latency (ms)"),
        ("feature-map side (pixels)", "peak memory above the inputs (MiB)"),
        ("feature-map side (pixels)", "executed work, closed form (GFLOP)"),
    ]
    assert panels(drawn["roofline-forward"])[0].get_ylabel() == "achieved useful TFLOP/s"


def test_axes_are_logarithmic_but_the_halo_which_begins_at_zero(drawn):
    for axis, scale in (("side", "log"), ("block", "log"), ("halo", "linear")):
        for axes in panels(drawn[f"{axis}-forward"]):
            assert (axes.get_xscale(), axes.get_yscale()) == (scale, "log")


def test_a_line_holds_what_was_measured_in_the_unit_of_the_axis(campaign, drawn):
    rows = campaign.table.query("suite == 'operator' and backend == 'fused' and direction == 'forward'")
    rows = rows[rows["groups"].str.contains("side")].sort_values("height")
    for axes, column, scale in zip(
        panels(drawn["side-forward"]), ("median_ms", "peak_bytes", "executed_flops"), (1, 2**-20, 1e-9), strict=True
    ):
        (line,) = [line for line in axes.lines if line.get_label() == "fused"]
        assert list(line.get_xdata()) == [32, 64, 128]
        assert list(line.get_ydata()) == pytest.approx(list(rows[column] * scale))


def test_a_confidence_band_spans_the_interval(tmp_path):
    one = files.row(groups=["side"])
    axes = panels(figures_of(read(tmp_path, [one]))["side-forward"])[0]
    ends = [point for path in axes.collections[-1].get_paths() for point in path.vertices[:, 1]]
    assert ends == pytest.approx([one["latency"]["low_ms"], one["latency"]["high_ms"]])


@pytest.mark.parametrize("status", FAILURES)
def test_a_failure_is_marked_where_it_happened(tmp_path, status):
    rows = [files.row(height=side, groups=["side"]) for side in (32, 128)]
    rows.append(files.failed(status, "because", height=64, groups=["side"]))
    figure = figures_of(read(tmp_path, rows))["side-forward"]
    strips = [axes for axes in figure.axes if axes.get_label() == "failures"]
    assert len(strips) == 3
    for axes in strips:
        (mark,) = axes.lines
        assert list(mark.get_xdata()) == [64]
        assert mark.get_marker() == FAILURES[status]
    assert [label.get_text() for label in strips[0].get_yticklabels()] == ["naive_unfold"]
    assert status in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_line_is_broken_where_a_case_failed(tmp_path):
    rows = [files.row(height=side, groups=["side"]) for side in (32, 128)]
    rows.append(files.failed("CRASHED", "because", height=64, groups=["side"]))
    (line,) = panels(figures_of(read(tmp_path, rows))["side-forward"])[0].lines
    assert list(pd.isna(pd.Series(line.get_ydata()))) == [False, True, False]


def test_failures_stand_in_the_cells_of_the_heat_map(drawn):
    (axes,) = [axes for axes in drawn["grid-forward"].axes if axes.get_title() == "lucidrains"]
    assert "unsup." in [text.get_text() for text in axes.texts]


def test_a_backend_that_failed_everywhere_has_a_heat_map_too(tmp_path):
    rows = [files.row(groups=["grid"]), files.failed("OOM", "because", backend="flex", groups=["grid"])]
    figure = figures_of(read(tmp_path, rows))["grid-forward"]
    (axes,) = [axes for axes in figure.axes if axes.get_title() == "flex"]
    assert [text.get_text() for text in axes.texts] == ["OOM"]


def test_a_backend_with_another_border_says_so_in_every_legend(drawn):
    for name in ("side-forward", "closed-form-forward", "roofline-forward"):
        assert "timm_halo (border zero)" in [text.get_text() for text in drawn[name].legends[0].get_texts()]


def test_suites_are_never_in_one_line(campaign, drawn):
    (line,) = [line for line in panels(drawn["layer-side-forward"])[0].lines if line.get_label() == "fused"]
    assert list(line.get_xdata()) == [32, 64]
    assert set(selections(campaign)[0].reference["suite"]) == {"operator"}


def test_the_speed_up_is_over_the_naive_backend(campaign, drawn):
    reference = selections(campaign)[0].reference.query("direction == 'forward'").set_index("backend")["median_ms"]
    texts = [text.get_text() for text in drawn["speedup"].axes[0].texts]
    assert f"{three_digits(reference['naive_unfold'] / reference['fused'])} x" in texts
    assert "1.00 x" in texts


def test_the_roof_is_the_measured_ceiling(drawn):
    roof = drawn["roofline-forward"].axes[0].lines[0]
    assert max(roof.get_ydata()) == pytest.approx(files.CEILINGS["matmul_flops_per_s"] * 1e-12)
    left = roof.get_ydata()[0] / roof.get_xdata()[0]
    assert left == pytest.approx(files.CEILINGS["copy_bytes_per_s"] * 1e-12)


def test_fvcore_is_doubled_before_it_is_compared(tmp_path):
    one = files.row()
    figure = figures_of(read(tmp_path, [one]))["closed-form-forward"]
    ((x, y),) = figure.axes[2].collections[0].get_offsets()
    assert x == pytest.approx(one["cost"]["executed_flops"] * 1e-9)
    assert y == pytest.approx(2 * one["cost"]["fvcore_flops"] * 1e-9)


def test_a_counter_that_reads_zero_stays_visible(tmp_path):
    zero = files.row("sdpa")
    figure = figures_of(read(tmp_path, [zero, files.row()]))["closed-form-forward"]
    axes = figure.axes[2]
    places = [place for marks in axes.collections for place in marks.get_offsets()[:, 1]]
    assert len(places) == 2
    assert all(axes.get_ylim()[0] < place < axes.get_ylim()[1] for place in places)


def test_the_legend_covers_no_panel(drawn):
    for name in ("side-forward", "roofline-forward", "closed-form-training", "work"):
        figure = drawn[name]
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes), name
        assert not any(box.overlaps(text.get_window_extent()) for text in figure.texts), name


def test_the_footer_says_what_was_measured_on_what(drawn):
    footer = "NVIDIA H100 80GB HBM3  ·  bfloat16  ·  torch 2.14.1  ·  commit 0123456+dirty  ·  tier full"
    for figure in drawn.values():
        assert isinstance(figure, str) or footer in [text.get_text() for text in figure.texts]


def test_looks_are_distinct_and_do_not_depend_on_company():
    alone, together = styles(["my_own"]), styles([*KNOWN, "my_own", "other", "third"])
    assert alone["my_own"] == together["my_own"]
    assert len(set(together.values())) == len(together)
    assert {together[name] for name in KNOWN} == set(KNOWN.values())


def test_what_is_absent_yields_a_line_and_no_figure(tmp_path):
    drawn = figures_of(read(tmp_path, [files.row("sdpa", groups=["side"])], ceilings=None))
    assert isinstance(drawn.pop("side-forward"), Figure)
    assert isinstance(drawn.pop("closed-form-forward"), Figure)
    assert drawn["roofline-forward"] == "the results hold no measured ceilings for this machine and dtype"
    assert all(isinstance(reason, str) for reason in drawn.values())


def test_of_a_case_measured_twice_the_newest_counts(tmp_path):
    old, new = files.row(), files.row()
    new["latency"]["median_ms"] *= 2
    files.write(tmp_path / "a.json", [new], gpu=files.H100, datetime="2026-11-21T00:00:00")
    files.write(tmp_path / "b.json", [old], gpu=files.H100, datetime="2026-11-20T00:00:00")
    (selection,) = selections(results.read_all(tmp_path))
    assert list(selection.table["median_ms"]) == [new["latency"]["median_ms"]]
    assert [header.file for header in selection.headers] == ["a.json"]


@pytest.mark.parametrize(("began", "newest"), [(None, "a.jsonl"), ("2026-11-21", "a.jsonl"), ("2026-11-19", "b.json")])
def test_of_a_case_in_a_journal_and_a_finished_run_the_newer_counts(tmp_path, began, newest):
    """Journals once bore no date: such a run was begun after those that are finished, or it would be finished, too."""
    rows = {"a.jsonl": files.row(), "b.json": files.row()}
    rows["a.jsonl"]["latency"]["median_ms"] *= 2
    files.write_journal(tmp_path / "a.jsonl", [rows["a.jsonl"]], gpu=files.H100, datetime=began)
    files.write(tmp_path / "b.json", [rows["b.json"]], gpu=files.H100, datetime="2026-11-20T00:00:00")
    (selection,) = selections(results.read_all(tmp_path))
    assert list(selection.table["median_ms"]) == [rows[newest]["latency"]["median_ms"]]
    said = selection.footer(selection.table)
    assert ("a.jsonl: the run did not finish" in said) == (newest == "a.jsonl")


def test_a_footer_names_the_files_of_its_figure_alone(tmp_path):
    """Another figure of the same machine may be from a run that did not finish."""
    files.write(tmp_path / "a.json", [files.row()], gpu=files.H100)
    files.write_journal(tmp_path / "b.jsonl", [files.row(backend="sdpa")], gpu=files.H100)
    (selection,) = selections(results.read_all(tmp_path))
    table = selection.table
    assert "b.jsonl" not in selection.footer(table[table["backend"] == "naive_unfold"])
    assert "b.jsonl" in selection.footer(table)


def test_machines_and_dtypes_get_figures_of_their_own(tmp_path):
    few = [files.row(name, groups=["side"]) for name in ("naive_unfold", "sdpa")]
    files.write(tmp_path / "h100.json", few, gpu=files.H100)
    files.write(tmp_path / "half.json", [files.row(dtype="float16", groups=["side"])], gpu=files.H100)
    files.write(tmp_path / "cpu.json", [files.row(device="cpu", dtype="float32", groups=["side"])], ceilings=None)
    paths = plot.draw(results.read_all(tmp_path), tmp_path / "out", "svg")
    assert {path.name for path in paths if "side" in path.name} == {
        "intel-xeon-cpu-2-20ghz-float32-side-forward.svg",
        "nvidia-h100-80gb-hbm3-bfloat16-side-forward.svg",
        "nvidia-h100-80gb-hbm3-float16-side-forward.svg",
    }


@pytest.mark.parametrize("form", plot.FORMATS)
def test_the_same_results_give_the_same_bytes(tmp_path, form):
    rows = [files.row(name, groups=["side"]) for name in ("naive_unfold", "timm_halo")]
    rows.append(files.failed("OOM", "too big", height=128, groups=["side"]))
    read_once = results.read(files.write(tmp_path / "mine.json", rows, gpu=files.H100))
    first, second = (plot.draw(read_once, tmp_path / name, form) for name in ("first", "second"))
    assert len(first) == 3
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    for name in ("summary.csv", "summary.md"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(mpl.rcParams)
    plot.draw(results.read(files.write(tmp_path / "mine.json", [files.row(groups=["side"])])), tmp_path, "svg")
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="format must be one of png, svg, got 'gif'"):
        plot.draw(results.read(files.write(tmp_path / "mine.json", [files.row()])), tmp_path, "gif")


def test_the_command_draws_summarises_and_indexes(tmp_path, capsys):
    rows = [files.row(groups=["side", "block", "halo"]), files.failed("OOM", "a | b", "sdpa", groups=["side"])]
    files.write(tmp_path / "mine.json", rows, gpu=files.H100)
    assert plot.main([str(tmp_path), "--format", "svg", "--index"]) == 0
    said = capsys.readouterr().out
    assert "no nvidia-h100-80gb-hbm3-bfloat16-stages.svg: no operator rows of group 'stages'" in said
    table = pd.read_csv(tmp_path / "figures" / "summary.csv")
    assert list(table["status"]) == ["OK", "OOM"]
    summary = (tmp_path / "figures" / "summary.md").read_text()
    assert "| naive_unfold | " in summary
    assert "| operator | sdpa | forward | OOM | a \\| b | 1 |" in summary
    index = (tmp_path / "README.md").read_text()
    assert "| mine.json | NVIDIA H100 80GB HBM3 | bfloat16 | full | 2.14.1 | 0123456+dirty | 2026-11-20 |" in index
    assert "| 1 OK, 1 OOM | 90 s | 11% |" in index
    links = [line.partition("(")[2].rstrip(")") for line in index.splitlines() if line.startswith("![")]
    assert links
    assert all((tmp_path / link).is_file() for link in links)


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_the_summary_doubts_times_below_their_floor(tmp_path, share):
    row = files.row(groups=["side", "block", "halo"])
    row["floor"]["share"] = share
    files.write(tmp_path / "mine.json", [row])
    assert plot.main([str(tmp_path / "mine.json"), "--output", str(tmp_path / "out")]) == 0
    said = "1 case took less time than the floor" in (tmp_path / "out" / "summary.md").read_text()
    assert said == (share > 1)


def test_the_index_is_written_only_on_request(tmp_path):
    files.write(tmp_path / "mine.json", [files.row(groups=["side"])])
    assert plot.main([str(tmp_path / "mine.json"), "--format", "svg", "--output", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "README.md").exists()
    assert (tmp_path / "out" / "summary.md").is_file()


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda _: None, "No such file or directory"),
        (lambda folder: folder.mkdir(), "holds no results files"),
        (
            lambda folder: (folder.mkdir(), (folder / "bad.json").write_text("{")),
            "holds 1 results file, and none could be read",
        ),
        (
            lambda folder: (folder.mkdir(), files.write(folder / "mine.json", [files.failed("OOM", "too big")])),
            "nothing could be drawn",
        ),
    ],
)
def test_where_nothing_can_be_drawn_the_command_says_so_and_exits_with_2(tmp_path, capsys, prepare, said):
    prepare(tmp_path / "results")
    assert plot.main([str(tmp_path / "results")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("halobench.plot: ")
    assert said in last


def test_the_module_is_a_command_that_needs_no_display(tmp_path):
    files.write(tmp_path / "mine.json", [files.row(device="cpu", dtype="float32", groups=["side"])], ceilings=None)
    command = [sys.executable, "-m", "halobench.plot", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(plot.__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures" / "intel-xeon-cpu-2-20ghz-float32-side-forward.png").is_file()

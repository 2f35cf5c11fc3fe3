"""Figures of whole networks and of training runs: what was measured is drawn, and what failed is marked."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from halobench import plot
from halobench.figures import curves, networks, published
from halobench.figures.selection import network_selections
from halobench.figures.style import FAILURES, canvas, look
from halobench.records import table as results
from tests import results_files as files
from tests.results_files import network_row

ALL = ("ratio", "memory", "throughput", "inference", "hybrids", "transfer", "components", "side", "grid")


def figures_of(path):
    (selection,) = network_selections(results.read(path))
    with look():
        return selection, dict(plot.network_figures(selection))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "h100.json"
    return figures_of(files.write(path, files.network_campaign(), gpu=files.H100))


def drawn_line(axes, name):
    (line,) = [line for line in axes.lines if line.get_label() == name]
    return line


def test_a_full_tier_yields_every_figure(drawn):
    _, figures = drawn
    assert {name for name, figure in figures.items() if isinstance(figure, Figure)} == set(ALL)


def test_the_ratio_is_the_paired_one_beside_the_line_at_one(drawn):
    selection, figures = drawn
    eager, compiled = figures["ratio"].axes
    assert (eager.get_title(), compiled.get_title()) == ("eager", "compiled")
    assert [tick.get_text() for tick in eager.get_xticklabels()] == ["H0 : B0", "H1 : B1", "H2 : B2", "H7 : B7"]
    rows = selection.rows("training", "pairs", "training")
    wanted = rows[(rows["backend"] == "sdpa") & ~rows["compiled"].astype(bool)].sort_values("model")["ratio"].tolist()
    assert drawn_line(eager, "sdpa").get_ydata() == pytest.approx(wanted)
    assert any(list(line.get_ydata()) == [1, 1] for line in eager.lines)


def several_files(folder, *groups):
    """The figures of one file for each of these lists of rows."""
    folder.mkdir()
    for number, rows in enumerate(groups):
        files.write(folder / f"{number}.json", rows, gpu=files.H100)
    (selection,) = network_selections(results.read_all([folder]))
    with look():
        return dict(plot.network_figures(selection))


def pair(number, batch, **changes):
    own, rival = f"halonet_h{number}", f"efficientnet_b{number}"
    return [network_row(rival, batch=batch, **changes), network_row(own, "fused", rival=rival, batch=batch, **changes)]


def test_pairs_of_several_files_stand_in_one_figure_and_each_says_its_batch(tmp_path):
    """A panel has the pairs that were measured in its mode."""
    groups = [pair(number, batch, compiled=True) for number, batch in ((7, 16), (1, 128), (0, 128), (2, 64))]
    figures = several_files(tmp_path / "all", *groups, pair(0, 128))
    for name in ("ratio", "memory"):
        eager, compiled = figures[name].axes
        assert [tick.get_text() for tick in eager.get_xticklabels()] == ["H0 : B0\nbatch 128"]
        ticks = [tick.get_text() for tick in compiled.get_xticklabels()]
        batches = (128, 128, 64, 16)
        assert ticks == [f"H{n} : B{n}\nbatch {batch}" for n, batch in zip((0, 1, 2, 7), batches, strict=True)]
        assert len(drawn_line(compiled, "fused").get_xdata()) == 4
    for name in ("ratio", "memory", "throughput"):
        said = [text.get_text() for text in figures[name].texts]
        assert any(line.startswith("batch 128 (H0, H1), 64 (H2), 16 (H7), channels-last") for line in said)


def crowded(axes):
    """What stands on a mark or another text, outside of its panel, or far from the mark that it is about."""
    axes.figure.draw_without_rendering()
    point, frame = axes.figure.dpi / 72, axes.get_window_extent()
    lines = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    marks = [mark for line in lines for mark in line.get_transform().transform(line.get_xydata())]
    marks = [Bbox([mark - 2.5 * point, mark + 2.5 * point]) for mark in marks if np.isfinite(mark).all()]
    boxes = [text.get_window_extent() for text in axes.texts]
    found = []
    for text, box in zip(axes.texts, boxes, strict=True):
        own = axes.transData.transform(text.xy)
        far = np.abs((box.min + box.max) / 2 - own) - np.array(box.size) / 2 > 22 * point
        inside = frame.contains(*box.min) and frame.contains(*box.max)
        if box.count_overlaps(boxes) > 1 or box.count_overlaps(marks) or far.any() or not inside:
            found.append(text.get_text())
    return found


def test_no_number_of_a_ratio_lies_on_another_mark(tmp_path):
    """Nor on another number, nor far from its own mark: two ratios are nearly the same, two exactly."""
    rows = pair(1, 128)
    for backend, ratio in (("sdpa", 5.9), ("naive_unfold", 5.9), ("compiled", 6.0), ("flex", 3.9)):
        row = network_row("halonet_h1", backend, rival="efficientnet_b1", batch=128)
        row["paired"] |= {"ratio": ratio, "ratio_low": 0.99 * ratio, "ratio_high": 1.01 * ratio}
        rows.append(row)
    (axes,) = several_files(tmp_path / "close", rows)["ratio"].axes
    axes.figure.draw_without_rendering()
    assert sorted(text.get_text() for text in axes.texts) == ["1.20", "3.90", "5.90", "5.90", "6.00"]
    assert crowded(axes) == []


def test_no_name_of_a_network_lies_on_a_mark(drawn):
    _, figures = drawn
    assert [crowded(axes) for axes in figures["throughput"].axes] == [[], []]


def test_a_line_over_parameters_is_broken_at_a_model_that_was_not_measured(tmp_path):
    rows = [row for number in (0, 1, 2) for row in pair(number, 128)]
    rows += [network_row(f"halonet_h{n}", "sdpa", rival=f"efficientnet_b{n}", batch=128) for n in (0, 2)]
    (axes,) = several_files(tmp_path / "gap", rows)["throughput"].axes
    assert np.isfinite(drawn_line(axes, "sdpa").get_ydata()).tolist() == [True, False, True]
    assert np.isfinite(drawn_line(axes, "fused").get_ydata()).tolist() == [True, True, True]


def test_a_side_that_failed_is_marked_and_breaks_its_line(tmp_path):
    rows = [network_row("resnet50", groups=["side"], side=side) for side in (128, 512)]
    rows.append(files.failed_network("OOM", "no room", "resnet50", groups=["side"], side=256))
    figure = several_files(tmp_path / "side", rows)["side"]
    line = drawn_line(figure.axes[0], "resnet50")
    assert np.isfinite(line.get_ydata()).tolist() == [True, False, True]
    (mark,) = [line for line in figure.axes[0].lines if line.get_marker() == FAILURES["OOM"]]
    assert list(mark.get_xdata()) == [256]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["resnet50", "resnet50, ResNet: OOM"]


def test_a_network_is_named_once_in_a_panel_at_its_fastest(drawn):
    _, figures = drawn
    eager = figures["throughput"].axes[0]
    names = {text.get_text(): text for text in eager.texts}
    assert (
        sorted(names)
        == sorted(text.get_text() for text in eager.texts)
        == ["B0", "B1", "B2", "B7", "H0", "H1", "H2", "H7"]
    )
    assert names["H1"].xy[1] == max(
        line.get_ydata()[1] for line in eager.lines if line.get_label() in ("sdpa", "fused")
    )


def test_memory_shows_variants_that_need_the_same(drawn):
    """Both lines are seen."""
    _, figures = drawn
    axes = figures["memory"].axes[0]
    places = [tuple(drawn_line(axes, name).get_xdata()) for name in ("EfficientNet", "sdpa", "fused")]
    assert len(set(places)) == 3
    assert all(abs(place - round(place)) < 0.3 for places_of in places for place in places_of)


def test_replayed_steps_take_the_place_of_launched_ones(tmp_path):
    """Over block and halo and over the side; what has no replayed twin stays, and of several batches the largest."""
    grid = {"groups": ["grid"], "backend": "fused", "overrides": {"block": "8", "halo": "3"}}
    launched = network_row("halonet_h1", **grid)
    replayed, smaller = (network_row("halonet_h1", **grid, captured=True, batch=batch) for batch in (64, 32))
    alone = network_row("halonet_h1", **grid | {"overrides": {"block": "8", "halo": "1"}})
    sides = [
        network_row("resnet50", groups=["side"], side=side, captured=captured)
        for side, captured in ((128, True), (256, True), (256, False), (512, False))
    ]
    figures = several_files(tmp_path / "both", [launched, alone, *sides], [replayed, smaller])
    cells = [text.get_text() for text in figures["grid"].axes[0].texts]
    assert cells == [f"{row['latency']['median_ms']:.3g}" for row in (alone, replayed)]
    line = next(line for line in figures["side"].axes[0].lines if len(line.get_xdata()) > 1)
    assert list(line.get_xdata()) == [128, 256, 512]


def test_a_single_side_is_no_axis(tmp_path):
    """The baseline of the components belongs to the axis, too."""
    figures = several_files(tmp_path / "one", [network_row("resnet50", groups=["components", "side"])])
    assert figures["side"] == "no training step of group 'side' was measured at two sides"


def test_figures_say_how_their_networks_are_called(drawn):
    _, figures = drawn
    said = {name: figures[name].texts[1].get_text() for name in ("grid", "side", "hybrids", "components", "ratio")}
    assert all("eager, replayed as a CUDA graph" in said[name] for name in ("grid", "side"))
    assert ", compiled, " in said["hybrids"]
    assert ", eager, " in said["components"]
    assert "LS: label smoothing" in said["components"]
    assert "eager" not in said["ratio"]  # its panels say so


def test_a_figure_is_as_wide_as_its_lines():
    """A footer names many files; a grid of one backend is narrow."""
    figure = canvas(3.0, 2.0, "title", "subtitle", "footer " * 40)
    for line in figure.texts:
        extent = line.get_window_extent()
        assert 0 < extent.x0 < extent.x1 < figure.get_size_inches()[0] * figure.dpi


def test_memory_and_throughput_show_the_rival_too(drawn):
    _, figures = drawn
    memory, throughput = figures["memory"].axes[0], figures["throughput"].axes[0]
    assert drawn_line(memory, "EfficientNet").get_ydata() == pytest.approx([3e9 / 2**30] * 4)
    millions = [files.MILLIONS[name] for name in ("b0", "b1", "b2", "b7")]
    assert drawn_line(throughput, "EfficientNet").get_xdata() == pytest.approx(millions)


def test_a_rival_at_its_best_is_drawn_beside_what_timm_wrote(tmp_path):
    """Else the faster of two rivals, which the ratios are over, would be in no figure of speed or memory."""
    same = {"compiled": True, "side": 224}
    rows = [
        network_row("efficientnet_b0", **same),
        network_row("fused_efficientnet_b0", rival="efficientnet_b0", groups=["accelerate"], **same),
        network_row("fused_efficientnet_b1", rival="efficientnet_b1", groups=["accelerate"], **same),  # nobody's rival
        network_row("halonet_h0", "fused", rival="fused_efficientnet_b0", compiled=True),
    ]
    (selection,) = network_selections(results.read(files.write(tmp_path / "mine.json", rows, gpu=files.H100)))
    with look():
        figures = dict(networks.draw(selection))
    for name in ("memory", "throughput"):
        (axes,) = figures[name].axes
        known = np.isfinite(drawn_line(axes, "EfficientNet, fused normalisation").get_ydata())
        assert np.count_nonzero(known) == 1
        assert np.count_nonzero(np.isfinite(drawn_line(axes, "EfficientNet").get_ydata())) == 1


def test_a_failure_is_marked_and_its_line_ends(drawn):
    _, figures = drawn
    eager = figures["ratio"].axes[0]
    there = np.isfinite(drawn_line(eager, "strided_gather").get_ydata())
    assert there.tolist() == [True, True, True, False]  # H7 ran out of memory
    marks = [line for line in eager.lines if line.get_marker() == FAILURES["OOM"]]
    assert len(marks) == 1
    (legend,) = figures["ratio"].legends
    assert "strided_gather: OOM" in [text.get_text() for text in legend.get_texts()]
    eager.figure.draw_without_rendering()
    for axes in figures["ratio"].axes:
        for mark in (line for line in axes.lines if line.get_marker() in FAILURES.values()):
            box, frame = mark.get_window_extent(), axes.get_window_extent()
            assert frame.contains(*box.min)
            assert frame.contains(*box.max)


def test_a_line_is_broken_where_a_model_was_not_measured(tmp_path):
    rows = [row for number in (0, 2) for row in pair(number, 128)]
    rows += [network_row("efficientnet_b1"), network_row("halonet_h1", "sdpa", rival="efficientnet_b1")]
    _, figures = figures_of(files.write(tmp_path / "mine.json", rows, gpu=files.H100))
    (axes,) = figures["ratio"].axes
    assert np.isfinite(drawn_line(axes, "fused").get_ydata()).tolist() == [True, False, True]


def test_hybrids_stand_beside_the_published_table(drawn):
    selection, figures = drawn
    (axes,) = figures["hybrids"].axes
    heights = [patch.get_height() for patch in axes.patches]
    assert [height for height in heights if height in (1.9, 1.4, 1.0, 0.5)] == [1.9, 1.4, 1.0, 0.5]
    rows = selection.rows("training", "hybrids")
    assert sorted(set(heights) - {1.9, 1.4, 1.0, 0.5}) == pytest.approx(sorted(rows["ratio"].unique()))


def test_the_network_without_convolutions_alone_is_no_comparison_of_hybrids(tmp_path):
    """It is one of the pairs as well."""
    rows = [network_row("halonet_h7", "fused", rival="efficientnet_b7", groups=["pairs", "hybrids"], compiled=True)]
    assert several_files(tmp_path / "alone", rows)["hybrids"] == "no hybrid was taken in turn with a rival"


def test_the_published_transfer_ratios_are_of_times(drawn):
    """A speed's ratio is turned around, so that everywhere more is slower."""
    _, figures = drawn
    steps, at_384, at_512 = figures["transfer"].axes
    assert steps.patches[0].get_height() == pytest.approx(377 / 445)
    assert at_384.patches[0].get_height() == pytest.approx(74.6 / 121.3)
    assert at_512.patches[0].get_height() == pytest.approx(27.4 / 48.6)


def test_the_published_figures_are_those_of_the_paper():
    assert [value for _, value in published.HYBRIDS.values()] == [1.9, 1.4, 1.0, 0.5]
    assert [values for _, *values in published.TRANSFER.values()] == [
        [377, 121.3, 48.6], [366, 125.7, 56.5], [213, 257.6, 120.2],
    ]  # fmt: skip


def test_components_in_two_modes_say_which_are_in_which(tmp_path):
    """What is augmented at random cannot be replayed."""
    rows = [network_row("resnet50", groups=["components"], label="baseline", captured=True)]
    for label, captured in (("SE", True), ("LS", True), ("LS, RA", False)):
        one = {"groups": ["components"], "rival": "resnet50", "label": label, "captured": captured}
        one["overrides"] = {"for": label.lower()}
        rows.append(network_row("halonet_50", "sdpa", **one))
    said = several_files(tmp_path / "modes", rows)["components"].texts[1].get_text()
    assert ", eager, replayed as a CUDA graph; eager with LS, RA. " in " ".join(said.split())


def test_what_is_absent_says_so(tmp_path):
    rows = [files.network_row("efficientnet_b0"), files.failed_network("OOM", "no room", "halonet_h0", "sdpa")]
    _, figures = figures_of(files.write(tmp_path / "mine.json", rows, gpu=files.H100))
    assert figures["ratio"] == "no training step was taken in turn with a rival's"
    assert isinstance(figures["throughput"], Figure)
    assert all(isinstance(figures[name], str) for name in set(ALL) - {"memory", "throughput"})
    _, figures = figures_of(files.write(tmp_path / "alone.json", rows[:1], gpu=files.H100))
    assert all(isinstance(figures[name], str) for name in ALL)


CURVE = "model,backend,parameters,seed,machine,torch,image_size,epoch,seconds,train_loss,test_loss,test_accuracy\n"


def runs(folder):
    """Curves of two models, one with two seeds, and a table of times."""
    for model, seed in (("halonet_mini", 0), ("halonet_mini", 1), ("resnet_mini", 0)):
        place = folder / "curves" / f"{model}-{seed}"
        place.mkdir(parents=True)
        lines = [
            f"{model},sdpa,4e5,{seed},H100,2.11,64,{n},{9.0 * n},{1 / n},{1 / n},{0.8 + 0.02 * n}" for n in (1, 2, 3)
        ]
        (place / "curves.csv").write_text(CURVE + "\n".join(lines) + "\n")
    head = "model,backend,parameters,seed,target,reached,seconds,epochs,machine\n"
    lines = ["halonet_mini,sdpa,4e5,0,0.86,True,27.0,3,H100", "halonet_mini,sdpa,4e5,1,0.86,True,29.0,3,H100"]
    lines.append("resnet_mini,none,4e5,0,0.86,False,27.0,3,H100")
    (folder / "curves" / "time-to-accuracy.csv").write_text(head + "\n".join(lines) + "\n")


def test_curves_are_a_line_a_run_and_a_colour_a_model(tmp_path):
    runs(tmp_path)
    with look():
        figures = dict(curves.draw(tmp_path))
    error, _, seconds = figures["curves"].axes
    assert len(error.lines) == len(seconds.lines) == 3
    assert len({line.get_color() for line in error.lines}) == 2
    assert error.lines[0].get_ydata() == pytest.approx([18, 16, 14])
    assert error.get_yscale() == seconds.get_yscale() == "log"
    assert seconds.lines[0].get_xdata() == pytest.approx([9, 18, 27])


def test_a_model_has_one_colour_in_all_figures_of_training_runs(tmp_path):
    """Also where each table has a model that the other lacks."""
    runs(tmp_path)
    table = tmp_path / "curves" / "time-to-accuracy.csv"
    kept = [line for line in table.read_text().splitlines() if "halonet" not in line]
    table.write_text("\n".join([*kept, "convnet_mini,none,4e5,0,0.86,True,20.0,3,H100", ""]))
    without_slots = tmp_path / "curves" / "resnet_mini-0" / "curves.csv"
    without_slots.write_text(without_slots.read_text().replace(",sdpa,", ",none,"))
    with look():
        figures = dict(curves.draw(tmp_path))
    (legend,) = figures["curves"].legends
    of_curves = {text.get_text(): line.get_color() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    (axes,) = figures["time-to-accuracy"].axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["convnet_mini (0.4 M)", "resnet_mini (0.4 M)"]
    runs_of = [line for line in axes.lines if len(line.get_ydata()) == 1]
    of_times = {names[int(line.get_ydata()[0])]: line.get_markeredgecolor() for line in runs_of}
    assert of_times[names[1]] == of_curves[names[1]]
    assert len({*of_times.values(), *of_curves.values()}) == 3


@pytest.mark.parametrize(
    ("commit", "dirty", "said"),
    [
        ("0123456789abcdef0123", None, "commit 0123456 (dirty unknown)"),
        ("0123456789abcdef0123", "false", "commit 0123456"),
        ("0123456789abcdef0123", "true", "commit 0123456+dirty"),
        ("v1 (declared)", "unknown", "commit v1 (declared, dirty unknown)"),
        ("1234567", "false", "commit 1234567"),
    ],
)
def test_curves_say_whose_commit_they_are(tmp_path, commit, dirty, said):
    columns = {"commit": commit} | ({"dirty": dirty} if dirty else {})
    place = tmp_path / "curves" / "one"
    place.mkdir(parents=True)
    line = "halonet_mini,sdpa,4e5,0,H100,2.11,64,1,9.0,1,1,0.8"
    head = ",".join([CURVE.strip(), *columns])
    (place / "curves.csv").write_text(f"{head}\n{','.join([line, *columns.values()])}\n")
    with look():
        figure = dict(curves.draw(tmp_path))["curves"]
    assert f"torch 2.11  ·  {said}  ·  images of 64 x 64" in figure.texts[2].get_text()


def test_a_run_that_did_not_arrive_is_hollow_and_its_model_has_no_median(tmp_path):
    runs(tmp_path)
    with look():
        (axes,) = dict(curves.draw(tmp_path))["time-to-accuracy"].axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in hollow] == [[27.0]]
    assert [text.get_text() for text in axes.texts] == ["28 s"]


def test_a_backend_named_for_a_model_without_slots_is_not_shown(tmp_path):
    runs(tmp_path)
    other = tmp_path / "curves" / "other" / "time-to-accuracy.csv"
    other.parent.mkdir()
    head = "model,backend,parameters,seed,target,reached,seconds,epochs,machine\n"
    other.write_text(head + "resnet_mini,sdpa,4e5,1,0.86,True,26.0,3,H100\n")
    (axes,) = dict(curves.draw(tmp_path))["time-to-accuracy"].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["halonet_mini, sdpa (0.4 M)", "resnet_mini (0.4 M)"]


def test_curves_of_another_kind_are_skipped_with_a_line(tmp_path, capsys):
    runs(tmp_path)
    (tmp_path / "curves" / "resnet_mini-0" / "curves.csv").write_text("epoch,loss\n1,2\n")
    found = curves.read(tmp_path / "curves", "curves.csv", curves.CURVES)
    assert len(found) == 6
    assert "it has no column model, backend" in capsys.readouterr().err


def test_a_file_that_is_named_is_drawn_alone(tmp_path):
    """The training runs beside it are not its own."""
    files.write(tmp_path / "mine.json", pair(0, 128), gpu=files.H100)
    runs(tmp_path)
    assert plot.main([str(tmp_path / "mine.json"), "--output", str(tmp_path / "out")]) == 0
    drawn = {path.stem.rpartition("-")[2] for path in (tmp_path / "out").glob("*.png")}
    assert drawn == {"ratio", "memory", "throughput"}


def test_the_command_draws_and_writes_networks_and_curves(tmp_path):
    files.write(tmp_path / "h100.json", files.network_campaign(), gpu=files.H100)
    runs(tmp_path)
    assert plot.main([str(tmp_path), "--index"]) == 0
    drawn = {path.name for path in (tmp_path / "figures").glob("*.png")}
    slug = "nvidia-h100-80gb-hbm3-bfloat16-training"
    assert drawn == {f"{slug}-{name}.png" for name in ALL} | {"curves.png", "time-to-accuracy.png"}
    rows = pd.read_csv(tmp_path / "figures" / "networks.csv")
    assert len(rows) == len(files.network_campaign())
    summary = (tmp_path / "figures" / "summary.md").read_text()
    assert "| efficientnet_b7 |" in summary
    assert "| training | strided_gather | training | OOM | out of memory | 2 |" in summary
    assert "figures/curves.png" in (tmp_path / "README.md").read_text()

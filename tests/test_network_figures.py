"""Figures of whole networks and of training runs: what was measured is drawn, and what failed is marked."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from halobench import plot, results
from halobench.figures import curves, published
from halobench.figures.selection import network_selections
from halobench.figures.style import look
from tests import results_files as files

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


def test_memory_and_throughput_show_the_rival_too(drawn):
    _, figures = drawn
    memory, throughput = figures["memory"].axes[0], figures["throughput"].axes[0]
    assert drawn_line(memory, "EfficientNet").get_ydata() == pytest.approx([3e9 / 2**30] * 4)
    millions = [files.MILLIONS[name] for name in ("b0", "b1", "b2", "b7")]
    assert drawn_line(throughput, "EfficientNet").get_xdata() == pytest.approx(millions)


def test_a_failure_is_marked_and_its_line_ends(drawn):
    _, figures = drawn
    eager = figures["ratio"].axes[0]
    assert len(drawn_line(eager, "strided_gather").get_xdata()) == 3  # H7 ran out of memory
    marks = [line for line in eager.lines if line.get_marker() == "X"]
    assert len(marks) == 1
    assert "OOM" in [text.get_text() for legend in figures["ratio"].legends for text in legend.get_texts()]


def test_hybrids_stand_beside_the_published_table(drawn):
    selection, figures = drawn
    (axes,) = figures["hybrids"].axes
    heights = [patch.get_height() for patch in axes.patches]
    assert [height for height in heights if height in (1.9, 1.4, 1.0, 0.5)] == [1.9, 1.4, 1.0, 0.5]
    rows = selection.rows("training", "hybrids")
    assert sorted(set(heights) - {1.9, 1.4, 1.0, 0.5}) == pytest.approx(sorted(rows["ratio"].unique()))


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


def test_what_is_absent_says_so(tmp_path):
    rows = [files.network_row("efficientnet_b0"), files.failed_network("OOM", "no room", "halonet_h0", "sdpa")]
    _, figures = figures_of(files.write(tmp_path / "mine.json", rows, gpu=files.H100))
    assert figures["ratio"] == "no training step was taken in turn with a rival's"
    assert isinstance(figures["throughput"], Figure)
    assert all(isinstance(figures[name], str) for name in set(ALL) - {"memory", "throughput"})


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
    accuracy, _, seconds = figures["curves"].axes
    assert len(accuracy.lines) == len(seconds.lines) == 3
    assert len({line.get_color() for line in accuracy.lines}) == 2
    assert accuracy.lines[0].get_ydata() == pytest.approx([82, 84, 86])
    assert seconds.lines[0].get_xdata() == pytest.approx([9, 18, 27])


def test_a_run_that_did_not_arrive_is_hollow_and_its_model_has_no_median(tmp_path):
    runs(tmp_path)
    with look():
        (axes,) = dict(curves.draw(tmp_path))["time-to-accuracy"].axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in hollow] == [[27.0]]
    assert [text.get_text() for text in axes.texts] == ["28 s"]


def test_curves_of_another_kind_are_skipped_with_a_line(tmp_path, capsys):
    runs(tmp_path)
    (tmp_path / "curves" / "resnet_mini-0" / "curves.csv").write_text("epoch,loss\n1,2\n")
    found = curves.read(tmp_path / "curves", "curves.csv", curves.CURVES)
    assert len(found) == 6
    assert "it has no column model, backend" in capsys.readouterr().err


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

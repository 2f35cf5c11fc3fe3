"""Precisions of detectors as a figure and a table: every run, its last test, beside the published differences."""

import pytest
from matplotlib.figure import Figure

from halobench import plot
from halobench.figures import precision as figures
from halobench.figures.style import look
from halobench.pages import precision as pages

HEAD = "model,backend,parameters,seed,machine,torch,image_size,epoch,seconds,train_loss,ap_box,ap_mask"
ENDS = {  # backbone, backend: the last precisions of boxes, a seed each
    ("resnet50", "none"): (0.30, 0.34),
    ("seresnet50", "none"): (0.36,),
    ("seresnet50_halo_b8", "fused"): (0.40, 0.38),
    ("seresnet101_halo_b8", "fused"): (0.2,),
    ("something", "none"): (0.1,),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    for (backbone, backend), ends in ENDS.items():
        for seed, end in enumerate(ends):
            run = place / "curves" / f"{backbone}-{seed}"
            run.mkdir(parents=True)
            same = f"maskrcnn_{backbone},{backend},40000000,{seed},NVIDIA H100,2.11,512"
            lines = [f"{same},1,10,3.0,0.05,0.04", f"{same},2,20,2.0,,", f"{same},3,{30 + seed},1.0,{end},{end - 0.02}"]
            (run / "precision.csv").write_text("\n".join([HEAD, *lines]) + "\n")
    return place


def test_a_line_a_run_and_a_colour_a_model(folder):
    with look():
        drawn = dict(plot.named_figures([], [], folder))
    figure = drawn["precision"]
    assert isinstance(figure, Figure)
    boxes, masks = figure.axes
    assert [len(axes.lines) for axes in (boxes, masks)] == [7, 7]
    assert {tuple(line.get_xdata()) for line in boxes.lines} == {(1, 3)}  # the second epoch was not tested
    assert sorted(line.get_ydata()[-1].round(6) for line in masks.lines) == [8, 18, 28, 32, 34, 36, 38]
    assert len({line.get_color() for line in boxes.lines}) == 5
    assert len(figure.legends[0].get_texts()) == 5


def test_the_table_has_spreads_and_published_gains(folder):
    """Squeeze-and-excitation is compared with what lacks it, halo layers with the convolutions that they replace."""
    head, _, *lines = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in pages.table(folder).splitlines()[:7]
    )
    of_kind = ("gain", "published")
    assert head == ["backbone", "runs", "epochs", "compared with", "AP of boxes", *of_kind, "AP of masks", *of_kind,
        "a run"]  # fmt: skip
    halo, deep = "R50 + SE + LA (8), `fused`", "R101 + SE + LA (8), `fused`"
    assert lines == [
        ["R50", "2", "3", "-", "32.0 ± 2.0", "-", "-", "30.0 ± 2.0", "-", "-", "30 s"],
        ["R50 + SE", "1", "3", "R50", "36.0 ± 0.0", "+4.0", "+2.4", "34.0 ± 0.0", "+4.0", "+1.9", "30 s"],
        [halo, "2", "3", "R50 + SE", "39.0 ± 1.0", "+3.0", "+0.7", "37.0 ± 1.0", "+3.0", "+0.7", "30 s"],
        [deep, "1", "3", "R101 + SE", "20.0 ± 0.0", "-", "+0.9", "18.0 ± 0.0", "-", "+0.6", "30 s"],
        ["something", "1", "3", "-", "10.0 ± 0.0", "-", "-", "8.0 ± 0.0", "-", "-", "30 s"],
    ]


def test_runs_that_ended_at_other_epochs_are_told_apart(tmp_path):
    for seed, epoch in ((0, 3), (1, 5)):
        (tmp_path / "curves" / str(seed)).mkdir(parents=True)
        line = f"maskrcnn_resnet50,none,40000000,{seed},NVIDIA H100,2.11,512,{epoch},9,1.0,0.2,0.1"
        (tmp_path / "curves" / str(seed) / "precision.csv").write_text(f"{HEAD}\n{line}\n")
    assert "| R50 | 2 | 3 to 5 | - | 20.0 ± 0.0 |" in pages.table(tmp_path)


def test_without_runs_there_is_no_figure_and_the_page_says_so(tmp_path):
    assert list(figures.draw(tmp_path)) == []
    assert pages.table(tmp_path) == "*No run of it is among the published results yet.*"

"""Networks compiled otherwise than by the compiler's defaults: what is asked of it, and what is said of them."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from halobench.cases.network import Network
from halobench.figures import networks as network_figures
from halobench.figures.selection import network_selections
from halobench.figures.style import look
from halobench.pages import networks as pages
from halobench.records.table import read_all
from halobench.train import workload
from tests import results_files as files
from tests.results_files import network_row

COMPILED = Network("resnet_mini", 32, 2, "float32", compiled=True)


def asked(monkeypatch, mode, direction="training"):
    """The options that reach the compiler, and the images and the model as they lie in memory."""
    found = {}

    def compiled(model, **options):
        found.update(options)
        return model

    monkeypatch.setattr(torch, "compile", compiled)
    network = Network("resnet_mini", 32, 2, "float32", compiled=True, compile_mode=mode)
    model = workload.network_model(network, "cpu")
    make = workload.training_step if direction == "training" else workload.inference
    call, tensors = make(model, network, "cpu")
    assert call().isfinite().all()
    images = next(tensors())
    assert found.pop("dynamic") is False
    return found["options"], images, next(one.weight for one in model.modules() if isinstance(one, nn.Conv2d))


def lies(tensor, layout):
    return tensor.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("mode", [None, "autotuned", "contiguous", "contiguous-autotuned"])
def test_a_mode_is_what_its_name_says(monkeypatch, mode):
    """Searched kernels; contiguous maps, which the compiler is to leave so."""
    options, images, weight = asked(monkeypatch, mode)
    contiguous = bool(mode) and mode.startswith("contiguous")
    layout, other = torch.channels_last, torch.contiguous_format
    if contiguous:
        layout, other = other, layout
    assert all(lies(one, layout) and not lies(one, other) for one in (images, weight))
    assert (options or {}).get("max_autotune", False) is bool(mode and mode.endswith("autotuned"))
    assert (options or {}).get("layout_optimization", True) is not contiguous
    assert not (options or {}).get("triton.cudagraphs", False)


@pytest.mark.parametrize("mode", [None, "autotuned"])
def test_compilers_that_need_it_are_told_to_be_right(monkeypatch, mode):
    """What an older PyTorch must be asked for reaches the compiler beside the mode's own options."""
    monkeypatch.setattr(workload, "INDUCTOR_OPTIONS", {"cpp.simdlen": 1})
    options, *_ = asked(monkeypatch, mode)
    assert options["cpp.simdlen"] == 1
    assert ("max_autotune" in options) is (mode is not None)


class Small(nn.Module):
    """A convolution and a depthwise one, each with batch normalisation, whose statistics and parameters are random."""

    def __init__(self):
        super().__init__()
        convolutions = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=8, bias=False)
        norms = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        for norm in norms:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.layers = nn.Sequential(convolutions[0], norms[0], nn.SiLU(), convolutions[1], norms[1], nn.SiLU())

    def forward(self, pixels):
        return self.layers(pixels)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_deployed_has_no_normalisation_left_and_computes_the_same(dtype):
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    model = Small().to(memory_format=torch.channels_last)
    network = Network("small", 16, 2, dtype, compiled=True, compile_mode="folded")
    output = workload.inference(model, network, "cpu")[0]()
    assert counters["inductor"]["binary_folding_conv"] == 8  # two norms: minus, times, times, plus
    images = workload.random_images(network, "cpu")[0].to(output.dtype)
    with torch.no_grad():
        assert not torch._inductor.config.freezing
        called = model(images)
        truth = model.double()(images.double())
    folded_error, error = ((one - truth).abs().max() for one in (output, called))
    assert 0 < folded_error < 4 * error


@pytest.mark.parametrize(
    ("changes", "direction", "said"),
    [
        ({"compile_mode": "fastest"}, "training", "must be one of autotuned, .*folded, or None, got 'fastest'"),
        ({"compile_mode": "autotuned", "compiled": False}, "forward", "is for compiled networks, got 'autotuned'"),
        ({"compile_mode": "folded"}, "training", "'folded' is for inference"),
    ],
)
def test_a_mode_that_cannot_be_is_refused(changes, direction, said):
    network = Network("resnet_mini", 32, 2, "float32", **{"compiled": True, **changes})
    with pytest.raises(ValueError, match=said):
        workload.compile_mode(network, direction)


def selection_of(tmp_path, rows):
    (selection,) = network_selections(read_all(files.write(tmp_path / "mine.json", rows, gpu=files.H100)))
    return selection


def lines_of(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


def test_modes_that_were_tried_stand_beside_the_defaults(tmp_path):
    """Each with its ratio to the network as timm wrote it; one that failed is no number, an unknown mode comes last."""
    same = {"groups": ["modes"], "compiled": True}
    rows = [network_row("efficientnet_b0", **same)]
    for model, mode, ratio in (
        ("efficientnet_b0", "autotuned", 0.8),
        ("efficientnet_b0", "of-tomorrow", 1.5),
        ("fused_efficientnet_b0", None, 0.9),
    ):
        row = network_row(model, rival="efficientnet_b0", compile_mode=mode, **same)
        row["paired"] |= {"ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}
        rows.append(row)
    rows.append(files.failed_network("TIMEOUT", "too long", "fused_efficientnet_b0", compile_mode="autotuned", **same))
    head, _, written, fused = lines_of(pages.compile_modes([selection_of(tmp_path, rows)]))
    assert head == ["", "compiled", "autotuned", "of-tomorrow"]
    assert [cell.partition(" ms")[2] for cell in written[1:]] == ["", " (**0.80**)", " (1.50)"]
    assert (fused[0], fused[1].partition(" ms")[2], *fused[2:]) == (
        "efficientnet_b0, fused", " (**0.90**)", "-", "-",
    )  # fmt: skip


def inference(compiled, ratio, batch):
    same = {"compiled": compiled, "captured": not compiled, "compile_mode": "folded" if compiled else None}
    row = network_row("halonet_h0", "fused", "forward", "efficientnet_b0", batch=batch, groups=["inference"], **same)
    row["paired"] |= {"ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}
    return row


def test_inference_as_deployed_stands_beside_the_eager_one(tmp_path):
    """In the table and in a panel of its own; no point of one is in the other's."""
    rows = [inference(compiled, ratio + batch / 1e3, batch) for compiled, ratio in ((False, 1.2), (True, 0.7))
            for batch in (1, 128)]  # fmt: skip
    selection = selection_of(tmp_path, rows)
    _, _, *lines = lines_of(pages.inference([selection]))
    folded = "fused, compiled, normalisation folded"
    assert [line[0] for line in lines] == [
        "batch 1, fused",
        "batch 128, fused",
        f"batch 1, {folded}",
        f"batch 128, {folded}",
    ]
    assert [line[1] for line in lines] == ["1.20", "1.33", "**0.70**", "**0.83**"]
    with look():
        figure = dict(network_figures.draw(selection))["inference"]
    drawn = {axes.get_title(): [text.get_text() for text in axes.texts] for axes in figure.axes}
    assert drawn == {
        "batch 1, eager, replayed as a CUDA graph": ["1.20"],
        "batch 128, eager, replayed as a CUDA graph": ["1.33"],
        "batch 1, compiled, normalisation folded": ["0.70"],
        "batch 128, compiled, normalisation folded": ["0.83"],
    }


def test_steps_that_keep_less_stand_beside_those_that_keep_all(tmp_path):
    """With the peak of the pair's own row; a dash where there is none."""
    rows = []
    for backend in ("sdpa", "fused"):
        same = {"compiled": True, "rival": "halonet_h0", "groups": ["memory"]}
        row = network_row("halonet_h0", backend, overrides={"recompute_projections": "True"}, **same)
        row["paired"] |= {"ratio": 1.03, "ratio_low": 1.02, "ratio_high": 1.04, "rival_median_ms": 20.0}
        row["memory"] |= {"peak_bytes": 3 * 2**30}
        rows.append(row)
    rows.append(network_row("halonet_h0", "fused", rival="efficientnet_b0", compiled=True))
    rows[-1]["memory"] |= {"peak_bytes": 5 * 2**30}
    _, _, fused, sdpa = lines_of(pages.recomputed([selection_of(tmp_path, rows)]))
    assert (fused[:3], fused[4:]) == (["halonet_h0", "`fused`", "20.0 ms"], ["1.03", "5.00 GiB", "3.00 GiB"])
    assert (sdpa[1], *sdpa[5:]) == ("`sdpa`", "-", "3.00 GiB")


def pair(mode):
    """A pair whose rival at its best is compiled in this mode; another row of it is not what the HaloNet met."""
    best = {"compiled": True, "groups": ["accelerate"]}
    rows = [network_row("efficientnet_b0", compiled=True)]
    for one, ratio in ((mode, 0.8), (None if mode else "autotuned", 0.5)):
        rows.append(network_row("fused_efficientnet_b0", rival="efficientnet_b0", compile_mode=one, **best))
        rows[-1]["paired"] |= {"ratio": ratio}
    rows.append(network_row("halonet_h0", "fused", rival="fused_efficientnet_b0", compiled=True))
    rows[-1]["rival_compile_mode"] = mode
    rows[-1]["paired"] |= {"ratio": 1.1, "ratio_low": 1.09, "ratio_high": 1.11}
    return rows


@pytest.mark.parametrize("mode", [None, "autotuned"])
def test_a_figure_shows_the_best_rival_and_hollow_the_other(tmp_path, mode):
    """Whatever mode the rival is compiled in."""
    selection = selection_of(tmp_path, pair(mode))
    with look():
        figure = dict(network_figures.draw(selection))["ratio"]
    (axes,) = figure.axes
    hollow = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert [line.get_ydata().tolist() for line in hollow] == [[pytest.approx(0.88)]]
    assert [text.get_text() for text in axes.texts] == ["1.10"]
    assert any("hollow: as timm wrote it" in " ".join(text.get_text().split()) for text in figure.texts)
    _, _, line = lines_of(pages.pairs([selection]))
    assert line[6:8] == ["1.10", "0.88"]


def test_a_figure_of_rivals_as_timm_wrote_them_says_nothing_of_others(tmp_path):
    rows = [network_row("efficientnet_b0", compiled=True)]
    rows.append(network_row("halonet_h0", "fused", rival="efficientnet_b0", compiled=True))
    with look():
        figure = dict(network_figures.draw(selection_of(tmp_path, rows)))["ratio"]
    assert not any("hollow" in text.get_text() for text in figure.texts)
    assert not [line for line in figure.axes[0].lines if line.get_fillstyle() == "none"]

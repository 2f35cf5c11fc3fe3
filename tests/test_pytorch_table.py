"""``docs/pytorch.md`` says which of PyTorch's tools take the layers of each backend; here every cell is tried.

Of ONNX and AOTInductor, cells that say yes are in ``test_export``; those of AOTInductor that it leaves out were tried
by hand, because a C++ compiler takes half a minute for each.
"""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from halobench.implementations import compiled
from torch import Tensor, nn
from torch.export import Dim, export
from torch.func import jvp, vmap

from halobench import Geometry, LayerSpec, Unsupported, backends, formula
from halobench.attention.compilation import by_kind

PAGE = Path(__file__).parent.parent / "docs/pytorch.md"
KERNELS = "fused", "fused_cuda"


def table() -> dict[tuple[str, str], str]:
    """Every cell by backend and tool."""
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("|")]
    head, _, *body = rows
    return {(row[0].strip("`"), tool): cell for row in body for tool, cell in zip(head[1:], row[1:], strict=True)}


CELLS = table()
PIXELS = torch.randn(2, 16, 8, 12)


def layer(name: str) -> nn.Module:
    """A layer of one head of 16, which every backend takes."""
    torch.manual_seed(0)
    backend = backends.load(name)
    return backend.build(LayerSpec(16, 1, 16, 16, Geometry(4, 1, border=backend.borders[0]), positions="sum"))


def close(found: Tensor, wanted: Tensor) -> None:
    """Fail unless two tensors agree."""
    torch.testing.assert_close(found, wanted, rtol=2e-2 if wanted.dtype == torch.bfloat16 else 1e-4, atol=1e-2)


def whole_graph(one: nn.Module, pixels: Tensor) -> None:
    with torch.no_grad():
        close(torch.compile(one, fullgraph=True, backend="eager")(pixels), one(pixels))


def exported(one: nn.Module, pixels: Tensor) -> None:
    sizes = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    with torch.no_grad():
        close(export(one, (pixels,), dynamic_shapes=(sizes,)).module()(pixels[..., :5]), one(pixels[..., :5]))


def exported_at_one_size(one: nn.Module, pixels: Tensor) -> None:
    with torch.no_grad():
        close(export(one, (pixels,)).module()(pixels), one(pixels))


def onnx_at_one_size(one: nn.Module, pixels: Tensor) -> None:
    with torch.no_grad():
        torch.onnx.export(export(one, (pixels,)), dynamo=True, verbose=False)


def pickled(one: nn.Module, pixels: Tensor) -> None:
    other = pickle.loads(pickle.dumps(copy.deepcopy(one)))
    with torch.no_grad():
        close(other(pixels), one(pixels))


def traced(one: nn.Module, pixels: Tensor) -> None:
    with torch.no_grad():
        close(torch.fx.symbolic_trace(one)(pixels), one(pixels))


def autocast(one: nn.Module, pixels: Tensor) -> None:
    with torch.no_grad(), torch.autocast(pixels.device.type, torch.bfloat16):
        output = one(pixels)
    assert output.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(output, one.bfloat16()(pixels.bfloat16()), rtol=0.1, atol=0.1)


def forward_ad(one: nn.Module, pixels: Tensor) -> None:
    pixels, direction = pixels.double(), torch.randn_like(pixels, dtype=torch.float64)
    one = one.double()
    _, tangent = jvp(one, (pixels,), (direction,))
    step = 1e-6
    close(tangent, (one(pixels + step * direction) - one(pixels - step * direction)) / (2 * step))


def double_backward(one: nn.Module, pixels: Tensor) -> None:
    pixels = pixels[:1, :, :4, :4].requires_grad_()
    (gradient,) = torch.autograd.grad(one(pixels).square().sum(), pixels, create_graph=True)
    torch.autograd.grad(gradient.square().sum(), pixels)
    pixels = pixels.detach().double().requires_grad_()
    assert torch.autograd.gradgradcheck(one.double(), (pixels,), fast_mode=True)


def mapped(one: nn.Module, pixels: Tensor) -> None:
    with torch.no_grad():
        close(vmap(one)(torch.stack([pixels, 2 * pixels]))[1], one(2 * pixels))


def captured(one: nn.Module, pixels: Tensor) -> None:
    with torch.no_grad():
        for _ in range(3):
            one(pixels)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = one(pixels)
        pixels.copy_(torch.randn_like(pixels))
        graph.replay()
        close(output, one(pixels))


TOOLS: dict[str, Callable[[nn.Module, Tensor], None]] = {
    "whole graph": whole_graph,
    "export": exported,
    "pickle": pickled,
    "torch.fx": traced,
    "autocast": autocast,
    "forward AD": forward_ad,
    "double backward": double_backward,
    "vmap": mapped,
    "CUDA graph": captured,
}


def trial(name: str, tool: str) -> tuple[Callable[[nn.Module, Tensor], None], str]:
    """What tries a cell, and the outcome that it announces: yes, no or refused."""
    cell = CELLS[name, tool]
    if cell == "one size":
        return {"export": exported_at_one_size, "ONNX": onnx_at_one_size}[tool], "yes"
    return {"ONNX": onnx_at_one_size, **TOOLS}[tool], cell


def tried_here() -> list[tuple[str, str]]:
    """The cells that this module tries: those that no other does."""
    others = {("ONNX", "yes"), ("AOTInductor", "yes"), ("AOTInductor", "one size"), ("AOTInductor", "no")}
    return [(name, tool) for (name, tool), cell in CELLS.items() if cell != "-" and (tool, cell) not in others]


def check(name: str, tool: str, device: str, dtype: torch.dtype) -> None:
    """Try a cell, and fail unless the outcome is as announced."""
    attempt, outcome = trial(name, tool)
    if tool == "ONNX":
        pytest.importorskip("onnxscript")
    layout = torch.channels_last if name in KERNELS else torch.contiguous_format
    one, pixels = layer(name).to(device, dtype), PIXELS.to(device, dtype, memory_format=layout)
    if outcome == "yes":
        attempt(one, pixels)
        return
    with pytest.raises(Unsupported if outcome == "refused" else Exception) as caught:
        attempt(one, pixels)
    assert not isinstance(caught.value, AssertionError)  # a wrong number is no refusal
    assert outcome == "refused" or not isinstance(caught.value, Unsupported)


@pytest.mark.parametrize(
    ("name", "tool"), [cell for cell in tried_here() if cell[0] not in KERNELS and cell[1] != "CUDA graph"]
)
@pytest.mark.filterwarnings("ignore")  # what PyTorch says of tools that it calls experimental
def test_cells_of_the_cpu(name: str, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell is as the page says."""
    # What code the compiler makes is tested elsewhere.
    monkeypatch.setattr(compiled, "compiled_formula", by_kind(formula.attend, "aot_eager"))
    check(name, tool, "cpu", torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "tool"), [cell for cell in tried_here() if cell[0] in KERNELS or cell[1] == "CUDA graph"]
)
@pytest.mark.filterwarnings("ignore")
def test_cells_of_a_gpu(name: str, tool: str) -> None:
    """The same for our kernels, and for CUDA graphs."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    check(name, tool, "cuda", torch.float32 if tool == "autocast" else torch.bfloat16)


def test_the_page_has_every_backend_and_every_tool() -> None:
    """No backend is forgotten, and cells that other tests try belong to backends that are in those."""
    assert {name for name, _ in CELLS} == set(backends.names())
    assert {tool for _, tool in CELLS} == {*TOOLS, "ONNX", "AOTInductor"}
    assert set(CELLS.values()) == {"yes", "no", "refused", "one size", "-"}
    in_onnx = {name for name, tool in CELLS if tool == "ONNX" and CELLS[name, tool] == "yes"}
    # Three of them are one program: test_export.test_the_formula_is_the_same_for_all_that_compute_it.
    assert in_onnx == {"naive_unfold", "compiled", "strided_gather", "sdpa", "global_sa", "conv"}

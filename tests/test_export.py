"""torch.export keeps batch, height and width open, and what is made of an exported program computes what we compute."""

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from halobench import Geometry, LayerSpec, backends, models
from halobench.models import accelerate
from tests.small_timm import network

OPEN = ({0: Dim("batch"), 2: Dim("height"), 3: Dim("width")},)
# Of the maps, only the first was seen at export: larger ones, one of a single block, odd ones, and a single pixel.
SIZES = [(2, 8, 12), (3, 30, 33), (1, 4, 3), (2, 5, 17), (1, 1, 1)]
GEOMETRIES = {
    "masked": Geometry(4, 1),
    "zero": Geometry(3, 2, border="zero"),
    "no halo": Geometry(4, 0),
    "wide halo": Geometry(2, 3),
    "pixel": Geometry(1, 2),
}


def layer(name, geometry=GEOMETRIES["masked"], positions="split"):
    """A layer with as many channels as it mixes, so that layers can follow one another."""
    torch.manual_seed(0)
    return backends.load(name).build(LayerSpec(16, 2, 8, 8, geometry, positions)).eval()


def agrees(program, model, channels, sizes):
    """Whether a program computes what the model does on maps of these sizes."""
    for batch, height, width in sizes:
        pixels = torch.randn(batch, channels, height, width)
        with torch.no_grad():
            torch.testing.assert_close(program(pixels), model(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "strict", "seen"),
    [
        ("strided_gather", False, SIZES[2]),
        ("strided_gather", True, SIZES[0]),
        ("sdpa", False, SIZES[0]),
        ("sdpa", True, SIZES[2]),
    ],
)
def test_sizes_stay_open(name, strict, seen):
    """Whatever map was the example, one of several blocks or of one."""
    model = layer(name)
    program = export(model, (torch.randn(2, 16, *seen[1:]),), dynamic_shapes=OPEN, strict=strict)
    agrees(program.module(), model, 16, SIZES)


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("strided_gather", "zero"),
        ("strided_gather", "wide halo"),
        ("sdpa", "pixel"),
        ("sdpa", "no halo"),
        ("sdpa", "zero"),
    ],
)
def test_every_geometry(name, geometry):
    model = layer(name, GEOMETRIES[geometry], positions=None if geometry == "no halo" else "sum")
    program = export(model, (torch.randn(2, 16, 8, 12),), dynamic_shapes=OPEN)
    agrees(program.module(), model, 16, SIZES)


def test_more_windows_than_the_choice_of_kernels_looks_at():
    """The number of windows is open as well: beyond 65536 another rule chooses kernels, where sizes are known."""
    model = layer("sdpa", Geometry(1, 0))
    program = export(model, (torch.randn(2, 16, 8, 12),), dynamic_shapes=OPEN)
    agrees(program.module(), model, 16, [(2, 130, 130)])


@pytest.mark.parametrize("name", ["strided_gather", "sdpa"])
@pytest.mark.parametrize("geometry", [Geometry(4, 1, stride=2), Geometry(2, 1, stride=4, border="zero")])
def test_strided_queries(name, geometry):
    """Two pixels at least on either side of the output, as PyTorch's own strided convolution wants it."""
    model = layer(name, geometry)
    dims = {0: Dim("batch"), 2: Dim("height", min=6), 3: Dim("width", min=6)}
    program = export(model, (torch.randn(2, 16, 8, 12),), dynamic_shapes=(dims,))
    agrees(program.module(), model, 16, [(2, 8, 12), (1, 7, 22), (3, 17, 9)])


def test_tables_and_weights_of_a_program_train():
    """Gradients through an exported program are those of the layer."""
    model = layer("strided_gather")
    program = export(model, (torch.randn(2, 16, 8, 12),), dynamic_shapes=OPEN).module()
    pixels = torch.randn(1, 16, 5, 9)
    for one in (program, model):
        one(pixels).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(program.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", ["own", "accelerated"])
def test_whole_networks(make):
    """A network of ours with strided attention, and an accelerated one of timm's."""
    torch.manual_seed(0)
    if make == "own":
        model = models.create("halonet_mini", "sdpa", 3, depths=(1, 1, 1, 1), convolution_stages=(1, 2))
    else:
        model = network()
        accelerate(model, "sdpa")
    if make == "own":
        height, width = Dim("height", min=64, max=512), Dim("width", min=64, max=512)
    else:  # pooling that rounds up wants whole multiples at export, with PyTorch's own layers too
        height, width = 4 * Dim("height", min=16, max=128), 4 * Dim("width", min=16, max=128)
    dims = {0: Dim("batch"), 2: height, 3: width}
    program = export(model.eval(), (torch.randn(2, 3, 128, 96),), dynamic_shapes=(dims,))
    agrees(program.module(), model, 3, [(2, 128, 96), (1, 64, 64), (1, 96, 192)])


@pytest.fixture(scope="module")
def program():
    """All backends whose programs are more than PyTorch's own operators allow for, one after the other."""
    model = nn.Sequential(*map(layer, ("strided_gather", "sdpa", "global_sa", "conv"))).eval()
    return model, export(model, (torch.randn(2, 16, 8, 12),), dynamic_shapes=OPEN)


def test_onnx(program, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, exported = program
    torch.onnx.export(exported, dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (name,) = (entry.name for entry in session.get_inputs())
    agrees(lambda pixels: torch.from_numpy(session.run(None, {name: pixels.numpy()})[0]), model, 16, SIZES)


def test_ahead_of_time_inductor(tmp_path):
    """One backend of them, because a C++ compiler takes half a minute for each."""
    model = layer("sdpa", GEOMETRIES["zero"])
    exported = export(model, (torch.randn(2, 16, 8, 12),), dynamic_shapes=OPEN)
    path = torch._inductor.aoti_compile_and_package(
        exported,
        package_path=str(tmp_path / "model.pt2"),
        # Its speed is not tested: nothing is optimised, and no time spent on what vectors of open sizes would need.
        inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0", "cpp.simdlen": 1},
    )
    agrees(torch._inductor.aoti_load_package(path), model, 16, SIZES)


@pytest.mark.parametrize("name", ["fused", "fused_cuda"])
@pytest.mark.parametrize("strict", [False, True])
def test_programs_of_our_kernels_are_made_on_a_cpu(name, strict):
    """One node for the attention, all sizes open."""
    if name not in backends.names():
        pytest.skip("no such backend")
    pytest.importorskip("triton")
    exported = export(layer(name), (torch.randn(2, 16, 8, 12),), dynamic_shapes=OPEN, strict=strict)
    kernels = [node for node in exported.graph.nodes if str(node.target).startswith("halobench.fused")]
    assert len(kernels) == 1
    assert all(isinstance(size, torch.SymInt) for size in kernels[0].meta["val"][0].shape[2:4])
    assert not any("_guards" in str(node.target) for node in exported.graph.nodes)


def test_the_formula_is_the_same_for_all_that_compute_it():
    """Exported, three backends are one program, so that what holds for one holds for all."""
    codes = {
        export(layer(name), (torch.randn(2, 16, 8, 12),), dynamic_shapes=OPEN).graph_module.code
        for name in ("naive_unfold", "strided_gather", "compiled")
    }
    assert len(codes) == 1

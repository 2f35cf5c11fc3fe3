"""Models: the published table, switches, backends, sizes and names. Forward passes use narrow, shallow networks."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from halobench import HaloAttention, models
from halobench.models import costs, work
from halobench.models.folded import FoldedConv2d, convolution, folded
from halobench.models.halonet import Bottleneck

# A HaloNet small enough for a laptop, with strided blocks, uneven depths and heads that differ between stages.
SMALL = {"widths": (8, 16, 16, 32), "heads": (2, 4, 4, 4), "depths": (1, 2, 1, 2), "num_classes": 10}


def small(name="halonet_h3", backend=None, **overrides):
    torch.manual_seed(0)
    model = models.create(name, backend, **{**SMALL, **overrides})
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.ones_(module.expand[1].weight)  # it starts with zeros, which hide the block
    return model


def on_meta(name, **overrides):
    with torch.device("meta"):
        return models.create(name, **overrides)


def millions(model):
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def images(height=64, width=64, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


PUBLISHED = [
    name for name in models.names() if models.entry(name).published_millions and models.entry(name).has_attention
]
# Rows that contradict themselves or leave a width open: docs/decisions/ says what was decided, and this is the outcome.
DECIDED = {"halonet_h3": 11.8, "halonet_h7_conv123": 64.9, "halonet_h4_128_conv12": 87.9}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_match_the_published_column(name):
    wanted = DECIDED.get(name, models.entry(name).published_millions)
    assert millions(on_meta(name)) == pytest.approx(wanted, rel=0.007)


def test_h3_with_the_final_width_of_h4_would_match_its_published_row():
    assert millions(on_meta("halonet_h3", final_channels=1280)) == pytest.approx(12.3, rel=0.007)


@pytest.mark.parametrize("number", range(8))
def test_efficientnets_are_the_published_ones(number):
    model = models.entry(f"efficientnet_b{number}")
    assert millions(on_meta(model.name)) == pytest.approx(model.published_millions, rel=0.02)  # two digits published


def test_layers_of_h7_follow_the_published_table():
    layers = [module.spec for module in on_meta("halonet_h7").modules() if isinstance(module, HaloAttention)]
    assert len(layers) == 3 + 3 + 26 + 3
    first = {layer.channels: layer for layer in reversed(layers)}
    assert [layer.key_dim for layer in first.values()][::-1] == [16, 16, 32, 64]
    assert [layer.value_dim for layer in first.values()][::-1] == [64, 64, 128, 256]
    assert [layer.geometry.stride for layer in first.values()][::-1] == [1, 2, 2, 2]
    assert {(layer.geometry.block, layer.geometry.halo, layer.positions) for layer in layers} == {(10, 3, "split")}
    assert sum(layer.geometry.stride == 2 for layer in layers) == 3


@pytest.mark.parametrize("name", ["sasa_50", "halonet_50"])
def test_halonet_50_has_16_channels_a_head(name):
    layers = [module.spec for module in on_meta(name).modules() if isinstance(module, HaloAttention)]
    assert len(layers) == 3 + 4 + 6 + 3
    assert {layer.key_dim for layer in layers} == {16}
    assert {layer.geometry.window for layer in layers} == {7 if name == "sasa_50" else 14}


@pytest.mark.parametrize("size", [(64, 64), (75, 50), (33, 1)], ids=str)
def test_backends_agree_on_the_same_weights_at_any_size(size):
    pixels = images(*size)
    model = small().double().eval()
    wanted = model(pixels.double())
    assert wanted.shape == (2, 10)
    for backend in ("naive_unfold", "sdpa"):
        other = small(backend=backend).double().eval()
        nn.init.zeros_(other.classifier.weight)  # so that the weights must really move
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other(pixels.double()), wanted)


def test_halving_rounds_up_as_h7_does_at_600_pixels():
    sizes = []
    model = small(block=10, halo=3)
    for stage in model.stages:
        stage.register_forward_hook(lambda _stage, _inputs, output: sizes.append(tuple(output.shape[2:])))
    model(images(600, 40, batch=1))
    assert [height for height, _ in sizes] == [150, 75, 38, 19]


def test_keys_beyond_an_odd_map_take_no_part():
    """Constant values come out as they went in; a key of padding among them would pull the average down."""
    attention = small().stages[1][0].layer
    assert attention.spec.geometry.stride == 2
    nn.init.zeros_(attention.value.weight)
    with torch.no_grad():
        attention.value.weight[:, 0] = 1
    pixels = torch.randn(1, attention.spec.channels, 19, 15)
    pixels[:, 0] = 3
    output = attention(pixels)
    assert output.shape[2:] == (10, 8)
    torch.testing.assert_close(output, torch.full_like(output, 3))


def test_the_convolution_fills_every_attention_slot():
    model = small(backend="conv")
    assert not any(isinstance(module, HaloAttention) for module in model.modules())
    assert model(images()).shape == (2, 10)
    assert small(backend="conv", block=14, halo=2)(images(45, 30)).shape == (2, 10)


@pytest.mark.parametrize("stages", [(), (1,), (1, 2), (1, 2, 3), (2, 4), (1, 2, 3, 4)], ids=str)
def test_any_stage_can_be_convolution(stages):
    model = small(convolution_stages=stages, value_ratio=4.0, final_channels=24)
    for number, stage in enumerate(model.stages, start=1):
        attention = [isinstance(module, HaloAttention) for module in stage.modules()]
        squeeze = [isinstance(block.squeeze, nn.Identity) for block in stage]
        assert any(attention) == (number not in stages)
        assert all(squeeze) == (number not in stages)
    assert model(images(50, 61)).shape == (2, 10)


def test_switches():
    def parts(kind, **overrides):
        return sum(isinstance(module, kind) for module in small(**overrides).modules())

    squeeze, depth = timm.layers.SEModule, timm.layers.DropPath
    assert parts(squeeze) == 0
    assert parts(squeeze, squeeze_excitation="all") == sum(SMALL["depths"])
    assert parts(squeeze, convolution_stages=(2,)) == 2
    assert parts(squeeze, convolution_stages=(2,), squeeze_excitation="none") == 0
    assert parts(nn.SiLU) == parts(nn.ReLU, activation="relu") > 0
    assert parts(nn.ReLU) == parts(nn.SiLU, activation="relu") == 0
    assert parts(depth) == 0
    rates = [module.drop_prob for module in small(stochastic_depth=0.5).modules() if isinstance(module, depth)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_stochastic_depth_skips_blocks_in_training_only():
    model, plain = small(stochastic_depth=0.9), small()
    assert torch.equal(model.eval()(images()), plain.eval()(images()))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # its batch statistics would hide what changes
    assert not torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 61), (32, 17), (1, 2)])
def test_a_folded_convolution_is_the_convolution(side, height, width):
    """Output and both gradients, at even and odd sizes, with a bias that somebody gave it."""
    convolution = FoldedConv2d(3, 8, side).double()
    convolution.bias = nn.Parameter(torch.randn(8, dtype=torch.float64))
    pixels = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    outcomes = []
    for output in (convolution(pixels), folded(pixels, convolution.weight, convolution.bias)):
        gradients = torch.autograd.grad(output.square().sum(), [pixels, convolution.weight])
        outcomes.append([output, *gradients])
    torch.testing.assert_close(*outcomes, rtol=1e-10, atol=1e-10)


def test_a_folded_convolution_compiles_in_one_graph_under_autocast():
    compiled = torch.compile(folded, backend="aot_eager", fullgraph=True)
    pixels, weight = torch.randn(1, 3, 17, 16), torch.randn(8, 3, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(pixels, weight), folded(pixels, weight))


def test_a_tracer_keeps_a_folded_convolution_whole():
    """It has no device to ask for."""
    model = small("convnet_mini", final_channels=24).eval()
    traced = torch.fx.symbolic_trace(model)
    assert convolution in [node.target for node in traced.graph.nodes]
    torch.testing.assert_close(traced(images()), model(images()), rtol=0, atol=0)


@pytest.mark.gpu
def test_a_folded_convolution_under_autocast():
    """On a GPU the layer folds; channels-last, as close to float64 as the convolution in bfloat16 is."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    convolution = FoldedConv2d(3, 64, 7).cuda().to(memory_format=torch.channels_last)
    pixels = torch.randn(4, 3, 57, 64, device="cuda").to(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        output = convolution(pixels)
    truth = nn.functional.conv2d(pixels.double(), convolution.weight.double(), stride=2, padding=3)
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert (output.double() - truth).norm() < 5e-3 * truth.norm()


def test_every_block_begins_as_its_shortcut():
    torch.manual_seed(0)
    model = models.create("halonet_h3", "sdpa", **SMALL)
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    outputs = []
    for block in blocks:
        block.register_forward_hook(lambda block, inputs, output: outputs.append((block, inputs[0], output)))
    with torch.no_grad():
        model(images())
    assert len(outputs) == sum(SMALL["depths"])
    for block, pixels, output in outputs:
        torch.testing.assert_close(output, block.activation(block.shortcut(pixels)))


def test_stems():
    for name in ("halonet_h4_128", "halonet_h4_128_patch"):
        model = small(name)
        assert model.stem(images(64, 61)).shape == (2, 8, 16, 16)
        assert model(images(64, 61)).shape == (2, 10)
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.stem)


def test_positions_sum_on_request():
    split, both = (small(positions=positions).stages[0][0].layer.relative for positions in ("split", "sum"))
    assert split.rows.shape == (2 * 16 - 1, 2)
    assert both.rows.shape == (2 * 16 - 1, 4)


def test_state_dict_round_trip(tmp_path):
    model = small().eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(7)
    other = models.create("halonet_h3", "sdpa", **SMALL).eval()
    assert not torch.equal(other(images()), model(images()))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(other(images()), model(images()))


def test_every_parameter_learns():
    model = small("halonet_h7", squeeze_excitation="all", convolution_stages=(1,), final_channels=16)
    model(images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_compiles_in_one_graph():
    model = small(depths=(1, 1, 1, 1)).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()), model(images()))


def test_channels_last_is_kept_and_changes_nothing():
    model = small().eval()
    wanted = model(images())
    model.to(memory_format=torch.channels_last)
    layouts = []
    for module in model.modules():
        if isinstance(module, HaloAttention | nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _module, _inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    torch.testing.assert_close(model(images().to(memory_format=torch.channels_last)), wanted)
    assert len(layouts) > 4 * sum(SMALL["depths"])
    assert all(layouts)


@pytest.mark.parametrize(("depth", "block"), [(50, 8), (50, 32), (101, 8), (101, 32)])
def test_halo_resnets_replace_the_last_three_convolutions(depth, block):
    model = on_meta(f"seresnet{depth}_halo_b{block}")
    halo = {name: module for name, module in model.named_modules() if isinstance(module, HaloAttention)}
    assert list(halo) == ["layer4.0.conv2", "layer4.1.conv2", "layer4.2.conv2"]
    assert [module.spec.geometry.stride for module in halo.values()] == [2, 1, 1]
    assert {(module.spec.geometry.block, module.spec.geometry.halo) for module in halo.values()} == {(block, 3)}
    assert [getattr(model, f"layer{stage}")[-1].se is None for stage in (1, 2, 3, 4)] == [False, False, False, True]


def test_halo_resnet_runs_at_odd_sizes_and_through_any_backend():
    model, other = (models.create("seresnet50_halo_b8", name, num_classes=5) for name in ("strided_gather", "sdpa"))
    other.load_state_dict(model.state_dict())
    for network in (model, other):
        for bottleneck in network.eval().layer4:
            nn.init.ones_(bottleneck.bn3.weight)  # timm starts with zeros, which hide the branch
    logits = model(images(70, 33, batch=1))
    assert logits.shape == (1, 5)
    torch.testing.assert_close(other(images(70, 33, batch=1)), logits)


def test_timm_finds_our_models_and_keeps_its_own():
    torch.manual_seed(0)
    model = timm.create_model("halobench_halonet_h3", backend="sdpa", drop_path_rate=0.2, **SMALL)
    assert isinstance(model, models.HaloNet)
    assert (model.backend, model.architecture.stochastic_depth) == ("sdpa", 0.2)
    assert isinstance(timm.create_model("halobench_seresnet50_halo_b8", num_classes=3).layer4[2].conv2, HaloAttention)
    ours = set(timm.list_models("halobench_*"))
    attention = {f"halobench_{name}" for name in models.names() if models.entry(name).has_attention}
    assert ours == attention | {"halobench_convnet_mini"}
    assert not isinstance(timm.create_model("halonet_h1"), models.HaloNet)
    with pytest.raises(RuntimeError, match="No pretrained weights exist for halobench_halonet_h0"):
        timm.create_model("halobench_halonet_h0", pretrained=True)


def test_wrong_names_list_the_right_ones():
    with pytest.raises(ValueError, match=r"no model is called 'halonet_h8'; there are halonet_h0, halonet_h1"):
        models.create("halonet_h8")
    with pytest.raises(ValueError, match=r"no backend is called 'gather'; there are .*strided_gather"):
        models.create("halonet_h0", "gather")
    with pytest.raises(TypeError, match=r"halonet_h0 has no blocks to override; there are block, halo, value_ratio"):
        models.create("halonet_h0", blocks=3)
    for name in ("resnet50", "convnet_mini"):
        with pytest.raises(ValueError, match=rf"{name} has no attention slots .*got 'sdpa'"):
            models.create(name, "sdpa")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (1, 1, 1)}, r"depths must be four positive integers.*got \(1, 1, 1\)"),
        ({"widths": (8, 8, 8, 0)}, r"widths must be four"),
        ({"heads": (3, 8, 8, 8)}, r"widths\[0\] / heads\[0\] must be an integer, got 21.3"),
        ({"convolution_stages": (0,)}, r"stages 1 to 4, got \(0,\)"),
        ({"stem": "conv"}, r"stem must be one of \('convolution', 'patch'\), got 'conv'"),
        ({"activation": "gelu"}, r"activation must be one of"),
        ({"squeeze_excitation": True}, r"squeeze_excitation must be one of"),
        ({"stochastic_depth": 1}, r"stochastic_depth must be a probability below 1, got 1"),
        ({"block": 0}, r"block must be an integer >= 1, got 0"),
    ],
    ids=str,
)
def test_wrong_overrides_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        models.create("halonet_h0", **overrides)


def test_the_cost_table_counts_multiply_adds_once():
    network = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert costs.count_multiply_adds(network, 8) == 8 * 8 * 5 * 3 * 9
    assert costs.parameters(network) == 3 * 5 * 9
    *_, line = costs.table(["efficientnet_b0"])
    assert line.startswith("| efficientnet_b0 | 224 | 5.29 | 5.3 | -0.2 % | ")


def test_useful_work_leaves_out_padding_and_nothing_else():
    """A network whose windows hold real keys only does only useful work; keys beyond the map's border do not count."""
    beyond = small(block=16, halo=0, depths=(1, 1, 1, 1))  # the maps have sides of 16, 8, 4 and 2
    assert work.count(beyond, 64).useful_flops < work.count(beyond, 64).executed_flops
    whole = small(block=1, halo=0, depths=(1, 1, 1, 1), positions=None)
    counted = work.count(whole, 64)
    assert counted.useful_flops == counted.executed_flops > 0


def test_executed_work_is_what_torch_counts_on_real_tensors():
    network = small(depths=(1, 1, 1, 1)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images(64, 48, batch=1))
    assert work.count(network, 64, 48).executed_flops == counter.get_total_flops()


def test_activations_are_the_tensors_that_a_step_keeps():
    """By hand: a convolution keeps its input, an in-place activation its output, both in the network's dtype."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    assert work.activation_bytes(network, 8) == 2 * (3 + 4) * 8 * 8
    batch_norm = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    assert work.activation_bytes(batch_norm, 8) == pytest.approx(2 * (3 + 4 + 4) * 8 * 8, rel=0.05)

"""Our layers inside timm's models compute what timm's layers did.

Random weights, batch normalisation calibrated on the image, so that activations have the size they have after
training. The truth is timm's own model in float64.
"""

import copy

import pytest
import timm
import torch
from timm.layers.halo_attn import HaloAttn
from torch import nn

from halobench import Unsupported, models
from halobench.models import accelerate, costs
from halobench.models.accelerate import AcceleratedHaloAttn

# All models of timm that have a HaloAttn layer, and the layers whose queries are strided.
STRIDED = {
    "eca_halonext26ts": ["stages.3.0.self_attn"],
    "halo2botnet50ts_256": [],
    "halonet26t": ["stages.3.0.self_attn"],
    "halonet50ts": [],
    "halonet_h1": ["stages.1.0.self_attn", "stages.2.0.self_attn", "stages.3.0.self_attn"],
    "haloregnetz_b": [],
    "lamhalobotnet50ts_256": [],
    "sehalonet33ts": ["stages.3.0.self_attn"],
}


def error(tensor, truth):
    return ((tensor.double() - truth).norm() / truth.norm()).item()


def calibrated(model, pixels):
    """The model in evaluation mode, its statistics those of the pixels, no branch switched off by a zero weight."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(pixels)
    return model.eval()


def layer(**arguments):
    """A network around one HaloAttn layer, with a normal distribution in every parameter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 1), HaloAttn(32, **arguments))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def test_the_list_of_timm_models_is_complete():
    found = []
    for name in timm.list_models(module="byoanet"):  # the only file of timm's models that names the layer
        with torch.device("meta"):
            if any(isinstance(part, HaloAttn) for part in timm.create_model(name).modules()):
                found.append(name)
    assert found == sorted(STRIDED)


@pytest.mark.parametrize("name", STRIDED)
def test_timm_models_keep_their_outputs_and_gradients(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    side = model.pretrained_cfg["input_size"][-1]
    pixels = torch.randn(2, 3, side, side)
    calibrated(model, pixels)
    halo_layers = [path for path, module in model.named_modules() if isinstance(module, HaloAttn)]
    pixels = pixels[:1]

    truth, ours = copy.deepcopy(model).double(), copy.deepcopy(model)
    found = accelerate(ours)
    assert list(found.kept) == STRIDED[name]
    assert sorted(found.replaced + list(found.kept)) == sorted(halo_layers)
    exact = copy.deepcopy(truth)
    accelerate(exact, "sdpa")

    def run(network, pixels):
        pixels = pixels.clone().requires_grad_()
        output = network(pixels)
        output.square().sum().backward()
        return output.detach(), pixels.grad

    wanted, got = run(truth, pixels.double()), run(exact, pixels.double())
    for one, other in zip(wanted, got, strict=True):
        assert error(other, one) < 1e-10  # the same function: float32 rounds 1000 times more coarsely
    for path in found.replaced:
        for parameter in exact.get_submodule(path).parameters():
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any()
    # In float32 we may err twice as much as timm itself does.
    for one, theirs, other in zip(wanted, run(model, pixels), run(ours, pixels), strict=True):
        assert error(other, one) <= 2 * error(theirs, one)


@pytest.mark.parametrize(
    "arguments",
    [
        {"qkv_bias": True},
        {"scale_pos_embed": True},
        {"dim_out": 48, "dim_head": 10},
        {"stride": 2, "avg_down": True},
        {"block_size": 7, "halo_size": 2, "stride": 2},  # timm pools where the block is odd
        {"block_size": 7, "halo_size": 2, "num_heads": 2, "dim_head": 6, "dim_out": 20, "qkv_bias": True},
        {"halo_size": 0},
    ],
    ids=str,
)
def test_every_option_of_the_layer(arguments):
    model = layer(**{"num_heads": 4, "block_size": 4, "halo_size": 1, **arguments})
    pixels = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    wanted = model(pixels)
    assert accelerate(model).replaced == ["1"]
    assert error(model(pixels), wanted) < 1e-12


def test_a_strided_layer_stays_and_is_named_with_the_reason():
    model = layer(num_heads=4, block_size=4, halo_size=1, stride=2)
    found = accelerate(model)
    assert found.replaced == []
    assert list(found.kept) == ["1"]
    assert "strided" in found.kept["1"]
    assert type(model[1]) is HaloAttn


def test_pooling_behind_an_odd_block_rounds_as_timm_does():
    model = layer(num_heads=4, block_size=7, halo_size=1, stride=2)
    pixels = torch.randn(1, 3, 21, 7, dtype=torch.float64)
    wanted = model(pixels)
    assert wanted.shape[2:] == (10, 3)
    accelerate(model)
    assert error(model(pixels), wanted) < 1e-12


def test_sizes_that_timm_refuses():
    model = layer(num_heads=4, block_size=4, halo_size=1, avg_down=True, stride=2)
    pixels = torch.randn(1, 3, 10, 7, dtype=torch.float64)
    with pytest.raises(AssertionError):
        model(pixels)
    accelerate(model)
    assert model(pixels).shape == (1, 32, 5, 4)


def test_dtype_mode_and_frozen_parameters_stay():
    model = layer(num_heads=4, block_size=4, halo_size=1).to(torch.bfloat16).eval()
    model[1].kv.requires_grad_(False)
    accelerate(model)
    ours = model[1]
    assert isinstance(ours, AcceleratedHaloAttn)
    assert not ours.training
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    frozen = {name for name, parameter in ours.named_parameters() if not parameter.requires_grad}
    assert frozen == {"kv.weight"}


def test_backends_that_cannot_stand_in_are_refused_before_anything_changes():
    model = layer(num_heads=4, block_size=4, halo_size=1)
    for backend in ("conv", "global_sa"):
        with pytest.raises(Unsupported, match=backend):
            accelerate(model, backend)
    with pytest.raises(ValueError, match="no backend is called 'sdpaa'"):
        accelerate(model, "sdpaa")
    assert type(model[1]) is HaloAttn


@pytest.mark.parametrize("name", ["halonet50ts", "halonet_h1"])
def test_the_suite_has_names_for_it(name):
    """Ours beside timm's own: the same parameters, and our layers wherever a table of ours can say the same."""
    with torch.device("meta"):
        ours, theirs = models.create(f"accelerated_{name}", "sdpa"), models.create(f"timm_{name}")
    kept = [path for path, module in ours.named_modules() if type(module) is HaloAttn]
    assert kept == STRIDED[name]
    before = sum(isinstance(module, HaloAttn) for module in theirs.modules())
    assert sum(isinstance(module, AcceleratedHaloAttn) for module in ours.modules()) == before - len(kept) > 0
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1]


def test_the_cost_table_knows_whose_attention_it_is():
    """Useful FLOPs are stated where all attention is ours, an accelerated model's too, and nowhere else."""
    *_, ours, theirs = costs.table(["accelerated_halonet50ts", "timm_halonet50ts"])
    assert "| - | - | 10.42 |" in ours
    assert "| - | - | - |" in theirs

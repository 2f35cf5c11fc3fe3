"""Our models as timm's: what its scripts, its tests and its users ask of every registered model.

What costs nothing is asked of all names, on the meta device. What computes is asked of one model of each kind, on small
images. timm's own tests of models run, too, where their file is at hand (see CONTRIBUTING.md).
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers.halo_attn import HaloAttn
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from halobench import HaloAttention, models
from halobench.attention.layer import AttentionLayer
from halobench.cases.counters import quiet

NAMES = timm.list_models("halobench_*")
SMALL = {"widths": (8, 16, 16, 32), "heads": (2, 4, 4, 4), "depths": (1, 2, 1, 1)}
# One of each kind: with a final convolution or patches, and timm's own networks with our layers.
KINDS = {
    "halobench_halonet_h3": SMALL,
    "halobench_halonet_h4_128_patch": SMALL,
    "halobench_seresnet50_halo_b8": {"layers": (1, 1, 2, 3), "channels": (8, 16, 16, 32)},
    "halobench_accelerated_halonet50ts": {"width_factor": 0.25},
}
OURS = [name for name in KINDS if "halonet_h" in name]
kinds = pytest.mark.parametrize("name", KINDS)
ours = pytest.mark.parametrize("name", OURS)


def make(name, **arguments):
    """The same weights each time, and no branch switched off by a zero."""
    torch.manual_seed(0)
    model = timm.create_model(name, **KINDS[name], **arguments).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return model


def images(height=64, width=64, channels=3):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def halo_layers(model):
    return sum(isinstance(module, AttentionLayer) for module in model.modules())


def tensors(model):
    return [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_model_of_timm(name):
    """Its configuration tells the truth, and its methods do what timm's scripts expect."""
    model = timm.create_model(name, device="meta", dtype=torch.bfloat16).eval()
    assert {(tensor.device.type, tensor.dtype) for tensor in tensors(model)} == {("meta", torch.bfloat16)}
    configuration, keys = model.pretrained_cfg, model.state_dict().keys()
    assert configuration["architecture"] == name
    assert f"{configuration['first_conv']}.weight" in keys
    assert f"{configuration['classifier']}.weight" in keys
    assert model.get_submodule(configuration["classifier"]) is model.get_classifier()
    data = resolve_model_data_config(model)
    assert data["input_size"] == (3, *[models.entry(name.removeprefix("halobench_")).image_size] * 2)
    assert (data["mean"], data["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    features = model.forward_features(torch.empty(1, *data["input_size"], device="meta", dtype=torch.bfloat16))
    assert features.shape == (1, model.num_features, *configuration["pool_size"])
    assert features.dtype == torch.bfloat16
    assert model.forward_head(features).shape == (1, 1000)
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    model.requires_grad_(requires_grad=False).reset_classifier(0)
    assert model.num_classes == 0
    assert model.forward_head(features).shape == (1, model.head_hidden_size)
    model.reset_classifier(0, "")
    assert model.forward_head(features).shape == features.shape
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.reset_classifier(3, "catavgmax")
    assert model.head_hidden_size == 2 * model.num_features
    assert model.get_classifier().weight.shape == (3, model.head_hidden_size)
    assert {(tensor.device.type, tensor.dtype) for tensor in tensors(model)} == {("meta", torch.bfloat16)}
    assert not any(module.training for module in model.modules())


@kinds
def test_decay_of_rates_and_of_weights(name):
    """Rates grow from the stem to the classifier; norms and biases alone do not decay: tables do, as timm's own do."""
    with torch.device("meta"):
        model = timm.create_model(name, **KINDS[name])
    assert {tensor.device.type for tensor in tensors(model)} == {"meta"}
    scales = {}
    for group in param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5):
        scales |= dict.fromkeys(map(id, group["params"]), group["lr_scale"])
    in_order = [scales[id(parameter)] for parameter in model.parameters()]
    assert in_order == sorted(in_order)
    blocks = {"seresnet": 7, "accelera": 16}.get(name.removeprefix("halobench_")[:8], 5)
    between_stem_and_classifier = sorted(set(scales.values()))[1:-1]
    assert between_stem_and_classifier == [0.5 ** (blocks - block) for block in range(blocks)]
    if name == "halobench_halonet_h3":
        assert scales[id(model.final[0].weight)] == 0.5  # with the last block

    decays = {}
    for group in param_groups_weight_decay(model, weight_decay=0.1):
        decays |= dict.fromkeys(map(id, group["params"]), group["weight_decay"])
    for path, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.1 if parameter.dim() > 1 else 0), path
    tables = [
        table
        for part in model.modules()
        if isinstance(part, AttentionLayer)
        for table in (part.relative if isinstance(part, HaloAttention) else part.pos_embed).parameters()
    ]
    assert len(tables) == 2 * halo_layers(model)
    assert {decays[id(table)] for table in tables} == {0.1}
    theirs = HaloAttn(8, num_heads=2)
    decayed = [group["params"] for group in param_groups_weight_decay(theirs, 0.1) if group["weight_decay"]]
    assert any(theirs.pos_embed.height_rel is parameter for group in decayed for parameter in group)
    assert not hasattr(model, "no_weight_decay")


@kinds
@pytest.mark.parametrize(
    ("kind", "indices"),
    [("list", (0, 1, 2, 3, 4)), ("list", (1, 2)), ("dict", (-1,)), ("hook", (1, 2, 3)), ("getter", (0, 3))],
    ids=str,
)
def test_features_are_those_of_the_whole_network(name, indices, kind):
    """Whatever maps are asked for, the network is the same: its halo layers are where they were."""
    whole, pixels, wanted = make(name), images(50, 64), {}
    for number, about in enumerate(whole.feature_info):
        whole.get_submodule(about["module"]).register_forward_hook(
            lambda _module, _inputs, output, number=number: wanted.update({number: output.clone()})
        )
    part = make(name, features_only=True, out_indices=indices, feature_cls=kind)
    with torch.no_grad():
        on_the_way = whole.forward_intermediates(pixels, intermediates_only=True)
        torch.testing.assert_close(on_the_way, [wanted[number] for number in range(5)], rtol=0, atol=0)
        found = part(pixels)
    found = list(found.values()) if kind == "dict" else found
    asked = [index % 5 for index in indices]
    for index, features in zip(asked, found, strict=True):
        torch.testing.assert_close(features, wanted[index])
    assert part.feature_info.channels() == [features.shape[1] for features in found]
    assert part.feature_info.reduction() == [math.ceil(64 / features.shape[3]) for features in found]
    if max(asked) == 4:
        assert halo_layers(part) == halo_layers(whole) > 0


def test_the_last_three_convolutions_stay_the_last_three():
    backbone = timm.create_model("halobench_seresnet50_halo_b8", features_only=True, out_indices=(1, 2, 3))
    assert halo_layers(backbone) == 0
    dilated = timm.create_model("halobench_seresnet50_halo_b8", features_only=True, output_stride=16)
    assert [layer.spec.geometry.stride for layer in dilated.modules() if isinstance(layer, HaloAttention)] == [1, 1, 1]
    assert [features.shape[3] for features in dilated.eval()(images())] == [32, 16, 8, 4, 4]


@ours
def test_maps_on_the_way_and_what_is_pruned_behind_them(name):
    model, pixels = make(name), images()
    with torch.no_grad():
        wanted, maps = model.forward_intermediates(pixels)
        torch.testing.assert_close(model.forward_features(pixels), wanted, rtol=0, atol=0)
        kept = make(name)
        assert kept.prune_intermediate_layers([4], prune_head=False) == [4]
        torch.testing.assert_close(kept(pixels), model(pixels), rtol=0, atol=0)
    called = []
    for stage in model.stages:
        stage.register_forward_pre_hook(lambda stage, _inputs: called.append(stage))
    for index in range(5):
        called.clear()
        with torch.no_grad():
            (tap,) = model.forward_intermediates(pixels, [index], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(tap, maps[index], rtol=0, atol=0)
        assert called == list(model.stages)[:index]
        pruned = make(name)
        assert pruned.prune_intermediate_layers([index - 5]) == [index]
        features = pruned.forward_features(pixels)
        torch.testing.assert_close(features, maps[index], rtol=0, atol=0)
        assert pruned(pixels).shape[1] == pruned.num_features == pruned.feature_info[index]["num_chs"]
        (pruned.forward_intermediates(pixels, [index], intermediates_only=True)[0] + features).sum().backward()
        assert all(parameter.grad is not None for parameter in pruned.parameters())
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NHWC'"):
        model.forward_intermediates(pixels, output_fmt="NHWC")


@kinds
@pytest.mark.parametrize("features_only", [False, True])
def test_checkpointing_changes_no_output_and_no_gradient(name, features_only):
    outcomes = []
    for enable in (False, True):
        model = make(name, drop_path_rate=0.5, features_only=features_only).train()
        model.set_grad_checkpointing(enable)
        pixels = images().requires_grad_()
        torch.manual_seed(3)
        outputs = model(pixels)
        outputs = outputs if features_only else [outputs]
        sum(output.square().mean() for output in outputs).backward()
        outcomes.append([*outputs, pixels.grad, *(parameter.grad for parameter in model.parameters())])
    assert all(gradient is not None for gradient in outcomes[0])
    torch.testing.assert_close(*outcomes)


@ours
def test_checkpointing_computes_blocks_a_second_time(name):
    """And what lies outside them once."""
    counted = {True: 0, False: 0}
    for enable in counted:
        model = make(name)
        model.set_grad_checkpointing(enable)

        def count(_module, _inputs, enable=enable):
            counted[enable] += 1

        for block in [model.stem, *(block for stage in model.stages for block in stage)]:
            block.register_forward_pre_hook(count)
        model(images()).sum().backward()
    assert counted == {False: 6, True: 1 + 2 * 5}


@kinds
def test_classes_and_poolings(name):
    pixels, model = images(), make(name)
    with torch.no_grad():
        features = model.forward_features(pixels)
        pooled = {
            "": features,
            "avg": features.mean((2, 3)),
            "fast": features.mean((2, 3)),
            "max": features.amax((2, 3)),
            "avgmax": (features.mean((2, 3)) + features.amax((2, 3))) / 2,
        }
        pooled["catavgmax"] = torch.cat([pooled["avg"], pooled["max"]], 1)
        for pool, wanted in pooled.items():
            headless = make(name, num_classes=0, global_pool=pool)
            headless.load_state_dict(model.state_dict(), strict=False)
            torch.testing.assert_close(headless(pixels), wanted)
            assert headless.head_hidden_size == wanted.shape[1]
        classifier = model.get_classifier()
        torch.testing.assert_close(model(pixels), classifier(pooled["avg"]))
        model.reset_classifier(5)
        torch.testing.assert_close(model(pixels), model.get_classifier()(pooled["avg"]))
        model.reset_classifier(0, "max")
        model.reset_classifier(5)  # keeps the pooling
        torch.testing.assert_close(model(pixels), model.get_classifier()(pooled["max"]))


@kinds
@pytest.mark.parametrize("rate", ["drop_rate", "drop_path_rate"])
def test_rates_act_in_training_only(name, rate):
    dropping, plain = make(name, **{rate: 0.9}), make(name)
    torch.testing.assert_close(dropping(images()), plain(images()), rtol=0, atol=0)
    for model, varies in ((dropping, True), (plain, False)):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # its batch statistics would hide what changes
        assert torch.equal(model(images()), model(images())) != varies


@kinds
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_number_of_channels(name, channels):
    model = make(name, in_chans=channels, num_classes=2)
    assert model.in_chans == channels
    assert model(images(channels=channels)).shape == (2, 2)


@kinds
def test_weights_from_a_folder_and_none_from_nowhere(name, tmp_path):
    """As from timm's hub: arguments come along, and the first layer is made to fit other channels."""
    model = make(name, num_classes=4, global_pool="max")
    timm.models.save_for_hf(model, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **KINDS[name], global_pool="max").eval()
    torch.testing.assert_close(loaded(images()), model(images()), rtol=0, atol=0)
    grey = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=1, num_classes=0, **KINDS[name])
    first = f"{model.pretrained_cfg['first_conv']}.weight"
    torch.testing.assert_close(grey.get_parameter(first), model.get_parameter(first).sum(1, keepdim=True))
    with pytest.raises(RuntimeError, match=f"No pretrained weights exist for {name}"):
        make(name, pretrained=True)


@kinds
def test_an_unknown_argument_is_no_argument(name):
    with torch.device("meta"), pytest.raises(TypeError, match="no_such_argument"):
        make(name, no_such_argument=1)


def test_overlays_reach_the_model():
    model = timm.create_model(
        "halobench_halonet_mini", pretrained_cfg_overlay={"num_classes": 7, "input_size": (1, 32, 32)}, device="meta"
    )
    assert (model.num_classes, model.in_chans, model.pretrained_cfg["input_size"]) == (7, 1, (1, 32, 32))


def test_stochastic_depth_has_one_rate():
    with pytest.raises(TypeError, match="halonet_h3 takes drop_path_rate or stochastic_depth, which are one, got both"):
        make("halobench_halonet_h3", drop_path_rate=0.1, stochastic_depth=0.2)


def test_fvcore_prints_halo_resnets():
    """It prints every child, and knows no child that is ``None``."""
    with quiet():
        from fvcore.nn import FlopCountAnalysis, flop_count_str  # noqa: PLC0415 - it warns when imported

        printed = flop_count_str(FlopCountAnalysis(make("halobench_seresnet50_halo_b8"), torch.zeros(1, 3, 32, 32)))
    assert printed.count("HaloAttention(") == 3


PROGRAM = """
import timm
theirs = {name: timm.models.model_entrypoint(name) for name in timm.list_models()}
import halobench.models
now = set(timm.list_models())
assert all(timm.models.model_entrypoint(name) is function for name, function in theirs.items())
added = now - set(theirs)
assert added and all(name.startswith("halobench_") for name in added)
assert set(timm.list_models(module="timm_names")) == added
assert not set(timm.list_models(pretrained=True)) & added
from halobench.models.timm_names import *
assert callable(halobench_halonet_h0)
"""


def test_names_shadow_none_of_timm():
    """timm warns where a name is registered twice; the warning would be an error here."""
    subprocess.run([sys.executable, "-W", "error:Overwriting", "-c", PROGRAM], check=True)


THEIR_TESTS = os.environ.get("TIMM_TESTS")


@pytest.mark.skipif(not THEIR_TESTS, reason="TIMM_TESTS names no copy of timm's tests/test_models.py")
@pytest.mark.parametrize("which", ["halobench", "accelerated"])
def test_timms_own_tests(which):
    """All but those of TorchScript, which no layer of ours supports: on our names, and on theirs accelerated."""
    theirs = Path(THEIR_TESTS).resolve()
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.timm_names_only", "-p", "no:cacheprovider"),
            *("-c", os.devnull, "--rootdir", theirs.parent, "--import-mode=importlib"),  # their package is `tests`, too
            *("-k", "halo and not torchscript", theirs),
        ],
        cwd=Path(__file__).parent.parent,
        env=os.environ | ({"ACCELERATED": "1"} if which == "accelerated" else {}),
        text=True,
        stdout=subprocess.PIPE,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-20000:]

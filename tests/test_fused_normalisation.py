"""``models.fuse_normalisation`` on networks of timm: the operator where a compiled step wants it, theirs elsewhere.

How the operator is served here stands in ``tests/served_normalisation.py``.
"""

import copy

import pytest
import timm
import torch
from timm.models import regnet
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from halobench.models import fuse_normalisation, restore
from halobench.models.norm import module as norm_module
from tests.served_normalisation import alike, images, operator, prepared, state, step

without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# The networks, and how many of their normalisations go with a shortcut and an activation, an activation, or neither.
NETWORKS = {
    "efficientnet_b0": (0, 33, 16),
    "resnet50": (16, 33, 4),
    "seresnet50": (0, 33, 20),
    "regnety_002": (13, 27, 4),
    "mobilenetv3_small_050": (0, 5, 29),
    "gernet_s": (14, 26, 5),
    "resnet26t": (8, 19, 4),
    "legacy_seresnet18": (0, 17, 3),
}


def batch_norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("number", range(8))
def test_efficientnets_structure(number):
    """Each activated normalisation is replaced, all others are named, and ``restore`` gives back what timm made."""
    with torch.device("meta"):
        model = timm.create_model(f"efficientnet_b{number}")
    before, tensors = state(model), dict(model.state_dict(keep_vars=True))
    activated = [name for name in batch_norms(model) if isinstance(model.get_submodule(name).act, nn.SiLU)]
    found = fuse_normalisation(model)
    assert found.replaced == activated
    assert [*found.kept] == [name for name in batch_norms(model) if name not in activated]
    assert all("reads its output" in reason for reason in found.kept.values())
    between = dict(model.state_dict(keep_vars=True))
    assert list(between) == list(tensors)
    assert all(between[key] is tensors[key] for key in tensors)
    assert fuse_normalisation(model) == found
    assert restore(model) == found.replaced
    assert state(model) == before


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_keep_their_steps(name, served):
    """Outputs, gradients and running statistics of a step, with as many calls of the operator as there are names."""
    joined, alone, others = NETWORKS[name]
    torch.manual_seed(0)
    theirs = prepared(timm.create_model(name, num_classes=7, drop_rate=0.0))
    model, before = copy.deepcopy(theirs), batch_norms(theirs)
    pristine = state(model)
    found = fuse_normalisation(model)
    assert sorted([*found.replaced, *found.kept]) == sorted(before)
    assert (len(found.replaced), len(found.kept)) == (joined + alone, others)
    ours = step(model, images())
    assert (served.count(True), served.count(False)) == (joined, alone)
    alike(ours, step(theirs, images()))
    assert list(model.state_dict()) == list(theirs.state_dict())
    assert restore(model) == found.replaced
    assert state(model) == pristine


def test_a_compiled_step_calls_it_and_nothing_else_does(monkeypatch):
    """In one graph, through a block of each kind. Uncompiled and in evaluation nothing asks the operator."""
    calls = operator(monkeypatch)
    torch.manual_seed(0)
    model = prepared(
        nn.Sequential(
            InvertedResidual(3, 8, exp_ratio=2, act_layer=nn.SiLU, se_layer=SqueezeExcite),
            BasicBlock(8, 8),
            regnet.Bottleneck(8, 16, group_size=4),
        )
    )
    theirs = copy.deepcopy(model)
    assert fuse_normalisation(model).replaced == [
        "0.bn1",
        "0.bn2",
        "1.bn1",
        "1.bn2",
        "2.conv1.bn",
        "2.conv2.bn",
        "2.conv3.bn",
    ]
    alike(step(model, images(8)), step(theirs, images(8)))
    assert not calls
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    alike(step(model, images(8), compiled), step(theirs, images(8)))
    assert calls == [False, False, False, True, False, False, True]
    with torch.no_grad():
        alike([compiled.eval()(images(8))], [theirs.eval()(images(8))])
    assert len(calls) == 7


def test_timms_blocks_that_drop_and_blur():
    """Between normalisation and activation, or before the shortcut: only what has nothing in between is replaced."""
    with torch.device("meta"):
        dropped = timm.create_model("resnet26", drop_block_rate=0.1, drop_path_rate=0.1)
        blurred = timm.create_model("resnet26", aa_layer=timm.layers.BlurPool2d)
    found = fuse_normalisation(dropped)
    for name, block in dropped.named_modules():
        if not isinstance(block, Bottleneck):
            continue
        assert f"{name}.bn1" in found.replaced
        middle = "DropBlock2d" if not isinstance(block.drop_block, nn.Identity) else None
        assert (f"{name}.bn2" in found.replaced) == (middle is None)
        assert middle is None or middle in found.kept[f"{name}.bn2"]
        assert (f"{name}.bn3" in found.replaced) == (block.drop_path is None)
        assert block.drop_path is None or "DropPath" in found.kept[f"{name}.bn3"]
    assert {"DropBlock2d", "DropPath"} <= {word for reason in found.kept.values() for word in reason.split()}
    assert len(fuse_normalisation(blurred).kept) == 4  # those of the shortcuts


@pytest.mark.gpu
@without_gpu
@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet50", "regnety_002", "gernet_s"])
def test_on_a_gpu_steps_are_as_exact_as_timms(name, monkeypatch):
    """In float32: a compiled step with the operator errs a few times as much as timm's eager ones, at the most.

    The output, all gradients and all buffers are held against the step in float64. Where a rounding takes a value to
    the other side of ReLU's zero, whole gradients move: timm's steps are taken on images that differ by roundings, too.
    """
    calls, fused = [], norm_module.norm_activation
    monkeypatch.setattr(norm_module, "norm_activation", lambda *given: (calls.append(1), fused(*given))[1])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    exact = prepared(timm.create_model(name, num_classes=7)).cuda()
    theirs = copy.deepcopy(exact).float()
    model = copy.deepcopy(theirs)
    found = fuse_normalisation(model)
    pixels = images(96, 8).cuda()
    torch.compiler.reset()
    ours = step(model, pixels.float(), torch.compile(model, fullgraph=True))
    assert len(calls) == len(found.replaced)
    truth = step(exact, pixels)
    roundings = [1 + 2**-24 * torch.randn(pixels.shape, device="cuda") for _ in range(8)]
    others = [step(copy.deepcopy(theirs), pixels.float() * one) for one in roundings]
    for number, (one, exactly, *drawn) in enumerate(zip(ours, truth, *others, strict=True)):
        allowed = 8 * max((other.double() - exactly).norm() for other in drawn) + 1e-5 * exactly.double().norm()
        assert (one.double() - exactly).norm() <= allowed, f"tensor {number} of {len(ours)}, {tuple(one.shape)}"

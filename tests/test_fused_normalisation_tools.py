"""Networks with ``models.fuse_normalisation`` in the hands of other tools: copies, traces, exports, wrappers."""

import copy
import pickle

import pytest
import timm
import torch
import torch.fx
from timm.layers import convert_sync_batchnorm, create_feature_extractor, freeze_batch_norm_2d
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from halobench.models import accelerate, create, fuse_normalisation, restore
from halobench.models.exchange import Exchanged
from tests import small_timm
from tests.served_normalisation import alike, compare, images, operator, prepared, state, step


def test_synchronised_and_frozen_statistics(served):
    """What timm exchanges normalisations for keeps activations, and takes ours as timm's own."""
    model = prepared(timm.create_model("tinynet_e", num_classes=3))
    theirs = copy.deepcopy(model)
    fuse_normalisation(model)
    for convert in (convert_sync_batchnorm, freeze_batch_norm_2d):
        found, wanted = (convert(copy.deepcopy(one)) for one in (model, theirs))
        assert [type(module) for module in found.modules()] == [type(module) for module in wanted.modules()]
        if convert is freeze_batch_norm_2d:
            alike(step(found, images()), step(wanted, images()))
        kept = fuse_normalisation(found)
        assert not kept.replaced
        assert all(" may compute something else" in reason for reason in kept.kept.values())
        assert kept.kept
    assert not served


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_networks_of_their_own(copied, served):
    model = prepared(timm.create_model("test_resnet", num_classes=3))
    theirs = copy.deepcopy(model)
    found = fuse_normalisation(model)
    twin = copied(model)
    assert not {id(module) for module in model.modules()} & {id(module) for module in twin.modules()}
    alike(step(twin, images()), step(theirs, images()))
    assert len(served) == len(found.replaced)
    own = {id(module) for module in twin.modules()}
    assert all(id(one) in own for module in twin.modules() for one in vars(module).get("followers", ()))
    assert restore(twin) == restore(model) == found.replaced


TRACED = {"tinynet_e": "blocks.1.0.bn1", "test_resnet": "layer1.0.act1", "regnetx_002": "s1.b1.act3"}


@pytest.mark.parametrize("name", TRACED)
def test_traces_have_the_nodes_they_had(name, served):
    """timm's feature extraction, and PyTorch's tracer where it takes the network; the trace asks the operator, too."""
    model = prepared(timm.create_model(name, num_classes=3))
    theirs = copy.deepcopy(model)
    found = fuse_normalisation(model)
    extracted, wanted = (create_feature_extractor(one, [TRACED[name]]) for one in (model, theirs))
    alike(extracted(images()).values(), wanted(images()).values())
    if name != "test_resnet":  # whose normalisations are leaves
        return
    trace, usual = torch.fx.symbolic_trace(model), torch.fx.symbolic_trace(theirs)
    found_nodes, nodes = ([(node.op, node.target) for node in one.graph.nodes] for one in (trace, usual))
    assert found_nodes == nodes
    served.clear()
    alike(step(trace, images()), step(usual, images()))
    assert len(served) == len(found.replaced)


def test_under_autocast_the_dtypes_are_those_of_timm(served):
    model = timm.create_model("test_resnet", num_classes=3).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(model)
    found = fuse_normalisation(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours, wanted = model(images().float()), theirs(images().float())
    assert len(served) == len(found.replaced)
    assert ours.dtype == wanted.dtype
    torch.testing.assert_close(ours, wanted, rtol=0.1, atol=0.1)


def test_what_is_exported_is_timms(monkeypatch):
    calls = operator(monkeypatch)
    model = prepared(timm.create_model("test_resnet", num_classes=3))
    fuse_normalisation(model)
    program = torch.export.export(model, (images(),))
    assert not calls
    assert any("batch_norm" in str(node.target) for node in program.graph.nodes)


def test_wrapped_networks_and_hooks_on_blocks(served):
    """A wrapper that cannot be traced, and a block with hooks, which a trace does not run, hide nothing."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, pixels):
            return self.module(pixels) if pixels.sum() > 0 else self.module(-pixels)

    inner = prepared(timm.create_model("test_resnet", num_classes=3))
    count, ran = len(fuse_normalisation(copy.deepcopy(inner)).replaced), []
    block = next(module for module in inner.modules() if isinstance(module, BasicBlock | Bottleneck))
    block.register_forward_hook(lambda *call: ran.append(call[-1]))
    model = Wrapper(inner)
    found = fuse_normalisation(model)
    assert not ran
    assert len(found.replaced) == count
    assert all(name.startswith("module.") for name in found.replaced)
    assert compare(model, served, images()) == count
    assert len(ran) == 1 + 1  # of the model and its copy


def test_halonets_have_it_already(served):
    """Ours are left alone; both accelerations of timm's go together, and ``restore`` undoes both."""
    ours = create("halonet_mini", "strided_gather", 3)
    found = fuse_normalisation(ours)
    assert not found.replaced
    assert not any(isinstance(module, Exchanged) for module in ours.modules())
    theirs = prepared(small_timm.network())
    model = copy.deepcopy(theirs)
    before = state(model)
    names = [*accelerate(model, "strided_gather").replaced, *fuse_normalisation(model).replaced]
    alike(step(model, images(32)), step(theirs, images(32)))
    assert len(served) == len(names) - 2
    assert sorted(restore(model)) == sorted(names)
    assert state(model) == before

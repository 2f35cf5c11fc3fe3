"""torch.fx and what is built on it take whole models: the attention is one node of a trace."""

import copy
import pickle

import pytest
import torch
from timm.utils import AttentionExtract
from torchvision.models.feature_extraction import create_feature_extractor

from halobench import models
from halobench.attention.layer import AttentionLayer, attended, attended_packed, channels
from halobench.models import accelerate
from tests.small_timm import network

SIDE = 64


def own(backend="sdpa"):
    return models.create("halonet_mini", backend, num_classes=3)


def hybrid():
    return models.create("seresnet50_halo_b8", "strided_gather", num_classes=3)


def accelerated():
    model = network()
    assert accelerate(model, "sdpa").replaced
    return model


@pytest.fixture(scope="module", params=[own, hybrid, accelerated])
def traced(request):
    """A model, the name of its first attention layer, and an image batch."""
    torch.manual_seed(0)
    model = request.param().eval()
    first = next(name for name, module in model.named_modules() if isinstance(module, AttentionLayer))
    return model, first, torch.randn(1, 3, SIDE, SIDE)


@torch.no_grad()
def test_symbolic_trace(traced):
    """The trace computes what the model does, also as a copy, and after it was pickled."""
    model, _, pixels = traced
    trace, wanted = torch.fx.symbolic_trace(model), model(pixels)
    layers = sum(isinstance(module, AttentionLayer) for module in model.modules())
    assert sum(node.target is attended for node in trace.graph.nodes) == layers > 0
    for one in (trace, copy.deepcopy(trace), pickle.loads(pickle.dumps(trace))):
        torch.testing.assert_close(one(pixels), wanted)


@torch.no_grad()
def test_feature_extractors(traced):
    """torchvision's, and timm's in both ways, give the output of an attention layer."""
    model, first, pixels = traced
    seen = []
    handle = model.get_submodule(first).register_forward_hook(lambda *call: seen.append(call[-1]))
    model(pixels)
    handle.remove()
    torch.testing.assert_close(create_feature_extractor(model, {first: "out"})(pixels)["out"], seen[0])
    (of_node,) = AttentionExtract(model, names=[f"{first}.attended"])(pixels).values()
    torch.testing.assert_close(channels(of_node), seen[0])
    (of_module,) = AttentionExtract(model, names=[first], method="hook")(pixels).values()
    torch.testing.assert_close(of_module, seen[0])


def test_in_training_mode_and_with_one_projection():
    """Stochastic depth does not stop a trace; a backend that takes one map gets one node as well."""
    model = models.create("halonet_mini", "fused_cuda", num_classes=3, stochastic_depth=0.2).train()
    targets = [node.target for node in torch.fx.symbolic_trace(model).graph.nodes]
    assert attended_packed in targets  # of stride 1
    assert attended in targets

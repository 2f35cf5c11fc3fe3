"""What a training step keeps for its backward pass: all of it, or no queries, keys and values."""

import pytest
import torch

from halobench import models
from halobench.attention.layer import AttentionLayer
from tests.kept_tensors import kept

SMALL = {"depths": (1, 2, 1, 1)}  # with strided layers, and two that are not


def step(recompute, **changes):
    """Output and gradients of a float64 step, and how many bytes it keeps."""
    torch.manual_seed(0)
    model = models.create("halonet_mini", "sdpa", 10, **SMALL, recompute_projections=recompute).double().train()
    for name, change in changes.items():
        getattr(model, name)(change)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # blocks would begin as their shortcuts
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(images)
    output.square().sum().backward()
    return [output, *(parameter.grad for parameter in model.parameters())], sum(sizes)


def test_a_step_that_projects_again_computes_the_same_and_keeps_less():
    wanted, all_kept = step(recompute=False)
    found, left = step(recompute=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert left < 0.95 * all_kept


def test_projections_are_computed_again_inside_of_blocks_that_are():
    wanted, _ = step(recompute=False, set_grad_checkpointing=True)
    found, _ = step(recompute=True, set_grad_checkpointing=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def block(recompute):
    """A bottleneck of attention, channels-last, in training."""
    model = models.create("halonet_mini", "fused_cuda", **SMALL, recompute_projections=recompute)
    return model.stages[1][1].to(memory_format=torch.channels_last).train()


def test_the_compiler_keeps_no_queries_keys_and_values():
    """Everything else it keeps as before: nothing is computed again that was not to be."""
    usual, less = (kept(block(again), torch.randn(2, 8, 8, 128).permute(0, 3, 1, 2)) for again in (False, True))
    assert usual.pop("queries, keys and values") == pytest.approx(3 * 64 * 64 * 2 / 2**20)  # 8 x 8 pixels, 64 channels
    assert less == pytest.approx(usual)
    assert usual["outputs of attention"] > 0
    assert usual["normalised and activated maps"] > 0


def test_nothing_is_computed_again_unless_asked_for():
    with torch.device("meta"):
        for again in (False, True):
            model = models.create("halonet_mini", "sdpa", recompute_projections=again)
            layers = [module for module in model.modules() if isinstance(module, AttentionLayer)]
            assert layers
            assert {layer.recomputes for layer in layers} == {again}
            traced = torch.fx.symbolic_trace(model)
            assert set(traced.state_dict()) == set(model.state_dict())
        assert not any(layer.recomputes for layer in models.create("halonet_mini", "sdpa").modules() if layer in layers)

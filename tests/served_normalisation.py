"""The operator of normalisation as its formula, on the CPU: what tests of networks that ask for it share.

A CPU counts as a GPU, and float64 is served (``tests/test_norm.py`` holds the kernels to the formula): so a network
that differs by more than roundings of float64 computes something else.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from halobench.models import restore
from halobench.models.norm import module as norm_module


def operator(monkeypatch):
    """Let the CPU be served, by the operator's formula; the calls of it: for each, whether it had a shortcut."""
    calls = []

    def formula(pixels, weight, bias, shortcut, eps, relu, pooled):
        assert not pooled
        calls.append(shortcut is not None)
        variance, mean = torch.var_mean(pixels.detach(), (0, 2, 3), correction=0)
        output = F.batch_norm(pixels, None, None, weight, bias, training=True, eps=eps)
        output = output if shortcut is None else output + shortcut
        return F.relu(output) if relu else F.silu(output), None, mean, variance

    monkeypatch.setattr(norm_module, "FUSED_DEVICE", "cpu")
    monkeypatch.setattr(norm_module, "FUSED_DTYPES", (torch.float64, *norm_module.FUSED_DTYPES))
    monkeypatch.setattr(norm_module, "norm_activation", formula)
    return calls


def prepared(model):
    """In training, float64 and channels-last, with no normalisation that gives zeros."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.double().train().to(memory_format=torch.channels_last)


def images(side=48, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, side, side, dtype=torch.float64, generator=generator).to(
        memory_format=torch.channels_last
    )


def step(model, pixels, call=None):
    """Output, gradients and buffers of a training step."""
    pixels = pixels.clone().requires_grad_()
    model.zero_grad()
    output = model(pixels) if call is None else call(pixels)
    output.square().mean().backward()
    return [output, pixels.grad, *(one.grad for one in model.parameters() if one.grad is not None), *model.buffers()]


def alike(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        scale = other.abs().max().double().clamp(min=1e-3)  # some gradients are roundings alone
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-9)


def state(model):
    """All that an exchange might change."""
    return [
        (path, type(module), module, set(vars(module)), module.training, str(module))
        for path, module in model.named_modules()
    ]


def compare(model, calls, pixels=None):
    """A step of the model against what it is without us; how often that called the operator."""
    pixels = images(8) if pixels is None else pixels
    theirs = copy.deepcopy(model)
    restore(theirs)
    torch.manual_seed(1)
    wanted = step(theirs, pixels)
    calls.clear()
    torch.manual_seed(1)
    alike(step(model, pixels), wanted)
    return len(calls)

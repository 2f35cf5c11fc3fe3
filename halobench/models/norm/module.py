"""Modules that end in batch normalisation and an activation, called in one operator where that is faster."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

try:
    from halobench.models.norm.operator import norm_activation
except ModuleNotFoundError:  # PyTorch is there where Triton is not
    norm_activation = None

FUSED_DEVICE = "cuda"
FUSED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Parts(NamedTuple):
    """The modules of a ``NormActivation`` by what they are for."""

    before: list[nn.Module]
    norm: nn.Module
    activation: nn.Module
    pooling: nn.MaxPool2d | None


class NormActivation(nn.Sequential):
    """A sequence whose last modules are a normalisation, an activation and, in the stem, a ``nn.MaxPool2d``.

    (b c H W) -> (b c' H' W'). A shortcut, if there is one, is added between normalisation and activation.

    In a compiled training step on a GPU an ``nn.BatchNorm2d`` and all after it are one operator: the compiler alone
    writes the normalised map in float32 before it differentiates the activation, more than twice the traffic. Else the
    modules are called one by one, and so they are if one was replaced, as for statistics of several processes
    (``nn.SyncBatchNorm.convert_sync_batchnorm``).
    """

    def forward(self, pixels: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Call what comes before, and normalise with the statistics of the batch in training, the running ones else."""
        parts = self.parts()
        for module in parts.before:
            pixels = module(pixels)
        if fuses(parts, pixels, shortcut):
            return fused(parts, pixels, shortcut)
        output: Tensor = parts.norm(pixels)
        output = parts.activation(output if shortcut is None else output + shortcut)
        return output if parts.pooling is None else parts.pooling(output)

    def parts(self) -> Parts:
        """The modules in their order."""
        *modules, last = self
        pooling = last if isinstance(last, nn.MaxPool2d) else None
        *before, norm, activation = modules if pooling else [*modules, last]
        return Parts(before, norm, activation, pooling)


def fuses(parts: Parts, pixels: Tensor, shortcut: Tensor | None) -> bool:
    """Whether the operator serves this call of a ``NormActivation``: another class of norm is another's meaning.

    So is another ``forward``, as that of a norm over several ranks.
    """
    own = type(parts.norm) is nn.BatchNorm2d and "forward" not in parts.norm.__dict__
    return own and serves(parts, pixels, shortcut)


def serves(parts: Parts, pixels: Tensor, shortcut: Tensor | None) -> bool:
    """Whether the operator serves this call. Uncompiled, launching it would cost what it saves."""
    return (
        torch.compiler.is_compiling()
        and norm_activation is not None
        and pixels.device.type == FUSED_DEVICE
        and pixels.dtype in FUSED_DTYPES
        and pixels.numel() > pixels.shape[1]  # one pixel has no variance: PyTorch says so
        and fits(parts, joined=shortcut is not None)
        and (shortcut is None or joins(shortcut, pixels))
    )


def joins(shortcut: Tensor, pixels: Tensor) -> bool:
    """Whether the operator adds this shortcut to this map."""
    return shortcut.shape == pixels.shape and shortcut.dtype == pixels.dtype


def fits(parts: Parts, *, joined: bool) -> bool:
    """Whether the modules are set to compute what the operator does."""
    norm, pooling = parts.norm, parts.pooling
    window = pooling and (pooling.kernel_size, pooling.stride, pooling.padding, pooling.dilation, pooling.ceil_mode)
    return (
        norm.training
        and bool(norm.track_running_stats)
        and all(part is not None for part in (norm.weight, norm.bias, norm.running_mean, norm.momentum))
        and isinstance(parts.activation, nn.SiLU | nn.ReLU)
        and (pooling is None or (not joined and window == (3, 2, 1, 1, False)))
    )


def fused(parts: Parts, pixels: Tensor, shortcut: Tensor | None) -> Tensor:
    """The last modules in one operator, whatever the device: Triton must serve it."""
    norm = parts.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum is not None
    relu, pooled = isinstance(parts.activation, nn.ReLU), parts.pooling is not None
    output: Tensor
    output, _, mean, variance = norm_activation(pixels, norm.weight, norm.bias, shortcut, norm.eps, relu, pooled)
    count = pixels.numel() // pixels.shape[1]
    with torch.no_grad():
        norm.get_buffer("num_batches_tracked").add_(1)
        for name, found in (("running_mean", mean), ("running_var", variance * (count / (count - 1)))):
            running = norm.get_buffer(name)
            running.lerp_(found.to(running.dtype), norm.momentum)
    return output

"""Batch normalisation over a map that ranks hold: statistics of all rows, whatever the shards.

PyTorch's ``SyncBatchNorm`` does the same on GPUs alone. Means and variances of all ranks are put together as
https://doi.org/10.1080/00031305.1983.10483115 (Chan, Golub and LeVeque) has it, so that nothing cancels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from halobench.distributed.layout import Layout
from halobench.distributed.messages import exact
from halobench.distributed.replicated import replicated


def normalised(layout: Layout, module: nn.BatchNorm2d, pixels: Tensor) -> Tensor:
    """What ``module`` makes of this rank's rows (b c h W) of a map, its running statistics moved by the whole map's.

    The gradients of its weight and bias are those of the whole map, on every rank.
    """
    if not module.training and module.running_mean is not None:
        weight, bias = replicated(layout.group, module.weight, module.bias) if layout.travels else module.parameters()
        return F.batch_norm(pixels, module.running_mean, module.running_var, weight, bias, eps=module.eps)
    mean, variance = statistics(layout, pixels.detach())
    if module.training and module.running_mean is not None:
        follow(module, mean, variance, layout.pixels(pixels))
    output: Tensor = Normalised.apply(layout, pixels, module.weight, module.bias, mean, variance, module.eps)
    return output


def statistics(layout: Layout, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (c,) of all ranks' rows (b c h W), in float32 at least."""
    own = pixels.to(exact(pixels.dtype))
    variance, mean = torch.var_mean(own, (0, 2, 3), correction=0)
    if not layout.travels:
        return mean, variance
    table = own.new_zeros(layout.group.size(), 2, len(mean))  # [ranks, 2, c]
    table[layout.group.rank(), 0], table[layout.group.rank(), 1] = mean, variance
    means, variances = layout.sum(table, "the statistics of a normalisation").unbind(1)
    shares = layout.shares(pixels)[:, None]  # a matrix product would be autocast
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)


def follow(module: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics, of which the variance is that of a sample, as PyTorch does."""
    seen = module.get_buffer("num_batches_tracked").add_(1)
    share = 1 / float(seen) if module.momentum is None else module.momentum
    for name, found in (("running_mean", mean), ("running_var", variance * (count / max(count - 1, 1)))):
        running = module.get_buffer(name)
        running.lerp_(found.to(running.dtype), share)


class Normalised(torch.autograd.Function):
    """Normalisation by statistics of the whole map, which depend on every rank's rows."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, pixels: Tensor, weight: Tensor, bias: Tensor, *statistics: Any) -> Tensor:
        """PyTorch's own with fixed statistics: mean, variance and what is added to it."""
        mean, variance, ctx.eps = statistics
        ctx.save_for_backward(pixels, weight, mean, variance)
        ctx.layout = layout
        return F.batch_norm(pixels, mean, variance, weight, bias, eps=ctx.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of map, weight and bias; the map's is that under fixed statistics, less what moves these."""
        layout: Layout = ctx.layout
        pixels, weight, mean, variance = ctx.saved_tensors
        inner, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, pixels, weight, mean, variance, None, None, train=False, eps=ctx.eps, output_mask=[True] * 3
        )
        sums = layout.sum(torch.stack((of_weight, of_bias)), "the sums of a normalisation")
        scale = (variance + ctx.eps).rsqrt()
        slope, offset = (weight * scale / layout.pixels(pixels) * by for by in (sums[0] * scale, sums[1]))
        along = (pixels - mean[:, None, None]).mul_(slope[:, None, None]).add_(offset[:, None, None])
        of_weight, of_bias = sums.to(weight.dtype)
        return None, (inner - along).to(pixels.dtype), of_weight, of_bias, None, None, None

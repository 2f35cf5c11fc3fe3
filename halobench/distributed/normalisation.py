"""Batch normalisation over a map that ranks hold: statistics of all pixels, whatever the shards.

PyTorch's ``SyncBatchNorm`` does the same on GPUs alone, and waits for the device; its kernels are called here, too.
Means and variances of all ranks are put together as https://doi.org/10.1080/00031305.1983.10483115 (Chan, Golub and
LeVeque) has it, so that nothing cancels.
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
    """What ``module`` makes of this rank's pixels (b c h w) of a map, its running statistics moved by the whole map's.

    The gradients of its weight and bias are those of the whole map, on every rank.
    """
    if not module.training and module.running_mean is not None:
        weight, bias = replicated(layout.group, module.weight, module.bias) if layout.travels else module.parameters()
        return F.batch_norm(pixels, module.running_mean, module.running_var, weight, bias, eps=module.eps)
    count = len(pixels) * layout.pixels(pixels) if layout.travels else pixels.numel() // pixels.shape[1]
    pixels = dense(pixels)
    mean, variance = statistics(layout, pixels.detach(), module.eps)
    if module.training and module.running_mean is not None:
        follow(module, mean, variance, count)
    output: Tensor = Normalised.apply(layout, pixels, module.weight, module.bias, mean, variance, module.eps, count)
    return output


def dense(pixels: Tensor) -> Tensor:
    """The map without gaps in memory, which kernels ask for."""
    return pixels if pixels.is_contiguous(memory_format=torch.channels_last) else pixels.contiguous()


def statistics(layout: Layout, pixels: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and variance (c,) of all ranks' pixels (b c h w), in float32 at least."""
    if pixels.is_cuda:
        mean, scale = torch.batch_norm_stats(pixels, eps)
        variance = (scale.pow(-2) - eps).clamp_min(0)
    else:
        variance, mean = torch.var_mean(pixels.to(exact(pixels.dtype)), (0, 2, 3), correction=0)
    if not layout.travels:
        return mean, variance
    table = mean.new_zeros(layout.group.size(), 2, len(mean))  # [ranks, 2, c]
    torch.stack((mean, variance), out=table[layout.group.rank()])
    means, variances = layout.summed(table, "the statistics of a normalisation").unbind(1)
    shares = layout.shares(pixels)[:, None]  # a matrix product would be autocast
    mean = (shares * means).sum(0)
    apart = means - mean
    return mean, (shares * torch.addcmul(variances, apart, apart)).sum(0)


def follow(module: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics, of which the variance is that of a sample, as PyTorch does."""
    seen = module.get_buffer("num_batches_tracked").add_(1)
    share = 1 / float(seen) if module.momentum is None else module.momentum
    for name, found in (("running_mean", mean), ("running_var", variance * (count / max(count - 1, 1)))):
        running = module.get_buffer(name)
        running.lerp_(found.to(running.dtype), share)


class Normalised(torch.autograd.Function):
    """Normalisation by statistics of the whole map, which depend on every rank's pixels."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, pixels: Tensor, weight: Tensor, bias: Tensor, *statistics: Any) -> Tensor:
        """PyTorch's own with fixed statistics: mean, variance and what is added to it."""
        mean, variance, ctx.eps, ctx.count = statistics
        ctx.save_for_backward(pixels, weight, mean, variance)
        ctx.layout = layout
        return F.batch_norm(pixels, mean, variance, weight, bias, eps=ctx.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of map, weight and bias, (b c h w), (c,) and (c,), the last two summed over ranks."""
        saved = ctx.saved_tensors  # once: a checkpoint computes them again
        pixels, weight = saved[:2]
        inner, sums = (on_a_gpu if pixels.is_cuda else elsewhere)(ctx, dense(gradient), *saved)
        return None, inner.to(pixels.dtype), *sums.to(weight.dtype), None, None, None, None


def on_a_gpu(
    ctx: Any, gradient: Tensor, pixels: Tensor, weight: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of the map and, (2, c), of weight and bias, by the kernels of ``SyncBatchNorm``."""
    scale, weight = (variance + ctx.eps).rsqrt(), weight.to(mean.dtype)
    asked = True, True, True
    of_bias, along, _, _ = torch.batch_norm_backward_reduce(gradient, pixels, mean, scale, weight, *asked)
    sums = over_ranks(ctx.layout, along * scale, of_bias)
    count = torch.full((1,), ctx.count, dtype=torch.int32, device=pixels.device)
    inner = torch.batch_norm_backward_elemt(gradient, pixels, mean, scale, weight, sums[1], sums[0] / scale, count)
    return inner, sums


def elsewhere(
    ctx: Any, gradient: Tensor, pixels: Tensor, weight: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """The same; the map's is that under fixed statistics, less what moves these."""
    inner, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        gradient, pixels, weight, mean, variance, None, None, train=False, eps=ctx.eps, output_mask=[True] * 3
    )
    sums, scale = over_ranks(ctx.layout, of_weight, of_bias), (variance + ctx.eps).rsqrt()
    slope, offset = (weight * scale / ctx.count * by for by in (sums[0] * scale, sums[1]))
    return inner - (pixels - mean[:, None, None]).mul_(slope[:, None, None]).add_(offset[:, None, None]), sums


def over_ranks(layout: Layout, of_weight: Tensor, of_bias: Tensor) -> Tensor:
    """Both sums over the group, (2, c)."""
    both = torch.stack((of_weight, of_bias))
    return layout.summed(both.to(exact(both.dtype)), "the sums of a normalisation")

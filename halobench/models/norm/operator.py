"""The operator for PyTorch: ``halobench::norm_activation``, and its gradient.

A map is (batch, channels, height, width), channels-last in memory; it is copied where it is not. Mean and variance
(biased) are those of each channel over images and pixels, float32.
"""

from typing import Any

import torch
from torch import Tensor

from halobench.models.norm.launch import Call, backward, forward, pooled_size

Fields = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.triton_op("halobench::norm_activation", mutates_args=())
def norm_activation(
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None,
    eps: float,
    relu: bool,  # noqa: FBT001 - an operator's schema has no keyword for it
    pooled: bool,  # noqa: FBT001
) -> Fields:
    """Output, winners of the windows, mean and variance.

    The output is ReLU, or else SiLU, of the normalised map plus the shortcut; ``pooled`` takes its maximum over windows
    of 3 x 3 pixels, stride 2, padding 1, and is for maps without a shortcut.

    Raises:
        ValueError: the shortcut is not as the map is, or the parameters do not fit it.
    """
    call = arranged(pixels, weight, bias, shortcut, eps, relu=relu, pooled=pooled)
    fields = empty_fields(call.pixels, pooled=pooled)
    forward(call, *fields)
    return fields


@torch.library.triton_op("halobench::norm_activation_backward", mutates_args=())
def norm_activation_backward(
    gradient: Tensor,
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None,
    winners: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    relu: bool,  # noqa: FBT001
    pooled: bool,  # noqa: FBT001
) -> Fields:
    """Gradients of pixels, shortcut (empty without one), weight and bias (both float32)."""
    call = arranged(pixels, weight, bias, shortcut, eps, relu=relu, pooled=pooled)
    fields = empty_gradients(call.pixels, call.shortcut)
    winners = channels_last(winners) if pooled else winners
    backward(call, channels_last(gradient), winners, mean, variance, *fields)
    return fields


def arranged(
    pixels: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, eps: float, *, relu: bool, pooled: bool
) -> Call:
    """The call with its tensors as the kernels read them, which trust in shapes and strides."""
    if shortcut is not None and (pooled or shortcut.shape != pixels.shape or shortcut.dtype != pixels.dtype):
        raise ValueError(
            f"a shortcut must be as the map is, {tuple(pixels.shape)} {pixels.dtype}, and is not for a pooled one; "
            f"got {tuple(shortcut.shape)} {shortcut.dtype}, pooled={pooled}"
        )
    if weight.shape != pixels.shape[1:2] or bias.shape != weight.shape:
        raise ValueError(
            f"weight and bias must have a number for each channel, {pixels.shape[1]} in all; "
            f"got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    shortcut = None if shortcut is None else channels_last(shortcut)
    return Call(channels_last(pixels), weight.contiguous(), bias.contiguous(), shortcut, eps, relu, pooled)


def channels_last(pixels: Tensor) -> Tensor:
    """The map, channels-last in memory."""
    return pixels.contiguous(memory_format=torch.channels_last)


def empty_map(like: Tensor, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """An empty map of this size, channels-last."""
    batch, channels = like.shape[:2]
    return like.new_empty(batch, height, width, channels, dtype=dtype).permute(0, 3, 1, 2)


def empty_fields(pixels: Tensor, *, pooled: bool) -> Fields:
    """What the forward operator returns, still empty."""
    height, width = pixels.shape[2:]
    if pooled:
        height, width = pooled_size(height, width)
    output = empty_map(pixels, height, width)
    winners = empty_map(pixels, height, width, torch.uint8) if pooled else pixels.new_empty(0, dtype=torch.uint8)
    mean, variance = (pixels.new_empty(pixels.shape[1], dtype=torch.float32) for _ in range(2))
    return output, winners, mean, variance


def empty_gradients(pixels: Tensor, shortcut: Tensor | None) -> Fields:
    """What the backward operator returns, still empty."""
    size = pixels.shape[2], pixels.shape[3]
    branch = pixels.new_empty(0) if shortcut is None else empty_map(pixels, *size)
    weight, bias = (pixels.new_empty(pixels.shape[1], dtype=torch.float32) for _ in range(2))
    return empty_map(pixels, *size), branch, weight, bias


def keep(ctx: Any, inputs: tuple[Any, ...], output: Fields) -> None:
    """Keep what the gradient needs: the inputs, which pixels won their windows, and the statistics."""
    *tensors, eps, relu, pooled = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.settings = eps, relu, pooled


def differentiate(ctx: Any, gradient: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of ``norm_activation`` from that of its output."""
    if gradient is None:
        return (None,) * 7
    pixels, weight, bias, shortcut, winners, mean, variance = ctx.saved_tensors
    of_pixels, of_shortcut, of_weight, of_bias = norm_activation_backward(
        gradient, pixels, weight, bias, shortcut, winners, mean, variance, *ctx.settings
    )
    branch = None if shortcut is None else of_shortcut
    return of_pixels, of_weight.to(weight.dtype), of_bias.to(bias.dtype), branch, None, None, None


norm_activation.register_autograd(differentiate, setup_context=keep)

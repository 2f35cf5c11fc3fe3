"""1x1 convolutions with a stride, which see some of the pixels and no others.

Libraries have few kernels for them: on a GPU some are computed on copies in another layout, and without matrix units. A
product of the pixels that are seen is what a convolution of stride 1 is, and those are fast.
"""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from halobench.attention.compilation import exporting


class PointConv2d(nn.Conv2d):
    """``nn.Conv2d`` of 1x1: on a GPU the pixels that it sees are taken first, and then multiplied.

    It begins without bias, and others may give it one, as those do who fold normalisation into convolutions.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__(channels, out_channels, 1, stride, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b c H W) -> (b c' H/s W/s), sizes rounded up."""
        return convolution(pixels, self.weight, self.bias, self.stride)


def convolution(pixels: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]) -> Tensor:
    """The convolution of ``PointConv2d``.

    Elsewhere, and where sizes may be symbols, of which strides of a slice say too little, it is computed as written.
    """
    if pixels.is_cuda and not exporting():
        return product(pixels, weight, bias, stride)
    return F.conv2d(pixels, weight, bias, stride)


def product(pixels: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]) -> Tensor:
    """The convolution of stride 1 of the pixels that are seen."""
    down, across = stride
    return F.conv2d(pixels[..., ::down, ::across], weight, bias)


torch.fx.wrap("convolution")  # a tracer, which has no device to ask for, keeps it whole


def pointwise(channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    if stride > 1:
        return PointConv2d(channels, out_channels, stride)
    return nn.Conv2d(channels, out_channels, 1, bias=False)

"""1x1 convolutions with a stride, which see some of the pixels and no others.

Libraries have few kernels for them: on a GPU some are computed on copies in another layout, and without matrix units. A
product of the pixels that are seen is what a convolution of stride 1 is, and those are fast everywhere.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class PointConv2d(nn.Conv2d):
    """``nn.Conv2d`` of 1x1: the pixels that it sees are taken first, and then multiplied.

    It begins without bias, and others may give it one, as those do who fold normalisation into convolutions.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__(channels, out_channels, 1, stride, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b c H W) -> (b c' H/s W/s), sizes rounded up."""
        down, across = self.stride
        return F.conv2d(pixels[..., ::down, ::across], self.weight, self.bias)


def pointwise(channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    if stride > 1:
        return PointConv2d(channels, out_channels, stride)
    return nn.Conv2d(channels, out_channels, 1, bias=False)

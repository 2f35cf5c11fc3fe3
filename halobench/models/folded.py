"""The stem's convolution on a GPU: the same sums, with neighbouring pixels folded into channels.

Images have three channels, and matrix units want eight or more: what a library adds to get there is multiplied in vain.
A convolution of stride 2 sees blocks of 2 x 2 pixels at a time. Folded into 12 channels, a kernel of 7 x 7 is one of
4 x 4 (8 x 8 with a row and a column of zeros) and stride 1. MLPerf's ResNets do the same.
"""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

FOLD = 2
CHANNELS = 8  # the matrix units take channels in multiples of it


class FoldedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with an odd kernel, stride 2 and half the kernel as padding, folded on a GPU.

    Elsewhere it is computed as it is written, so that counted FLOPs are those of the convolution. It begins without
    bias, and others may give it one, as those do who fold normalisation into convolutions.
    """

    def __init__(self, channels: int, out_channels: int, side: int) -> None:
        super().__init__(channels, out_channels, side, stride=FOLD, padding=side // 2, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b c H W) -> (b c' H/2 W/2), sizes rounded up."""
        return convolution(pixels, self.weight, self.bias)


def convolution(pixels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of ``FoldedConv2d``, folded on a GPU."""
    if pixels.is_cuda:
        return folded(pixels, weight, bias)
    return F.conv2d(pixels, weight, bias, stride=FOLD, padding=weight.shape[-1] // 2)


torch.fx.wrap("convolution")  # a tracer, which has no device to ask for, keeps it whole


def folded(pixels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of a map (b c H W) with a kernel (c' c k k), k odd, stride 2, padding k // 2."""
    if torch.is_autocast_enabled(pixels.device.type):  # folding half the bytes
        dtype = torch.get_autocast_dtype(pixels.device.type)
        pixels, weight = pixels.to(dtype), weight.to(dtype)
    height, width = pixels.shape[2:]
    channels, side = weight.shape[1:3]
    before = side // 2 + 1  # one more than the padding, where the kernel has zeros
    pixels = F.pad(pixels, (before, before - 2 + width % FOLD, before, before - 2 + height % FOLD))
    blocks = F.pixel_unshuffle(pixels, FOLD)
    kernel = F.pixel_unshuffle(F.pad(weight, (1, 0, 1, 0)), FOLD)
    missing = -channels * FOLD * FOLD % CHANNELS
    blocks, kernel = (F.pad(tensor, (0, 0, 0, 0, 0, missing)) for tensor in (blocks, kernel))
    return F.conv2d(
        blocks.contiguous(memory_format=torch.channels_last),
        kernel.contiguous(memory_format=torch.channels_last),
        bias,
    )

"""Convolution: a k x k convolution in the attention's place, what HaloNet replaces in a ResNet.

Its weights do not depend on the content, and its parameters grow with k^2. k is 3 unless the layer asks for another
(``LayerSpec.kernel``, such as the window, to match the receptive field). It is no attention: there is no ``attend``.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from halobench.attention.problem import Execution, LayerSpec, Problem


class Convolution(nn.Module):
    """(batch, channels, H, W) -> (batch, value_channels, H / stride, W / stride) rounded up, zeros around the image."""

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        before, after = (layer.kernel - 1) // 2, layer.kernel // 2  # an even kernel reaches one pixel further after
        self.margins = (before, after, before, after)
        self.convolution = nn.Conv2d(
            layer.channels, layer.value_channels, layer.kernel, stride=layer.geometry.stride, bias=False
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Convolve the map."""
        if len(set(self.margins)) == 1:  # symmetric padding is free inside the convolution
            convolution = self.convolution
            return F.conv2d(pixels, convolution.weight, None, convolution.stride, self.margins[0])
        return self.convolution(F.pad(pixels, self.margins))


def build(layer: LayerSpec) -> nn.Module:
    """The convolution that stands in for the attention of this layer."""
    return Convolution(layer)


def layer_execution(layer: LayerSpec, problem: Problem) -> Execution:
    """One product per tap, output pixel and pair of channels; backward, the map's gradient and the weights'."""
    outputs = problem.queries // problem.heads
    flops = 2 * layer.kernel**2 * outputs * layer.channels * layer.value_channels
    return Execution(flops, 2 * flops, 0, 0, stored=0)

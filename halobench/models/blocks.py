"""What a HaloNet is built of: its stem, and bottlenecks around a layer."""

import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from halobench.attention.points import pointwise
from halobench.models.architecture import Activation, Architecture, Block
from halobench.models.folded import FoldedConv2d
from halobench.models.norm.module import NormActivation

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU}
# The ratio that keeps the hybrids of H7 near the 67 M parameters that the paper states for all of them.
SQUEEZE_RATIO = 1 / 4


class Bottleneck(nn.Module):
    """1x1, the layer, 1x1, each with batch normalisation, around a shortcut: (b c H W) -> (b c' H/s W/s)."""

    def __init__(self, block: Block, layer: nn.Module, activation: type[nn.Module]) -> None:
        super().__init__()
        stride = block.layer.geometry.stride
        self.reduce = convolution_norm(block.channels, block.layer.channels, activation=activation)
        self.layer = layer
        self.norm = NormActivation(nn.BatchNorm2d(block.layer.value_channels), activation(inplace=True))
        # What rescales or drops the branch comes between its normalisation and the shortcut.
        self.joined = not (block.squeeze or block.drop)
        self.expand = convolution_norm(
            block.layer.value_channels, block.out_channels, activation=activation if self.joined else None
        )
        # Each block begins as its shortcut (Goyal et al., 2017). Attention averages over a window, and normalisation
        # makes up for that: without this, gradients grow from block to block, and training diverges.
        nn.init.zeros_(self.expand.get_parameter("1.weight"))
        self.squeeze: nn.Module = nn.Identity()
        if block.squeeze:
            self.squeeze = SEModule(block.out_channels, SQUEEZE_RATIO, rd_divisor=1, act_layer=activation)
        self.drop: nn.Module = DropPath(block.drop) if block.drop else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or block.channels != block.out_channels:
            self.shortcut = convolution_norm(block.channels, block.out_channels, stride=stride)
        self.activation = activation(inplace=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Transform the map."""
        mixed, shortcut = self.norm(self.layer(self.reduce(pixels))), self.shortcut(pixels)
        if self.joined:
            output: Tensor = self.expand(mixed, shortcut)
        else:
            output = self.activation(self.drop(self.squeeze(self.expand(mixed))) + shortcut)
        return output


def convolution_norm(
    channels: int, out_channels: int, stride: int = 1, activation: type[nn.Module] | None = None
) -> nn.Sequential:
    """A 1x1 convolution without bias, batch normalisation and, on request, an activation."""
    convolution, norm = pointwise(channels, out_channels, stride), nn.BatchNorm2d(out_channels)
    if activation is None:
        return nn.Sequential(convolution, norm)
    return NormActivation(convolution, norm, activation(inplace=True))


def stem(architecture: Architecture, in_chans: int, activation: type[nn.Module]) -> NormActivation:
    """From pixels to the first stage at a quarter of the side, rounded up."""
    channels = architecture.stem_channels
    tail = nn.BatchNorm2d(channels), activation(inplace=True)
    if architecture.stem == "patch":
        return NormActivation(WholePatches(4), nn.Conv2d(in_chans, channels, 4, stride=4, bias=False), *tail)
    return NormActivation(FoldedConv2d(in_chans, channels, 7), *tail, nn.MaxPool2d(3, stride=2, padding=1))


class WholePatches(nn.Module):
    """Zeros below and to the right, so that the image divides into patches of ``side`` x ``side`` pixels."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, pixels: Tensor) -> Tensor:
        """(b c H W) -> (b c H' W'), multiples of the side."""
        return F.pad(pixels, (0, -pixels.shape[3] % self.side, 0, -pixels.shape[2] % self.side))

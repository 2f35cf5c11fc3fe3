"""All models under their names, with the image size and the parameters that were published for them.

Source: Vaswani et al., CVPR 2021, tables 3 (H0-H7 and EfficientNet), 4 (hybrids), 5 (detection) and 6 (transfer).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from halobench.models.architecture import Architecture

DETECTOR = "maskrcnn_"  # begins the names of detectors
DETECTOR_SIDE = 1024


@dataclass(frozen=True)
class FromTimm:
    """A model that timm has, under its name there; ``fused``: after ``models.fuse_normalisation``."""

    name: str
    fused: bool = False
    has_attention: ClassVar[bool] = False


@dataclass(frozen=True)
class Accelerated:
    """timm's model of this name with our layers in place of its ``HaloAttn`` (``halobench.models.accelerate``)."""

    name: str
    has_attention: ClassVar[bool] = True


@dataclass(frozen=True)
class HaloResNet:
    """timm's ResNet of this name, its last three 3x3 convolutions replaced by halo layers of ``heads`` heads."""

    name: str
    block: int
    halo: int = 3
    heads: int = 8
    has_attention: ClassVar[bool] = True


@dataclass(frozen=True)
class Detector:
    """torchvision's Mask R-CNN with a feature pyramid, over the model of this name as its backbone."""

    backbone: str

    @property
    def has_attention(self) -> bool:
        """Whether the backbone has attention slots."""
        return CATALOGUE[self.backbone].has_attention


@dataclass(frozen=True)
class Entry:
    """A model: how it is made, its published image side in pixels and its published parameters in millions."""

    name: str
    recipe: Architecture | HaloResNet | Accelerated | FromTimm | Detector
    image_size: int
    published_millions: float | None = None

    @property
    def has_attention(self) -> bool:
        """Whether the model has attention slots, which a backend fills."""
        return self.recipe.has_attention

    @property
    def timm_name(self) -> str:
        """Its name in timm's registry. Ours have a prefix, because timm has a ``halonet_h1`` of its own."""
        return self.recipe.name if isinstance(self.recipe, FromTimm) else f"halobench_{self.name}"


def entry(name: str) -> Entry:
    """The model of this name.

    Raises:
        ValueError: there is no such model; the message lists those there are.
    """
    backbone = name.removeprefix(DETECTOR)
    if backbone not in CATALOGUE:
        there = f"{', '.join(names())}, and {DETECTOR} before the name of one that has features"
        raise ValueError(f"no model is called {name!r}; there are {there}")
    return CATALOGUE[name] if backbone == name else Entry(name, Detector(backbone), DETECTOR_SIDE)


def names() -> list[str]:
    """The names of all models that classify: HaloNets first, then hybrids of ResNet, then comparators.

    With ``maskrcnn_`` before it, the name of one is that of a detector on it.
    """
    return list(CATALOGUE)


H0 = Architecture(8, 3, 1.0, 0.5, (3, 3, 7, 3))
H1 = Architecture(8, 3, 1.0, 1.0, (3, 3, 10, 3))
H2 = Architecture(8, 3, 1.0, 1.25, (3, 3, 11, 3))
H3 = Architecture(10, 3, 1.0, 1.5, (3, 3, 12, 3), 1024)
H4 = Architecture(12, 2, 1.0, 3.0, (3, 3, 12, 3), 1280)
H5 = Architecture(14, 2, 2.5, 2.0, (3, 3, 23, 3), 1536)
H6 = Architecture(8, 4, 3.0, 2.75, (3, 3, 24, 3), 1536)
H7 = Architecture(10, 3, 4.0, 3.5, (3, 3, 26, 3), 2048)

# The ablation model: ResNet-50 with 16 channels a head throughout, trained with ReLU unless stated otherwise.
HALONET_50 = Architecture(8, 3, 1.0, 4.0, (3, 4, 6, 3), heads=(4, 8, 16, 32), activation="relu")

# For small images, such as those of Fashion-MNIST at 64 pixels, and the convolutional network of the same shape.
MINI = Architecture(4, 2, 1.0, 2.0, (1, 2, 2, 1), widths=(32, 64, 96, 128), heads=(2, 4, 4, 4))

# Twice the width; without the final convolution, which would put it at 86.9 M (published: 85).
H4_128 = replace(H4, widths=(128, 256, 512, 1024), bottleneck_ratio=4.0, final_channels=None)

HALONETS = [
    Entry("halonet_h0", H0, 256, 5.5),
    Entry("halonet_h1", H1, 256, 8.1),
    Entry("halonet_h2", H2, 256, 9.4),
    Entry("halonet_h3", H3, 320, 12.3),
    Entry("halonet_h4", H4, 384, 19.1),
    Entry("halonet_h5", H5, 448, 30.7),
    Entry("halonet_h6", H6, 512, 43.4),
    Entry("halonet_h7", H7, 600, 67.0),
    Entry("halonet_h7_conv1", replace(H7, convolution_stages=(1,)), 600, 67.0),
    Entry("halonet_h7_conv12", replace(H7, convolution_stages=(1, 2)), 600, 67.0),
    Entry("halonet_h7_conv123", replace(H7, convolution_stages=(1, 2, 3)), 600, 67.0),
    Entry("halonet_h4_128", H4_128, 384, 85.0),
    Entry("halonet_h4_128_patch", replace(H4_128, stem="patch"), 384, 85.0),
    Entry("halonet_h4_128_conv12", replace(H4_128, convolution_stages=(1, 2)), 384, 87.0),
    Entry("halonet_50", HALONET_50, 256, 18.0),
    # Stand-alone self-attention: a window of 7 x 7 pixels around every pixel.
    Entry("sasa_50", replace(HALONET_50, block=1), 256),
    Entry("halonet_mini", MINI, 64),
    Entry("convnet_mini", replace(MINI, convolution_stages=(1, 2, 3, 4), squeeze_excitation="none"), 64),
]
HALO_RESNETS = [
    Entry(f"seresnet{depth}_halo_b{block}", HaloResNet(f"seresnet{depth}", block), 1024)
    for depth in (50, 101)
    for block in (8, 32)
]
RESNETS = [Entry(name, FromTimm(name), 224) for name in ("resnet50", "resnet101", "seresnet50", "seresnet101")]
EFFICIENTNETS = [
    Entry(f"efficientnet_b{number}", FromTimm(f"efficientnet_b{number}"), size, millions)
    for number, (size, millions) in enumerate(
        [(224, 5.3), (240, 7.8), (260, 9.2), (300, 12.0), (380, 19.0), (456, 30.0), (528, 43.0), (600, 66.0)]
    )
]
OTHERS = [
    Entry("vit_large_patch16", FromTimm("vit_large_patch16_224"), 224, 300.0),
    # timm's own HaloNets: other networks than ours, with timm's attention and with ours.
    Entry("timm_halonet_h1", FromTimm("halonet_h1"), 256),
    Entry("timm_halonet50ts", FromTimm("halonet50ts"), 256),
    Entry("accelerated_halonet_h1", Accelerated("halonet_h1"), 256),
    Entry("accelerated_halonet50ts", Accelerated("halonet50ts"), 256),
    # About the size of ``halonet_mini``: timm's smallest ResNet, and EfficientNet-B0 as the TinyNets scale it down.
    Entry("resnet_mini", FromTimm("test_resnet"), 64),
    Entry("efficientnet_mini", FromTimm("tinynet_e"), 64),
]
# The EfficientNets with what HaloNets have in compiled training steps: the same networks, at their best.
FUSED = [
    replace(entry, name=f"fused_{entry.name}", recipe=replace(entry.recipe, fused=True))
    for entry in (*EFFICIENTNETS, OTHERS[-1])
    if isinstance(entry.recipe, FromTimm)
]
CATALOGUE = {entry.name: entry for entry in [*HALONETS, *HALO_RESNETS, *RESNETS, *EFFICIENTNETS, *OTHERS, *FUSED]}

"""torchvision's Mask R-CNN with a feature pyramid, on a backbone of ours; its boxes are computed in float32.

Source: He et al., *Mask R-CNN*, ICCV 2017, with the feature pyramid of Lin et al., CVPR 2017.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

STRIDES = (4, 8, 16, 32)
INDICES = (1, 2, 3, 4)
"""The maps of those strides among the features of timm's models and ours: map 0 is the stem's."""
CHANNELS = 256
ANCHORS = (32, 64, 128, 256, 512)
"""Sides of the anchors in pixels, one for each of the pyramid's five maps."""
RATIOS = (0.5, 1.0, 2.0)
ARGUMENTS = frozenset(inspect.signature(MaskRCNN.__init__).parameters) - {"self", "backbone", "num_classes", "kwargs"}


class Pyramid(nn.Module):
    """A backbone (``body``) and its feature pyramid (``fpn``): (b 3 H W) -> five maps of 256 channels, by name.

    Their strides are 4 to 64. All is channels-last in memory.

    Raises:
        ValueError: the backbone, which messages call by ``name``, has other features.
    """

    out_channels = CHANNELS

    def __init__(self, body: nn.Module, name: str) -> None:
        super().__init__()
        about: Any = body.feature_info
        if tuple(about.reduction()) != STRIDES:
            raise ValueError(
                f"a detector needs a backbone with features of strides 4, 8, 16 and 32, {name} has those of "
                f"{', '.join(map(str, about.reduction()))}"
            )
        self.body = body
        self.fpn = FeaturePyramidNetwork(about.channels(), CHANNELS, LastLevelMaxPool())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """The maps, the finest first."""
        maps = self.body(pixels.contiguous(memory_format=torch.channels_last))
        pyramid: dict[str, Tensor] = self.fpn({str(number): one for number, one in enumerate(maps)})
        return pyramid


class Anchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """torchvision's anchors in float32, whatever the features are in: bfloat16 knows coordinates to four pixels."""

    def forward(self, image_list: ImageList, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """The anchors of each image, (anchors, 4) in pixels."""
        shapes = [one.new_empty((), dtype=torch.float32).expand(one.shape) for one in feature_maps]
        anchors: list[Tensor] = super().forward(image_list, shapes)
        return anchors


def mask_rcnn(backbone: nn.Module, name: str, num_classes: int, **arguments: Any) -> MaskRCNN:
    """Mask R-CNN for ``num_classes`` classes, the background among them, on a network that gives features.

    ``arguments`` are torchvision's. Under autocast the boxes that are regressed stay float32, as their anchors do.

    Raises:
        ValueError: the backbone, called ``name``, has no features of strides 4, 8, 16 and 32.
    """
    sizes = tuple((side,) for side in ANCHORS)
    arguments.setdefault("rpn_anchor_generator", Anchors(sizes, (RATIOS,) * len(sizes)))
    model = MaskRCNN(Pyramid(backbone, name), num_classes, **arguments)
    for module in (model.rpn.head, model.roi_heads.box_predictor, model.roi_heads.mask_predictor):
        module.register_forward_hook(in_float32)
    return model


def in_float32(_module: nn.Module, _inputs: object, outputs: Any) -> Any:
    """A forward hook: the outputs, tensors or sequences of them, in float32."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    return type(outputs)(in_float32(_module, _inputs, one) for one in outputs)

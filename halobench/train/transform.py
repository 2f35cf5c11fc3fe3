"""From an image to a tensor of bytes, and from a batch of them to what a model takes."""

from collections.abc import Callable

import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor

from halobench.train.settings import Settings

Transform = Callable[[Image.Image], Tensor]


def for_training(settings: Settings, *, fashion: bool) -> Transform:
    """Timm's augmentation, to bytes (3, side, side). Grey images of clothes are cropped less."""
    augment = None if settings.randaugment is None else f"rand-m{settings.randaugment}-n2"
    made: Transform = create_transform(
        settings.image_size, is_training=True, auto_augment=augment, interpolation="bicubic",
        scale=(0.8, 1.0) if fashion else None, ratio=(0.9, 1.1) if fashion else None,
        color_jitter=None,  # type: ignore[arg-type]  # timm's word for none
        use_prefetcher=True,  # timm's word for bytes
    )  # fmt: skip
    return made


def for_evaluation(settings: Settings, *, fashion: bool) -> Transform:
    """Timm's resizing and its cut from the centre, to bytes (3, side, side); of clothes nothing is cut off."""
    crop = 1.0 if fashion else None
    made: Transform = create_transform(settings.image_size, interpolation="bicubic", crop_pct=crop, use_prefetcher=True)
    return made


class Normalisation:
    """Bytes (batch, 3, H, W) to float32 on a device, channels-last, with ImageNet's mean and deviation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mean, self.deviation = (
            255 * torch.tensor(values, device=device).view(3, 1, 1)
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """The images, normalised."""
        moved = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return (moved.float() - self.mean) / self.deviation

"""How images and the objects in them reach a run: to train on, augmented squares; to test on, images as they are."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from halobench.detect.masks import Objects
from halobench.detect.pictures import Pictures
from halobench.train.reading import Prepared, unread_of
from halobench.train.settings import Settings
from halobench.train.unusable import DataError

SCALES = (0.8, 1.25)
SMALLEST_SIDE = 2  # pixels: of what augmentation leaves of an object, less is none
Target = dict[str, Tensor]


class Outlines(tv_tensors.Mask):  # type: ignore[misc]  # torchvision has no types
    """Masks that stay on what they outline: torchvision scales masks by corners of pixels, and images by middles."""


MASK: Any = Outlines(torch.zeros(1, 1, 1, dtype=torch.uint8))  # what tells transforms that these are masks


@v2.functional.register_kernel(v2.functional.resize, Outlines)  # type: ignore[untyped-decorator]  # as above
def resized(masks: Outlines, size: list[int], **_: Any) -> Any:
    """Masks of another ``size``, each pixel that of the nearest middle."""
    exact = v2.InterpolationMode.NEAREST_EXACT
    return tv_tensors.wrap(v2.functional.resize_image(masks.as_subclass(Tensor), size, exact), like=masks)


class Scaled(Prepared):
    """Images with objects, to be brought to a square of ``image_size``."""

    images: Pictures
    nothing = None

    def __init__(self, images: Pictures, settings: Settings, *, training: bool) -> None:
        self.side = settings.image_size
        super().__init__(images, v2.functional.pil_to_tensor, settings, training=training)

    def refuse_too_thin(self, image: Image.Image, index: int, scale: float = 1.0) -> None:
        """Raise ``DataError`` where a side would be less than a pixel in a square, scaled once more by ``scale``."""
        if min(image.size) * self.side * scale < max(image.size):
            raise DataError(
                f"{self.images.sources[index]} has {image.width} x {image.height} pixels, too thin to be brought to "
                f"--image-size {self.side}"
            )


class Squares(Scaled):
    """Images to train on: scaled by 0.8 to 1.25 around the size that fits, cut or padded to the square, mirrored."""

    def __init__(self, images: Pictures, settings: Settings) -> None:
        side = settings.image_size
        size = [side, side]
        self.augment = v2.Compose(
            [
                v2.ScaleJitter((side, side), SCALES, antialias=True),
                v2.RandomCrop(size, pad_if_needed=True),
                v2.RandomHorizontalFlip(),
            ]
        )
        super().__init__(images, settings, training=True)

    def transformed(self, image: Image.Image, index: int) -> tuple[Tensor, Target]:
        """The square (3, side, side) in bytes, and its boxes, labels and masks."""
        objects: Objects = self.images.targets[index]
        self.refuse_too_thin(image, index, SCALES[0])
        masks = torch.from_numpy(self.images.masks(index))
        pixels, kept = self.augment(self.transform(image), tv_tensors.wrap(masks, like=MASK))
        return pixels, target_of(kept.as_subclass(Tensor), torch.tensor(objects.labels))


class Whole(Scaled):
    """Images to test on, as they are, with COCO's numbers of them."""

    def __init__(self, images: Pictures, settings: Settings) -> None:
        super().__init__(images, settings, training=False)

    def transformed(self, image: Image.Image, index: int) -> tuple[Tensor, int]:
        """The image (3, height, width) in bytes, and its number."""
        objects: Objects = self.images.targets[index]
        self.refuse_too_thin(image, index)
        return self.transform(image), objects.image


def target_of(masks: Tensor, labels: Tensor) -> Target:
    """A target of what is left of objects in (objects, side, side) masks: none that hardly are there."""
    rows, columns = masks.amax(2).sum(1), masks.amax(1).sum(1)
    there = (rows >= SMALLEST_SIDE) & (columns >= SMALLEST_SIDE)
    masks, labels = masks[there], labels[there]
    boxes = masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])  # the last pixel is inside
    return {"boxes": boxes, "labels": labels, "masks": masks}


def join_squares(items: Sequence[tuple[Tensor, Target, list[Any]]]) -> tuple[Tensor, list[Target], list[Any]]:
    """A batch to train on: (batch, 3, side, side) and a target an image."""
    return torch.stack([item[0] for item in items]), [item[1] for item in items], unread_of(items)


def join_whole(items: Sequence[tuple[Tensor, int, list[Any]]]) -> tuple[list[Tensor], list[int], list[Any]]:
    """A batch to test on: images of any sizes, and their numbers."""
    return [item[0] for item in items], [item[1] for item in items], unread_of(items)

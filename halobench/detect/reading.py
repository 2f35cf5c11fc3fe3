"""How images and the objects in them reach a run: to train on, augmented squares; to test on, images as they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from halobench.detect.annotations import Objects
from halobench.detect.masks import decoded
from halobench.train.data import Images
from halobench.train.reading import Prepared, unread_of
from halobench.train.settings import Settings
from halobench.train.unusable import DataError

SCALES = (0.8, 1.25)
SMALLEST_SIDE = 2  # pixels: of what augmentation leaves of an object, less is none
MASK: Any = tv_tensors.Mask(torch.zeros(1, 1, 1, dtype=torch.uint8))  # what tells transforms that these are masks
Target = dict[str, Tensor]


class Squares(Prepared):
    """Images to train on: scaled by 0.8 to 1.25 around the size that fits, cut or padded to the square, mirrored."""

    def __init__(self, images: Images, settings: Settings) -> None:
        side = settings.image_size
        size = [side, side]
        self.augment = v2.Compose(
            [
                v2.ScaleJitter((side, side), SCALES, antialias=True),
                v2.RandomCrop(size, pad_if_needed=True),
                v2.RandomHorizontalFlip(),
            ]
        )
        super().__init__(images, v2.functional.pil_to_tensor, settings, training=True)

    def transformed(self, image: Image.Image, index: int) -> tuple[Tensor, Target]:
        """The square (3, side, side) in bytes, and its boxes, labels and masks."""
        objects: Objects = self.images.targets[index]
        masks = torch.from_numpy(masks_of(objects, image, str(self.images.sources[index])))
        pixels, kept = self.augment(self.transform(image), tv_tensors.wrap(masks, like=MASK))
        return pixels, target_of(kept.as_subclass(Tensor), torch.tensor(objects.labels))


class Whole(Prepared):
    """Images to test on, as they are, with COCO's numbers of them."""

    def __init__(self, images: Images, settings: Settings) -> None:
        super().__init__(images, v2.functional.pil_to_tensor, settings, training=False)

    def transformed(self, image: Image.Image, index: int) -> tuple[Tensor, int]:
        """The image (3, height, width) in bytes, and its number."""
        objects: Objects = self.images.targets[index]
        refuse_other_size(objects, image, str(self.images.sources[index]))
        return self.transform(image), objects.image


def masks_of(objects: Objects, image: Image.Image, path: str) -> np.ndarray:
    """The masks of an image's objects; ``DataError`` where one is damaged, or the image has another size."""
    refuse_other_size(objects, image, path)
    try:
        return decoded(objects)
    except Exception as error:  # the library raises whatever its C++ code meets
        said = " ".join(str(error).split())
        raise DataError(f"{path}: a mask of image {objects.image} cannot be decoded: {said}") from error


def refuse_other_size(objects: Objects, image: Image.Image, path: str) -> None:
    """Raise ``DataError`` where the annotations say another size than the image has."""
    height, width = objects.size
    if image.size != (width, height):
        raise DataError(f"{path} has {image.width} x {image.height} pixels, its annotations say {width} x {height}")


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

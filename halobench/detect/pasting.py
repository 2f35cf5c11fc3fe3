"""Masks of what was found: from the regions in which a detector computes them to runs in the whole image.

torchvision's own pasting makes an image of floats of each mask, and asks the device for every coordinate, which then
waits some ten times for each of them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_mask_in_image
from torchvision.models.detection.transform import resize_boxes

from halobench.detect.masks import packed

Size = tuple[int, int]
"""Height and width in pixels."""
Found = dict[str, Any]
"""Of an image: boxes (found, 4), labels and scores (found,), and the masks."""


def in_their_images(result: Sequence[Found], shapes: Sequence[Size], sizes: Sequence[Size]) -> list[Found]:
    """What was found, on the host and in images of ``sizes``, which the detector saw as ``shapes``.

    It stands for torchvision's ``postprocess``. Masks are lists of compressed runs. In training nothing is found, and
    nothing is done.
    """
    there = []
    for found, shape, size in zip(result, shapes, sizes, strict=bool(result)):
        here = {name: one.cpu() for name, one in found.items()}
        boxes = resize_boxes(here["boxes"], shape, size)
        there.append({**here, "boxes": boxes, "masks": pasted(here["masks"], boxes, size)})
    return there


def pasted(masks: Tensor, boxes: Tensor, size: Size) -> list[dict[str, Any]]:
    """Shares (masks, 1, side, side) in their boxes to masks in an image of ``size``, where they are half or more."""
    height, width = size
    larger, scale = expand_masks(masks, padding=1)
    runs = []
    for mask, (left, top, right, bottom) in zip(larger, expand_boxes(boxes, scale).long().tolist(), strict=True):
        first, last = max(left, 0), min(right, width - 1)
        box = (left - first, top, right - first, bottom)
        columns = paste_mask_in_image(mask[0], box, height, last + 1 - first) >= 0.5  # no others have any of it
        runs.append(packed({"counts": counts_of(columns.numpy(), first, width)}, size))
    return runs


def counts_of(columns: np.ndarray, left: int, width: int) -> list[int]:
    """The lengths of runs, as COCO has them, in an image of which these columns are not empty, from ``left`` on."""
    height = len(columns)
    within = np.concatenate([[False], columns.ravel(order="F"), [False]])
    ends = [0, *(np.flatnonzero(within[1:] != within[:-1]) + left * height).tolist(), height * width]
    counts = [end - begin for begin, end in pairwise(ends)]
    return counts if counts[-1] else counts[:-1]

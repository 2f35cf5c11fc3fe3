"""Masks of regions become runs in the whole image: those that torchvision's own pasting and COCO's encoding make."""

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from halobench.detect.pasting import counts_of, in_their_images


def found_in(size, number, generator):
    """Random boxes, up to the borders, and smooth random masks, for an image of a size; some boxes are thin."""
    height, width = size
    edges = torch.tensor([width, height])
    middles, sides = torch.rand((number, 2), generator=generator), torch.rand((number, 2), generator=generator) ** 3
    boxes = torch.cat([middles - sides / 2, middles + sides / 2], 1).clamp(0, 1) * edges.repeat(2)
    coarse = torch.rand((number, 1, 4, 4), generator=generator)
    masks = torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear")
    return {"boxes": boxes, "masks": masks, "labels": torch.ones(number), "scores": torch.rand(number)}


def encoded(masks):
    return [coco.encode(np.asfortranarray(one)) for one in (masks[:, 0] >= 0.5).numpy().astype(np.uint8)]


@pytest.mark.parametrize(("shape", "size"), [((64, 64), (64, 64)), ((48, 64), (96, 128)), ((64, 9), (300, 40))])
def test_runs_are_those_of_torchvision_s_masks(shape, size):
    found = found_in(shape, 60, torch.Generator().manual_seed(1))
    boxes = resize_boxes(found["boxes"], shape, size)
    (there,) = in_their_images([found], [shape], [size])
    expected = encoded(paste_masks_in_image(found["masks"], boxes, size))
    assert there["masks"] == expected
    assert sum(coco.area(one) > 0 for one in expected) > 30
    assert torch.equal(there["boxes"], boxes)
    transform = GeneralizedRCNNTransform(64, 64, [0.0], [1.0]).eval()
    theirs = transform.postprocess([dict(found)], [shape], [size])[0]
    assert encoded(theirs["masks"]) == expected


def test_nothing_found_has_no_masks():
    found = found_in((20, 30), 0, torch.Generator().manual_seed(0))
    (there,) = in_their_images([found], [(20, 30)], [(20, 30)])
    assert (there["masks"], len(there["boxes"])) == ([], 0)


def test_in_training_nothing_is_found_in_any_image():
    assert in_their_images([], [(20, 30)] * 3, [(20, 30)] * 3) == []


@pytest.mark.parametrize(
    ("rows", "left", "counts"),
    [
        (["01", "01"], 0, [2, 2, 2]),
        (["01", "01"], 1, [4, 2]),
        (["11", "11"], 0, [0, 4, 2]),
        (["00", "00"], 1, [6]),
        (["10", "01"], 1, [2, 1, 2, 1]),
    ],
)
def test_runs_go_down_the_columns_of_an_image_three_wide(rows, left, counts):
    columns = np.array([[character == "1" for character in row] for row in rows])
    assert counts_of(columns, left, 3) == counts

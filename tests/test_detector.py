"""Mask R-CNN on our backbones: where the halo layers are, what the boxes are computed in, and which sizes it takes."""

import pytest
import torch

from halobench import models
from halobench.attention.layer import AttentionLayer

CLASSES = 4
MINI = {"min_size": 64, "max_size": 96, "box_batch_size_per_image": 16, "box_detections_per_img": 10}
MINI |= {"rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 50}


def boxes_and_masks(height, width, boxes):
    """A target with these boxes, each filled by its mask."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.ones(len(boxes), dtype=torch.int64)
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": labels, "masks": masks}


def small(name, backend=None, **changes):
    """A detector for small images, with the same weights each time."""
    torch.manual_seed(0)
    return models.create(name, backend, num_classes=CLASSES, **(MINI | changes))


def named_layers(model):
    return {name: one.spec for name, one in model.named_modules() if isinstance(one, AttentionLayer)}


@pytest.mark.parametrize("block", [8, 32])
@pytest.mark.parametrize("depth", [50, 101])
def test_the_halo_layers_are_the_last_three_of_the_whole_backbone(depth, block):
    name = f"seresnet{depth}_halo_b{block}"
    with torch.device("meta"):
        detector, whole = models.create(f"maskrcnn_{name}"), models.create(name)
    assert named_layers(detector.backbone.body) == named_layers(whole)
    found = named_layers(detector)
    assert list(found) == [f"backbone.body.layer4.{number}.conv2" for number in range(3)]
    shapes = [(spec.geometry.block, spec.geometry.halo, spec.geometry.stride) for spec in found.values()]
    assert shapes == [(block, 3, 2), (block, 3, 1), (block, 3, 1)]


@pytest.mark.parametrize("name", ["seresnet50_halo_b8", "halonet_mini", "halonet_h4_128_patch", "resnet_mini"])
def test_a_detectors_maps_are_those_of_the_whole_network(name):
    small_one = {"depths": (1, 1, 1, 1)} if name.startswith("halonet_h4") else {}
    detector = small(f"maskrcnn_{name}", **small_one).eval()
    torch.manual_seed(0)
    whole = models.create(name, **small_one).eval()
    pixels = torch.randn(1, 3, 72, 104)
    with torch.no_grad():
        found = detector.backbone.body(pixels)
        wanted = whole.forward_intermediates(pixels, indices=[1, 2, 3, 4], intermediates_only=True)
    assert [one.shape[2:] for one in found] == [(18, 26), (9, 13), (5, 7), (3, 4)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_boxes_are_float32_under_bfloat16():
    """An anchor's coordinates above 256 would move by up to a pixel, and those above 512 by two."""
    detector = small("maskrcnn_convnet_mini", min_size=512, max_size=512, box_score_thresh=0.0).eval()
    anchors, proposals = [], []
    detector.rpn.anchor_generator.register_forward_hook(lambda _module, _inputs, output: anchors.append(output[0]))
    detector.rpn.register_forward_hook(lambda _module, _inputs, output: proposals.append(output[0][0]))
    images = [torch.rand(3, 512, 512)]
    with torch.no_grad():
        detector(images)
        with torch.autocast("cpu", torch.bfloat16):
            (found,) = detector(images)
    assert torch.equal(*anchors)
    for boxes in (proposals[1], found["boxes"]):
        assert boxes.dtype == torch.float32
        assert (boxes != boxes.bfloat16()).any(1).float().mean() > 0.5  # coordinates that bfloat16 does not have
    assert found["masks"].dtype == torch.float32


def test_images_of_any_size_train_with_any_backend():
    sizes = ((33, 97), (64, 61))
    images = [torch.rand(3, *size) for size in sizes]
    targets = [boxes_and_masks(*sizes[0], [[4, 5, 30, 31]]), boxes_and_masks(*sizes[1], [])]
    losses = {}
    for backend in ("strided_gather", "sdpa"):
        detector = small("maskrcnn_halonet_mini", backend)
        torch.manual_seed(1)  # torchvision draws the anchors that it samples
        losses[backend] = detector(images, targets)
    torch.testing.assert_close(losses["sdpa"], losses["strided_gather"])
    total = sum(losses["sdpa"].values())
    total.backward()
    assert total.isfinite()
    without = [name for name, one in detector.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert without == []


def test_boxes_come_back_in_the_image_they_were_found_in():
    detector = small("maskrcnn_convnet_mini", box_score_thresh=0.0, box_detections_per_img=7).eval()
    with torch.no_grad():
        (found,) = detector([torch.rand(3, 40, 77)])
    assert found["masks"].shape == (7, 1, 40, 77)
    assert bool((found["boxes"] >= 0).all())
    assert bool((found["boxes"] <= torch.tensor([77.0, 40.0, 77.0, 40.0])).all())


def test_what_would_break_the_boxes_is_refused():
    with pytest.raises(ValueError, match="at least two classes, the background and another, got 0"):
        models.create("maskrcnn_resnet_mini", num_classes=0)
    with pytest.raises(TypeError, match="a detector is made in float32"):
        models.create("maskrcnn_resnet_mini", dtype=torch.bfloat16)


def test_arguments_go_to_whom_they_concern():
    detector = small("maskrcnn_halonet_mini", block=8, halo=1, box_detections_per_img=5, device="meta")
    assert {spec.geometry.window for spec in named_layers(detector).values()} == {10}
    assert detector.roi_heads.detections_per_img == 5
    assert {one.device.type for one in detector.parameters()} == {"meta"}
    assert detector.roi_heads.box_predictor.cls_score.out_features == CLASSES
    with torch.device("meta"):
        assert models.create("maskrcnn_resnet50").roi_heads.box_predictor.cls_score.out_features == 91


@pytest.mark.parametrize(
    ("name", "backend", "said"),
    [
        (
            "maskrcnn_vit_large_patch16",
            None,
            "needs a backbone with features of strides 4, 8, 16 and 32, vit_large",
        ),
        ("maskrcnn_resnet50", "sdpa", "maskrcnn_resnet50 has no attention slots to fill with a backend, got 'sdpa'"),
        ("maskrcnn_resnet51", None, "no model is called 'maskrcnn_resnet51'"),
        ("maskrcnn_halonet_mini", "nonsense", "no backend is called 'nonsense'"),
    ],
)
def test_what_cannot_be_a_detector(name, backend, said):
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        models.create(name, backend)

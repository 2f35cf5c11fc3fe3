"""A detector bound to fixed images, targets and proposals on a device: the calls that the detection suite measures."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from halobench.attention.compilation import INDUCTOR_OPTIONS
from halobench.attention.problem import Unsupported
from halobench.cases.network import Network
from halobench.train.step import DetectorStep, total_loss
from halobench.train.workload import Bound, autocast_dtype, lasting, optimizer_of, random_images, settle

INSTANCES = 8  # of an image, about as many as COCO has
CLASSES = 90
LEARNING_RATE = 1e-4  # fresh detectors take larger steps with a warm-up only
SAMPLED, DETECTIONS = 512, 100  # at most: torchvision's numbers of RoIs to train on, and of detections
Target = dict[str, Tensor]


def training_step(model: Any, network: Network, device: torch.device | str) -> Bound:
    """One step of Nesterov SGD on the sum of the losses, which it returns; and all tensors that it leaves in memory.

    Parameters are float32 and autocast computes in the network's dtype. A compiled network has a compiled backbone.
    """
    model.train()
    images, targets = random_images(network, device)[0], fixed_targets(network, device)
    prepare(model, network, targets)
    optimizer = optimizer_of(model, LEARNING_RATE)
    step = DetectorStep(model, total_loss, optimizer, autocast_dtype(network))
    given = [images, *(tensor for target in targets for tensor in target.values())]
    return partial(step, images, targets), partial(lasting, model, optimizer, given)


def inference(model: Any, network: Network, device: torch.device | str) -> Bound:
    """Detection with all of its post-processing, under autocast, with parameters in the network's dtype.

    Its backbone has seen images (``settle``). It returns the scores and the coarsest map of the pyramid, whatever is
    detected; with it come all tensors that it leaves in memory.
    """
    dtype: torch.dtype = getattr(torch, network.dtype)
    settle(model.backbone.body, network, device)
    model.to(dtype).eval()
    images = random_images(network, device)[0]
    prepare(model, network, fixed_targets(network, device))

    maps: list[Tensor] = []
    model.backbone.register_forward_hook(lambda _module, _inputs, found: maps.append(found["pool"]))

    def call() -> Tensor:
        maps.clear()
        with torch.no_grad(), torch.autocast(images.device.type, dtype, enabled=network.dtype != "float32"):
            scores = [found["scores"] for found in model(list(images))]
            return torch.cat([*scores, maps[0].flatten().float()])

    def tensors() -> Iterator[Tensor]:
        yield from (images, *model.parameters(), *model.buffers())

    return call, tensors


def prepare(model: Any, network: Network, targets: list[Target]) -> None:
    """Let the detector take images as they are, compile its backbone and fix its proposals where that is asked for.

    Raises:
        Unsupported: it is to be compiled in another mode than the compiler's default.
    """
    if network.compile_mode is not None:
        raise Unsupported(f"detectors have no compile mode, got {network.compile_mode!r}")
    model.transform.min_size, model.transform.max_size = (network.side,), network.side
    if network.compiled:
        model.backbone.body.compile(dynamic=False, options=INDUCTOR_OPTIONS)
    if network.proposals is not None:
        fix_proposals(model, network.proposals, targets)


def fix_proposals(model: Any, count: int, targets: list[Target]) -> None:
    """Let what is proposed, sampled and detected no longer depend on the weights: RoIs are work.

    What the region proposal network finds gives way to ``count`` boxes an image, half of them on objects and half
    anywhere. At most 512, and at most half of the boxes, are sampled for training; at most 100, and at most a tenth,
    take the place of the detections. All that is replaced is computed nevertheless.
    """
    heads = model.roi_heads
    heads.fg_bg_sampler.batch_size_per_image = min(SAMPLED, count // 2)
    proposals = [on_objects_and_anywhere(target["boxes"], count) for target in targets]
    detected = [boxes[: min(DETECTIONS, count // 10)] for boxes in proposals]
    found, postprocess = found_in(detected), heads.postprocess_detections

    def propose(_module: nn.Module, _inputs: object, outputs: tuple[object, object]) -> tuple[object, object]:
        return proposals, outputs[1]

    def detect(*arguments: object) -> object:
        postprocess(*arguments)
        return found

    model.rpn.register_forward_hook(propose)
    heads.postprocess_detections = detect


def found_in(detected: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Boxes with the scores and the classes of detections."""
    scores = [boxes.new_full((len(boxes),), 0.5) for boxes in detected]
    labels = [torch.arange(len(boxes), device=boxes.device) % CLASSES + 1 for boxes in detected]
    return detected, scores, labels


def on_objects_and_anywhere(boxes: Tensor, count: int) -> Tensor:
    """(count, 4) boxes, alternately near one of ``boxes`` and anywhere in the square that these lie in."""
    generator = torch.Generator().manual_seed(3)
    near = boxes.cpu()[torch.arange(count) % len(boxes)]
    sides = (near[:, 2:] - near[:, :2]).repeat(1, 2)
    moved = near + (torch.rand(near.shape, generator=generator) - 0.5) * sides / 10
    anywhere = random_boxes(count, float(boxes.max()), generator)
    return torch.where(torch.arange(count)[:, None] % 2 == 0, moved, anywhere).to(boxes.device)


def fixed_targets(network: Network, device: torch.device | str) -> list[Target]:
    """For each image boxes of (instances, 4) pixels, their classes, and masks of (instances, side, side): ellipses."""
    generator = torch.Generator().manual_seed(2)
    places = torch.arange(network.side, device=device) + 0.5
    targets = []
    for _ in range(network.batch):
        boxes = random_boxes(INSTANCES, network.side, generator).to(device)
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        across, down = (((places - centre[:, [axis]]) / half[:, [axis]]) ** 2 for axis in (0, 1))
        masks = (down[:, :, None] + across[:, None, :] <= 1).to(torch.uint8)
        labels = torch.randint(1, CLASSES + 1, (INSTANCES,), generator=generator).to(device)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return targets


def random_boxes(count: int, side: float, generator: torch.Generator) -> Tensor:
    """(count, 4) boxes in a square, their sides from a sixteenth to a half of its own, as many of each octave."""
    sides = side / 2 ** (1 + 3 * torch.rand((count, 2), generator=generator))
    corner = torch.rand((count, 2), generator=generator) * (side - sides)
    return torch.cat([corner, corner + sides], 1)

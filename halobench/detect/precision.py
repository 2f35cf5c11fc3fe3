"""How well objects are found and outlined: COCO's average precision, by faster-coco-eval."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from halobench.detect.annotations import Part

KINDS = {"box": "bbox", "mask": "segmentation"}
"""What is judged, and where it stands: alone, since an object is as large as the box, or as the mask, that is found."""
IOU = {"box": "bbox", "mask": "segm"}
SAID = ("image_id", "category_id", "score")
NAMES = ("", "_50", "_75", "_small", "_medium", "_large")
"""The first six of COCO's numbers: over IoU from 0.5 to 0.95, at 0.5, at 0.75, of small, medium and large objects."""
PRECISIONS = tuple(f"ap_{kind}{name}" for kind in KINDS for name in NAMES)
Detection = dict[str, Any]


def detections(number: int, found: dict[str, Tensor], numbers: Sequence[int]) -> Iterator[Detection]:
    """What torchvision's detector found in an image, as COCO writes it. ``numbers`` are those of the categories."""
    from faster_coco_eval.core import mask as coco  # noqa: PLC0415 - an extra, which need not be installed

    masks = (found["masks"][:, 0] >= 0.5).to("cpu").numpy().astype(np.uint8)
    boxes, scores, labels = (found[name].float().cpu().tolist() for name in ("boxes", "scores", "labels"))
    for (left, top, right, bottom), score, label, mask in zip(boxes, scores, labels, masks, strict=True):
        yield {
            "image_id": number,
            "category_id": numbers[int(label) - 1],
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
            "segmentation": coco.encode(np.asfortranarray(mask)),
        }


def precisions(part: Part, found: list[Detection], images: Sequence[int]) -> dict[str, float | None]:
    """COCO's average precisions over these images, in ``PRECISIONS``; ``None`` where there is no such object."""
    from faster_coco_eval import COCO, COCOeval_faster  # noqa: PLC0415 - as above

    if not found:
        return dict.fromkeys(PRECISIONS, 0.0)
    truth = COCO({**part.content, "annotations": [measurable(one) for one in part.content["annotations"]]})
    values: list[float] = []
    for kind, alone in KINDS.items():
        guessed = truth.loadRes([{name: one[name] for name in (*SAID, alone)} for one in found])
        judge = COCOeval_faster(truth, guessed, IOU[kind])
        judge.params.imgIds = sorted(images)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        values += list(judge.stats[: len(NAMES)])
    return {name: None if value < 0 else float(value) for name, value in zip(PRECISIONS, values, strict=True)}


def measurable(annotation: dict[str, Any]) -> dict[str, Any]:
    """An annotation with what COCO's evaluation asks for and other people's files lack: area and crowd."""
    return {"iscrowd": 0, "area": annotation["bbox"][2] * annotation["bbox"][3], **annotation}

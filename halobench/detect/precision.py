"""How well objects are found and outlined: COCO's average precision, by faster-coco-eval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from halobench.detect.annotations import Json, Part, is_flat
from halobench.detect.masks import decoding, packed

KINDS = {"box": "bbox", "mask": "segmentation"}
"""What is judged, and where it stands: alone, since an object is as large as the box, or as the mask, that is found."""
IOU = {"box": "bbox", "mask": "segm"}
NAMES = ("", "_50", "_75", "_small", "_medium", "_large")
"""The first six of COCO's numbers: over IoU from 0.5 to 0.95, at 0.5, at 0.75, of small, medium and large objects."""
PRECISIONS = tuple(f"ap_{kind}{name}" for kind in KINDS for name in NAMES)
Detection = dict[str, Any]


def detections(number: int, found: dict[str, Any]) -> Iterator[Detection]:
    """What a detector found in an image, its masks as runs, as COCO writes it, with labels for categories."""
    boxes, scores, labels = (found[name].float().tolist() for name in ("boxes", "scores", "labels"))
    for (left, top, right, bottom), score, label, mask in zip(boxes, scores, labels, found["masks"], strict=True):
        yield {
            "image_id": number,
            "category_id": int(label),
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
            "segmentation": mask,
        }


@dataclass(frozen=True)
class Truth:
    """What a part shows, for COCO's evaluation.

    All is numbered from 1 on, in the order of the numbers that a file has: the evaluation takes an annotation 0 for
    none, and knows no numbers of images that are negative or huge. ``images`` are those by the file's.
    """

    content: Json
    images: dict[int, int]

    @classmethod
    def of(cls, part: Part) -> "Truth":
        """The truth of a part, without objects whose boxes have no area.

        Raises:
            DataError: a mask is damaged.
        """
        sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in part.content["images"]}
        images = {number: place for place, number in enumerate(sorted(sizes), 1)}
        labels = part.labels
        annotations: list[Json] = []
        for entry in part.content["annotations"]:
            crowd = int(entry.get("iscrowd") or 0)
            if is_flat(entry) and not crowd:
                continue
            mask, area = measured(part, entry, sizes[entry["image_id"]])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": images[entry["image_id"]],
                    "category_id": labels[entry["category_id"]],
                    "bbox": entry["bbox"],
                    "segmentation": mask,
                    "area": area if entry.get("area") is None else entry["area"],
                    "iscrowd": crowd,
                }
            )
        listed = [{"id": images[number], "height": height, "width": width} for number, (height, width) in sizes.items()]
        categories = [{"id": label} for label in labels.values()]
        return cls({"images": listed, "annotations": annotations, "categories": categories}, images)


def measured(part: Part, entry: Json, size: tuple[int, int]) -> tuple[Json, int]:
    """An annotation's mask as compressed runs, and its pixels; ``DataError`` where it is damaged."""
    from faster_coco_eval.core import mask as coco  # noqa: PLC0415 - as above

    with decoding(f"{part.file}: annotation {entry['id']} has a mask that"):
        mask = packed(entry["segmentation"], size)
        if isinstance(mask["counts"], str):
            coco.decode(mask)
        return mask, int(coco.area(mask))


def precisions(truth: Truth, found: Sequence[Detection], images: Sequence[int]) -> dict[str, float | None]:
    """COCO's average precisions over these images, in ``PRECISIONS``; ``None`` where there is no such object."""
    from faster_coco_eval import COCO, COCOeval_faster  # noqa: PLC0415 - as above

    places = truth.images
    # It writes into the annotations that it is given.
    shown = COCO(truth.content | {"annotations": [dict(one) for one in truth.content["annotations"]]})
    values: list[float] = []
    for kind, alone in KINDS.items():
        asked = ("category_id", "score", alone)
        guessed = shown.loadRes(
            [{"image_id": places[one["image_id"]], **{name: one[name] for name in asked}} for one in found]
        )
        judge = COCOeval_faster(shown, guessed, IOU[kind])
        judge.params.imgIds = sorted(places[number] for number in images)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        values += list(judge.stats[: len(NAMES)])
    return {name: None if value < 0 else float(value) for name, value in zip(PRECISIONS, values, strict=True)}

"""COCO's annotations of a part of a data set, checked: whatever is not as COCO has it is one line."""

import json
import math
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halobench.detect.masks import Objects
from halobench.detect.pictures import Pictures
from halobench.train.unusable import DataError

Json = dict[str, Any]
NEEDED: dict[str, dict[str, Any]] = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list, "segmentation": list | dict},
    "categories": {"id": int, "name": str},
}
FARTHEST = 10**5  # pixels: drawing a polygon takes memory along all of its sides, in the image or not


@dataclass(frozen=True)
class Part:
    """The annotations of ``train`` or ``val``: their file, its content, and where the images lie."""

    file: Path
    content: Json
    images: Path

    @classmethod
    def of(cls, place: Path, name: str) -> "Part":
        """The part of a folder: ``annotations/instances_NAME*.json`` with its images in ``NAME*/``.

        Raises:
            DataError: there is no such file, or several, or it is not what COCO's are.
        """
        found = sorted((place / "annotations").glob(f"instances_{name}*.json"))
        if len(found) != 1:
            raise DataError(
                f"{place} must hold one annotations/instances_{name}*.json, as COCO does; it has {len(found) or 'none'}"
            )
        try:
            content = json.loads(found[0].read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{found[0]} cannot be read: {' '.join(str(error).split())}") from error
        part = cls(found[0], content, place / found[0].stem.removeprefix("instances_"))
        part.check()
        return part

    def check(self) -> None:
        """Raise ``DataError`` for the first thing that is not as COCO has it; the message names it."""
        if not isinstance(self.content, dict):
            raise DataError(f"{self.file} must hold an object, got {shown(self.content)}")
        for kind, needed in NEEDED.items():
            self.check_entries(kind, needed)
        images = {entry["id"]: entry for entry in self.content["images"]}
        categories = {entry["id"] for entry in self.content["categories"]}
        for number, image in images.items():
            if min(image["width"], image["height"]) < 1:
                raise DataError(f"{self.file}: image {number} has no pixels, {image['width']} x {image['height']}")
        for entry in self.content["annotations"]:
            about = f"{self.file}: annotation {entry['id']}"
            if entry["image_id"] not in images:
                raise DataError(f"{about} is of image {entry['image_id']}, which is not listed")
            if entry["category_id"] not in categories:
                raise DataError(f"{about} is of category {entry['category_id']}, which is not listed")
            if fault := fault_of(entry, images[entry["image_id"]]):
                raise DataError(f"{about} {fault}")

    def check_entries(self, kind: str, needed: dict[str, Any]) -> None:
        """Raise ``DataError`` for an entry of the list ``kind`` that lacks what is needed, or the number of another."""
        entries = self.content.get(kind)
        if not isinstance(entries, list):
            raise DataError(f"{self.file} must have a list of {kind}, got {shown(entries)}")
        for place, entry in enumerate(entries):
            for name, type_ in needed.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(name), type_):
                    got = shown(entry.get(name) if isinstance(entry, dict) else entry)
                    raise DataError(f"{self.file}: {kind}[{place}] has no {name} as COCO writes it, got {got}")
        numbers = Counter(entry["id"] for entry in entries)
        twice = [number for number, count in numbers.items() if count > 1]
        if twice:
            raise DataError(f"{self.file}: two of its {kind} have the id {twice[0]}")

    @property
    def categories(self) -> set[tuple[int, str]]:
        """COCO's numbers of the categories, with their names."""
        return {(entry["id"], entry["name"]) for entry in self.content["categories"]}

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories, in the order of their numbers."""
        return tuple(entry["name"] for entry in sorted(self.content["categories"], key=lambda entry: entry["id"]))

    @property
    def labels(self) -> dict[int, int]:
        """The labels of COCO's numbers of the categories: from 1 on, in the order of the numbers."""
        return {number: label for label, (number, _) in enumerate(sorted(self.categories), 1)}

    def read(self) -> tuple[Pictures, int]:
        """The images with their objects, crowds aside; and how many objects were left out for boxes without area."""
        labels = self.labels
        found = {
            entry["id"]: Objects(entry["id"], (entry["height"], entry["width"])) for entry in self.content["images"]
        }
        flat = 0
        for entry in self.content["annotations"]:
            if entry.get("iscrowd"):
                continue
            if is_flat(entry):
                flat += 1
                continue
            found[entry["image_id"]].labels.append(labels[entry["category_id"]])
            found[entry["image_id"]].segmentations.append(entry["segmentation"])
        paths = [str(self.images / entry["file_name"]) for entry in self.content["images"]]
        return Pictures(paths, list(found.values())), flat


def fault_of(entry: Json, image: Json) -> str | None:
    """What is wrong with an annotation, for a sentence that begins with its name, or ``None``."""
    return fault_of_numbers(entry) or fault_of_outline(entry["segmentation"], [image["height"], image["width"]])


def fault_of_numbers(entry: Json) -> str | None:
    """What is wrong with an annotation's box, or with its crowd and its area, which may be missing."""
    if len(entry["bbox"]) != 4 or not all(is_number(value) for value in entry["bbox"]):
        return f"has a bbox that is no (left, top, width, height): {shown(entry['bbox'])}"
    crowd, area = entry.get("iscrowd"), entry.get("area")
    if crowd not in (None, 0, 1):
        return f"has an iscrowd that is neither 0 nor 1: {shown(crowd)}"
    if area is not None and not (is_number(area) and area >= 0):
        return f"has an area that is no number from 0 on: {shown(area)}"
    return None


def fault_of_outline(outline: Any, size: list[int]) -> str | None:
    """What is wrong with the mask of an annotation whose image has the ``size`` [height, width]."""
    if isinstance(outline, dict):
        counts = outline.get("counts")
        if outline.get("size") != size:
            return f"has a mask of size {shown(outline.get('size'))}, its image {size}"
        if isinstance(counts, str):
            return None  # only decoding tells
        runs = counts if isinstance(counts, list) and all(isinstance(run, int) and run >= 0 for run in counts) else []
        return None if sum(runs) == math.prod(size) else f"has runs that do not fill its mask of {size}"
    for polygon in outline:
        numbers = isinstance(polygon, list) and all(is_number(value) for value in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            return f"has a polygon that is no list of three or more x, y: {shown(polygon)}"
        if max(map(abs, polygon)) > FARTHEST:
            return f"has a polygon with points more than {FARTHEST} pixels away: {shown(polygon)}"
    return None if outline else "has an empty segmentation"


def is_flat(entry: Json) -> bool:
    """Whether an annotation's box has no area."""
    return bool(min(entry["bbox"][2:]) <= 0)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def shown(value: Any) -> str:
    """A value in one short line."""
    line = repr(value)
    return line if len(line) <= 60 else f"{line[:57]}..."

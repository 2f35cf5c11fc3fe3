"""A folder in COCO's format, as a training run looks at it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from halobench.detect.annotations import Part, shown
from halobench.detect.pictures import Pictures
from halobench.train.data import Images
from halobench.train.unusable import DataError
from halobench.wording import counted


@dataclass(frozen=True)
class Coco:
    """Data in a folder in COCO's format, as a run looks at it: the names of its classes, and its parts."""

    folder: Path
    parts: dict[str, Part]
    notes: list[str]
    fashion = False
    told_by = "annotations"

    @classmethod
    def of(cls, place: Path) -> "Coco":
        """The data in a folder.

        Raises:
            DataError: the folder holds no such data, or its two parts have other categories.
        """
        parts = {name: Part.of(place, name) for name in ("train", "val")}
        one, other = parts.values()
        if different := one.categories ^ other.categories:
            raise DataError(
                f"{other.file} has other categories than {one.file}: only one of them has {shown(min(different))}"
            )
        if not one.classes:
            raise DataError(f"{one.file} has no categories")
        return cls(place, parts, [])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories."""
        return self.parts["train"].classes

    def part(self, name: str) -> Pictures:
        """The images of a part; those to train on show something. What was left out is in ``notes``, a line a kind.

        Raises:
            DataError: no image is left.
        """
        part = self.parts[name]
        images, flat = part.read()
        if flat:
            self.notes.append(f"{part.file}: {counted(flat, 'object')} whose box has no area left out")
        shows = [bool(one.labels) for one in images.targets]
        if name == "train" and not all(shows):
            empty = counted(shows.count(False), "image")
            self.notes.append(f"{part.file}: {empty} without objects left out of training, of {len(shows)}")
            kept = [place for place, something in enumerate(shows) if something]
            images = Pictures([images.sources[place] for place in kept], [images.targets[place] for place in kept])
        if not any(shows):
            raise DataError(f"{part.file} has no image that shows an object")
        return images

    def digest(self, name: str, _images: Images) -> str:
        """The annotations of a part, in few letters."""
        return hashlib.sha256(json.dumps(self.parts[name].content, sort_keys=True).encode()).hexdigest()

    def without_images(self, images: Images) -> list[str]:
        """The names of the classes that none of these images show."""
        seen = {label for one in images.targets for label in one.labels}
        return [name for label, name in enumerate(self.classes, 1) if label not in seen]

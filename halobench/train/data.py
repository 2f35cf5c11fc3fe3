"""Images and their classes: a folder in ImageNet's layout, or the files of Fashion-MNIST."""

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from halobench.train import fashion, folder
from halobench.train.decode import decode, examine
from halobench.train.unusable import DataError


@dataclass(frozen=True)
class Images:
    """The images of a part with their classes' numbers: paths of files, or an array of bytes (count, height, width).

    Detectors have objects for targets.
    """

    sources: list[str] | np.ndarray
    targets: list[Any]
    left_out: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, index: int) -> Image.Image:
        """One image, upright, in RGB.

        Raises:
            DataError: the file is no image, or is damaged.
        """
        source = self.sources[index]
        return decode(source) if isinstance(source, str) else Image.fromarray(source).convert("RGB")

    def examine(self, index: int) -> None:
        """Read the header of one image; raises ``DataError`` as ``load`` does."""
        if isinstance(source := self.sources[index], str):
            examine(source)


@dataclass(frozen=True)
class Data:
    """Data in a folder: the names of its classes, in the order of their numbers; images are looked for by ``part``."""

    folder: Path
    classes: tuple[str, ...]
    fashion: bool
    told_by: ClassVar[str] = "names"  # what ``digest`` is of

    @classmethod
    def of(cls, place: Path) -> "Data":
        """The data in a folder, whose classes are those of ``train/``.

        Raises:
            DataError: the folder holds no such data, or the classes of its parts do not fit each other.
        """
        folder.entries(str(place))  # else nothing is found behind a closed door
        if fashion.is_here(place):
            return cls(place, fashion.CLASSES, fashion=True)
        for part in ("train", "val"):
            if not (place / part).is_dir():
                wanted = "folders train/ and val/, or Fashion-MNIST's files"
                raise DataError(f"{place} must hold {wanted}; it has no {part}/")
        classes = folder.train_classes(place / "train")
        folder.refuse_other_classes(place / "val", classes)
        return cls(place, classes, fashion=False)

    def part(self, name: str) -> Images:
        """The images of the part ``"train"`` or ``"val"``.

        Raises:
            DataError: there are none, none of a class in ``train/``, or they cannot be found.
        """
        if self.fashion:
            images = Images(*fashion.read(self.folder, name))
        else:
            files = folder.find(self.folder / name, self.classes)
            images = Images(files.paths, files.targets, files.left_out)
        empty = self.without_images(images)
        if not self.fashion and name == "train" and empty:
            raise DataError(f"the class folder {self.folder / name / empty[0]} holds no images{left_out(images)}")
        if not len(images):
            raise DataError(f"{self.folder / name} holds no images{left_out(images)}")
        return images

    def digest(self, name: str, images: Images) -> str:
        """The names of a part's files in their order, in few letters; the folder and Unicode's composition are free."""
        found, above = hashlib.sha256(), len(str(self.folder / name))
        for source in () if self.fashion else images.sources:
            inside = unicodedata.normalize("NFC", source[above:])
            found.update(f"{inside}\0".encode(errors="surrogatepass"))
        return found.hexdigest()

    def without_images(self, images: Images) -> list[str]:
        """The names of the classes that have none of these images."""
        present = set(images.targets)
        return [name for number, name in enumerate(self.classes) if number not in present]


def left_out(images: Images) -> str:
    """What was found and is no image, for a line's end: ``"; left out: 3 .heic"``, or nothing."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in images.left_out.most_common(5))
    return f"; left out: {kinds}" if kinds else ""

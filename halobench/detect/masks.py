"""From what COCO writes of objects and their masks to pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from halobench.train.unusable import DataError


@dataclass(frozen=True)
class Objects:
    """What an image shows: its number and size (height, width), labels from 1 on, and masks as COCO wrote them."""

    image: int
    size: tuple[int, int]
    labels: list[int] = field(default_factory=list)
    segmentations: list[Any] = field(default_factory=list)


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Where masks are decoded: what goes wrong is a ``DataError`` that begins with ``what``."""
    try:
        yield
    except Exception as error:  # the library raises whatever its C++ code meets
        raise DataError(f"{what} cannot be decoded: {' '.join(str(error).split())}") from error


def decoded(objects: Objects) -> np.ndarray:
    """The masks of an image's objects: (objects, height, width) of zeros and ones.

    Raises:
        ValueError: one of them is damaged.
    """
    from faster_coco_eval.core import mask as coco  # noqa: PLC0415 - an extra, which need not be installed

    masks = np.zeros((len(objects.segmentations), *objects.size), np.uint8)
    for place, outline in enumerate(objects.segmentations):
        masks[place] = coco.decode(packed(outline, objects.size))
    return masks


def packed(outline: Any, size: tuple[int, int]) -> dict[str, Any]:
    """A mask in an image of ``size`` as compressed runs. Such are given back as they are: only decoding checks them."""
    from faster_coco_eval.core import mask as coco  # noqa: PLC0415 - as above

    if isinstance(outline, list):
        return dict(coco.merge(coco.frPyObjects(outline, *size)))
    runs = {"size": list(size), "counts": outline["counts"]}
    return runs if isinstance(outline["counts"], str) else dict(coco.frPyObjects(runs, *size))

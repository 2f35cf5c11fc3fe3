"""From what COCO writes of masks to their pixels."""

import numpy as np

from halobench.detect.annotations import Objects


def decoded(objects: Objects) -> np.ndarray:
    """The masks of an image's objects: (objects, height, width) of zeros and ones.

    Raises:
        ValueError: one of them is damaged.
    """
    from faster_coco_eval.core import mask as coco  # noqa: PLC0415 - an extra, which need not be installed

    height, width = objects.size
    masks = np.zeros((len(objects.segmentations), height, width), np.uint8)
    for place, outline in enumerate(objects.segmentations):
        packed = isinstance(outline, dict) and isinstance(outline["counts"], str)
        runs = outline if packed else coco.frPyObjects(outline, height, width)
        masks[place] = coco.decode(coco.merge(runs) if isinstance(runs, list) else runs)
    return masks

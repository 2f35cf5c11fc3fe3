"""Images and the objects that they show: an image that does not fit what is said of it counts as unreadable."""

import numpy as np
from PIL import Image

from halobench.detect.masks import Objects, decoded, decoding
from halobench.train.data import Images
from halobench.train.decode import upright_size
from halobench.train.unusable import DataError


class Pictures(Images):
    """Images of files whose targets are ``Objects``."""

    def load(self, index: int) -> Image.Image:
        """One image, upright, in RGB.

        Raises:
            DataError: the file is no image, is damaged, or has another size than its annotations say.
        """
        image = super().load(index)
        self.refuse_other_size(index, image.size)
        return image

    def examine(self, index: int) -> None:
        """Read the header of one image, and its masks; raises ``DataError`` as ``load`` and ``masks`` do."""
        self.refuse_other_size(index, upright_size(self.sources[index]))
        self.masks(index)

    def masks(self, index: int) -> np.ndarray:
        """The masks of an image's objects, (objects, height, width); ``DataError`` where one is damaged."""
        objects: Objects = self.targets[index]
        with decoding(f"{self.sources[index]}: a mask of image {objects.image}"):
            return decoded(objects)

    def refuse_other_size(self, index: int, size: tuple[int, int]) -> None:
        """Raise ``DataError`` where the annotations say another size than the image's (width, height)."""
        width, height = size
        said_height, said_width = self.targets[index].size
        if (width, height) != (said_width, said_height):
            raise DataError(
                f"{self.sources[index]} has {width} x {height} pixels, its annotations say {said_width} x {said_height}"
            )

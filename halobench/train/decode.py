"""An image file as an upright image in RGB, whatever it holds; what cannot be shown rightly is refused by name."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from halobench.train.unusable import DataError

BITS_PER_SAMPLE = 258  # the tag of a TIFF file
QUARTER_TURNS = frozenset({5, 6, 7, 8})  # of EXIF's orientations, those that swap width and height
COLOURS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
"""Pillow's modes of up to 8 bits a channel that it converts to RGB."""


def formats() -> tuple[str, ...]:
    """What a file may hold: formats of pictures that this Pillow reads. None of them starts other programs."""
    wanted = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "MPO", "AVIF")
    Image.init()
    return tuple(each for each in wanted if each in Image.OPEN)


FORMATS = formats()
EXTENSIONS = frozenset(name for name, format_ in Image.registered_extensions().items() if format_ in FORMATS)
"""The names' ends, in lower case, that Pillow knows for these formats. What a file holds decides how it is read."""


def decode(path: str) -> Image.Image:
    """The (first) image in a file, turned as its EXIF orientation says, over white where it is transparent, in RGB.

    Raises:
        DataError: the file cannot be read, is damaged, or holds no image that has one meaning in RGB.
    """
    with opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return in_colour(image)


def examine(path: str) -> None:
    """Read a file's header only; raises ``DataError`` as ``decode`` does, but finds no damage behind the header."""
    with opened(path):
        pass


def upright_size(path: str) -> tuple[int, int]:
    """The width and height of the image that ``decode`` returns, from the header; raises ``DataError`` as it does."""
    with opened(path) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(ExifTags.Base.Orientation) in QUARTER_TURNS else (width, height)


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """A file's image, its header read; whatever goes wrong in the context is a ``DataError`` that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, without the file's name; and of sizes that Pillow allows
            with Image.open(path, formats=FORMATS) as image:
                refuse_unknown_range(image)
                yield image
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them raise
        raise DataError(f"{path} cannot be read as an image: {reason(error, path)}") from error


def reason(error: Exception, path: str) -> str:
    """What is wrong with a file, in one line."""
    if isinstance(error, UnidentifiedImageError):
        if not Path(path).stat().st_size:
            return "it is empty"
        return f"it is none of {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def is_16_bit(image: Image.Image) -> bool:
    """Whether these are grey pixels between 0 and 65535: Pillow gives some of them 32 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"})


def refuse_unknown_range(image: Image.Image) -> None:
    """Raise ``ValueError`` for pixels of which nobody knows what is white."""
    if image.mode in {"I", "F"} and not is_16_bit(image):
        raise ValueError(
            f"its grey pixels have 32 bits (mode {image.mode!r}) and no known white: save it with 8 or 16 bits"
        )
    if image.mode not in COLOURS and not is_16_bit(image):
        raise ValueError(f"its pixels have the mode {image.mode!r}, which is not converted: save it in RGB")


def in_colour(image: Image.Image) -> Image.Image:
    """The image in RGB: 16 bits scaled to 8, transparency over white."""
    if is_16_bit(image):
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16  # type: ignore[attr-defined]
        white = 2**bits - 1
        grey = (np.asarray(image).astype(np.uint32) * 255 + white // 2) // white
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")

"""One scene: stamps on a background, and what of each is to be seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from halobench.stamps.pictures import LEAST_PIXELS, OPAQUE, Stamp

MOST_OBJECTS = 8
OCTAVES = (-4.0, -0.7)  # of an object's longer side, as a share of the scene's: from a sixteenth to 0.6
LARGEST_SCALE = 2.0  # a stamp of few pixels is not blown up beyond this
OUTSIDE = 0.2  # share of an object's sides that the border may cut off
VISIBLE = 0.5  # share of an object that others must leave to be seen
ATTEMPTS = 10


@dataclass(frozen=True)
class Instance:
    """An object in a scene: its category, and the (side, side) pixels in which it is seen."""

    category: str
    mask: np.ndarray


def make(
    generator: np.random.Generator, stamps: Sequence[Stamp], backgrounds: Sequence[Image.Image], side: int
) -> tuple[Image.Image, list[Instance]]:
    """A scene of ``side`` x ``side`` pixels with one to eight objects, the later ones in front of the earlier."""
    canvas = np.array(crop(generator, backgrounds[int(generator.integers(len(backgrounds)))], side), np.float64)
    wanted = int(generator.integers(1, MOST_OBJECTS + 1))
    found: list[Instance] = []
    for _ in range(ATTEMPTS * wanted):
        if len(found) == wanted:
            break
        stamp = stamps[int(generator.integers(len(stamps)))]
        colour, alpha = placed(generator, stamp, side)
        covered = alpha >= OPAQUE
        seen = [one.mask & ~covered for one in found]
        enough = [left.sum() >= VISIBLE * one.mask.sum() for left, one in zip(seen, found, strict=True)]
        if covered.sum() < LEAST_PIXELS or not all(enough):
            continue
        found = [Instance(one.category, left) for one, left in zip(found, seen, strict=True)]
        found.append(Instance(stamp.category, covered))
        inside = alpha > 0
        share = alpha[inside, None] / 255
        canvas[inside] = canvas[inside] * (1 - share) + colour[inside] * share
    return Image.fromarray(canvas.round().astype(np.uint8)), found


def crop(generator: np.random.Generator, background: Image.Image, side: int) -> Image.Image:
    """A square of a background, of half its shorter side or more, as it is or mirrored, at the scene's size."""
    length = round(min(background.size) * generator.uniform(0.5, 1))
    left, top = (int(generator.integers(most - length + 1)) for most in background.size)
    square = background.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + length, top + length))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else square


def placed(generator: np.random.Generator, stamp: Stamp, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A stamp at a random size and place, as it is or mirrored: (side, side, 3) colours and (side, side) alphas."""
    height, width = stamp.pixels.shape[:2]
    scale = min(side * 2 ** generator.uniform(*OCTAVES) / max(height, width), LARGEST_SCALE)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    image = Image.fromarray(stamp.pixels).resize(size, Image.Resampling.BILINEAR)
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    at = [round(generator.uniform(-OUTSIDE * one, side - (1 - OUTSIDE) * one)) for one in size]
    whole = Image.new("RGBA", (side, side))
    whole.paste(image, (at[0], at[1]))
    pixels = np.asarray(whole)
    return pixels[..., :3], pixels[..., 3]

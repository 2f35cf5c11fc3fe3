"""Data to train on in tests: small images whose class shows, as Fashion-MNIST's files or as a folder of images."""

import gzip
import struct

import numpy as np
from PIL import Image

CLASSES = 10


def pictures(count, seed):
    """Grey images of 28 x 28 and their classes: a bright bar whose place and direction are the class, in noise."""
    chance = np.random.default_rng(seed)
    targets = np.arange(count) % CLASSES
    pixels = chance.integers(0, 80, (count, 28, 28), dtype=np.uint8)
    for image, target in zip(pixels, targets, strict=True):
        start = 2 + 5 * (target // 2)
        bar = slice(start, start + 4)
        image[(bar, slice(None)) if target % 2 else (slice(None), bar)] += 150
    return pixels, targets.astype(np.uint8)


def fashion(folder, training=320, test=80):
    """Files like Fashion-MNIST's."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", training), ("t10k", test)):
        pixels, targets = pictures(count, seed=count)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", targets)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), 1))
    return folder


def image_folder(folder, training=40, test=20, classes=CLASSES):
    """Folders train/ and val/ with a folder for each class."""
    for part, count in (("train", training), ("val", test)):
        pixels, targets = pictures(count, seed=count)
        for number, (image, target) in enumerate(zip(pixels, targets, strict=True)):
            place = folder / part / f"class{target % classes}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")
    return folder

"""Fashion-MNIST, as its four files have it."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

from halobench.train.unusable import DataError
from halobench.wording import counted

FILES = {"train": "train", "val": "t10k"}
CLASSES = tuple(FashionMNIST.classes)


def is_here(folder: Path) -> bool:
    """Whether the folder holds Fashion-MNIST's files."""
    return (folder / f"{FILES['train']}-images-idx3-ubyte.gz").exists()


def read(folder: Path, part: str) -> tuple[np.ndarray, list[int]]:
    """Images of grey bytes (count, 28, 28) and the numbers of their classes.

    Raises:
        DataError: a file is missing or is none of Fashion-MNIST's.
    """
    pixels = read_idx(folder / f"{FILES[part]}-images-idx3-ubyte.gz", 3)
    targets = read_idx(folder / f"{FILES[part]}-labels-idx1-ubyte.gz", 1)
    if len(pixels) != len(targets):
        held = f"{counted(len(pixels), 'image')} and {counted(len(targets), 'label')}"
        raise DataError(f"{folder} holds {held} of part {FILES[part]!r}")
    if targets.max(initial=0) >= len(CLASSES):
        raise DataError(f"{folder} holds a label {targets.max()}, labels go from 0 to {len(CLASSES) - 1}")
    return pixels, targets.tolist()


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The array of bytes in a gzipped IDX file: two zeros, type 8, the number of axes, their lengths, the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    start = 4 + 4 * axes
    lengths = np.frombuffer(content[4:start], ">u4").astype(int) if content[:4] == bytes([0, 0, 8, axes]) else None
    if lengths is None or len(lengths) != axes or len(content) != start + lengths.prod():
        raise DataError(f"{path} is no IDX file of bytes with {axes} axes, or is cut short")
    return np.frombuffer(content, np.uint8, offset=start).reshape(lengths)

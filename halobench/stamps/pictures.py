"""The pictures that scenes are made of: stamps with their outlines, backgrounds, and which half each belongs to."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from halobench.machine import cgroup
from halobench.train.decode import EXTENSIONS, in_colour, opened
from halobench.train.unusable import DataError

PARTS = ("train", "val")
VALIDATION = 0.2  # share of the objects, and of the backgrounds, that are in ``val`` only
OPAQUE = 128  # alpha from which a pixel belongs to the object
LEAST_PIXELS = 64
SAME_OBJECT = re.compile(r"(_mirror|_flip)+$", re.IGNORECASE)
SAME_BACKGROUND = re.compile(r"([-_](\d+x\d+|l|d|light|dark))+$", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """A file; ``key`` is what it shows, which its mirror images and other sizes show, too."""

    path: Path
    key: str
    category: str = ""


@dataclass(frozen=True)
class Stamp:
    """An object: (height, width, 4) bytes, cut to its outline, and its category."""

    pixels: np.ndarray
    category: str


def stamps_in(folder: Path) -> list[Picture]:
    """The PNG files below a folder, whose own folders are the categories; of files that are equal, the first.

    Raises:
        DataError: there are none.
    """
    found, seen = [], set()
    for path in files_in(folder, {".png"}):
        inside = path.relative_to(folder).parts
        digest = digest_of(path)
        if len(inside) > 1 and digest not in seen:
            seen.add(digest)
            found.append(Picture(path, SAME_OBJECT.sub("", path.stem).casefold(), inside[0]))
    if not found:
        raise DataError(f"{folder} holds no folders of stamps (.png); {advice('tuxpaint-stamps-default')}")
    return found


def backgrounds_in(folders: Iterable[Path]) -> list[Picture]:
    """The pictures below folders; KDE has several sizes of one in a folder of its name, others name the size.

    Of files that are equal, the first.

    Raises:
        DataError: there are none.
    """
    found, seen = [], set()
    for folder in folders:
        for path in files_in(folder, EXTENSIONS):
            parents = path.relative_to(folder).parts
            name = parents[parents.index("contents") - 1] if "contents" in parents[1:] else path.stem
            digest = digest_of(path)
            if path.stem != "screenshot" and digest not in seen:
                seen.add(digest)
                found.append(Picture(path, SAME_BACKGROUND.sub("", name).casefold()))
    if not found:
        places = " or ".join(map(str, folders))
        raise DataError(f"{places} holds no backgrounds; {advice('mate-backgrounds gnome-backgrounds')}")
    return found


def files_in(folder: Path, extensions: Iterable[str]) -> Iterator[Path]:
    """The files below a folder whose names end so, links to others aside, in an order that no file system changes."""
    wanted = set(extensions)
    found = (path for path in folder.rglob("*") if path.suffix.lower() in wanted)
    yield from sorted(path for path in found if path.is_file() and not path.is_symlink())


def digest_of(path: Path) -> bytes:
    """What a file holds, in few bytes."""
    return hashlib.sha256(path.read_bytes()).digest()


def advice(packages: str) -> str:
    """How Debian's packages come onto a machine."""
    return f"on Debian: apt-get install {packages}"


def halves(pictures: Sequence[Picture], seed: int) -> dict[str, list[Picture]]:
    """The pictures of ``train`` and of ``val``: what is shown in one is not shown in the other.

    A fifth of what each category shows is in ``val``, and at least one thing, where it shows more than one.
    """
    generator = np.random.default_rng(seed)
    shuffled = []
    for category in sorted({picture.category for picture in pictures}):
        keys = sorted({picture.key for picture in pictures if picture.category == category})
        shuffled.append([keys[place] for place in generator.permutation(len(keys))])
    part_of: dict[str, str] = {}
    for keys in shuffled:
        held = sum(part_of.get(key) == "val" for key in keys)
        wanted = max(round(VALIDATION * len(keys)), 1) if len(keys) > 1 else 0
        free = [key for key in keys if key not in part_of]
        for number, key in enumerate(free):
            part_of[key] = "val" if number < wanted - held else "train"
    for keys in shuffled:  # others may have put all that a category shares with them into one part
        if len(keys) > 1 and len({part_of[key] for key in keys}) == 1:
            part_of[keys[0]] = "val" if part_of[keys[0]] == "train" else "train"
    return {part: [one for one in pictures if part_of[one.key] == part] for part in PARTS}


def read_stamps(pictures: Sequence[Picture]) -> list[Stamp]:
    """The stamps that have an outline; those that are all opaque, or hardly there, are left out."""
    with ThreadPoolExecutor(cgroup.workers()) as pool:
        found = pool.map(cut_out, pictures)
        return [stamp for stamp in found if stamp is not None]


def cut_out(picture: Picture) -> Stamp | None:
    """A stamp, cut to the box around what is opaque, or ``None`` where there is no outline."""
    with opened(str(picture.path)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    inside = pixels[..., 3] >= OPAQUE
    if inside.all() or inside.sum() < LEAST_PIXELS:
        return None
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return Stamp(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], picture.category)


def read_backgrounds(pictures: Sequence[Picture], side: int) -> list[Image.Image]:
    """The backgrounds in RGB, their shorter sides reduced to twice ``side`` at most."""
    with ThreadPoolExecutor(cgroup.workers()) as pool:
        return list(pool.map(lambda picture: reduced(picture.path, 2 * side), pictures))


def reduced(path: Path, shorter: int) -> Image.Image:
    """A picture in RGB whose shorter side has at most so many pixels."""
    with opened(str(path)) as image:
        scale = shorter / min(image.size)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        if scale < 1:
            image.draft("RGB", size)
        colour = in_colour(image)
    return colour.resize(size, Image.Resampling.BOX) if scale < 1 else colour

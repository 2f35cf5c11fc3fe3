"""``python -m halobench.stamps OUTPUT``: make a data set of scenes in COCO's format from Debian's stamps."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import Progress

from halobench import terminal
from halobench.machine import cgroup
from halobench.stamps import pictures, scene
from halobench.train.unusable import DataError
from halobench.wording import counted

NAME = "halobench.stamps"
STAMPS = Path("/usr/share/tuxpaint/stamps")  # where Debian's package tuxpaint-stamps-default puts them
BACKGROUNDS = (Path("/usr/share/backgrounds"), Path("/usr/share/wallpapers"))
SMALLEST, LARGEST, QUALITY = 64, 65500, 90  # a JPEG has no more pixels on a side
PARTLY = "what was written is not whole: give a new folder"
SOURCE = "Debian's tuxpaint-stamps-default (GPL-2) over Debian's wallpapers"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 at the end, 2 the pictures or the folder cannot be used, 130 interrupted."""
    options = parser().parse_args(arguments)
    if importlib.util.find_spec("faster_coco_eval") is None:
        return terminal.refuse(NAME, "needs the package faster-coco-eval: pip install 'halobench[detection]'")
    try:
        check(options)
        make(options)
    except (DataError, OSError, ValueError) as error:
        return terminal.refuse(NAME, error)
    except MemoryError:
        return terminal.refuse(NAME, f"too little memory for scenes of --side {options.side}")
    except KeyboardInterrupt:
        print(f"\n{NAME}: interrupted; {PARTLY}", file=sys.stderr)
        return terminal.INTERRUPTED
    return 0


def check(options: argparse.Namespace) -> None:
    """Raise ``ValueError`` for numbers that cannot be, and ``DataError`` where something is in the way."""
    for name, least in (("train", 1), ("val", 1), ("side", SMALLEST), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(options, name)}")
    if options.side > LARGEST:
        raise ValueError(f"--side must be at most {LARGEST}, got {options.side}")
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise DataError(f"{options.output} exists and is no empty folder: give another one")


def make(options: argparse.Namespace) -> None:
    """Make both parts, and say what they hold."""
    found = pictures.stamps_in(options.stamps)
    categories = sorted({one.category for one in found})
    stamps = pictures.halves(found, options.seed)
    backgrounds = pictures.halves(pictures.backgrounds_in(options.backgrounds or BACKGROUNDS), options.seed)
    read = {part: pictures.read_stamps(stamps[part]) for part in pictures.PARTS}
    behind = {part: pictures.read_backgrounds(backgrounds[part], options.side) for part in pictures.PARTS}
    for kind, halves in (("stamps with an outline", read), ("backgrounds", behind)):
        for part, half in halves.items():
            if not half:
                raise DataError(f"too few {kind} for both halves: {part} has none")
    for part, count in (("train", options.train), ("val", options.val)):
        try:
            instances = write(options, part, count, categories, read[part], behind[part])
        except OSError as error:
            raise DataError(f"{options.output} cannot be written: {error.strerror or error}; {PARTLY}") from error
        shown = f"{counted(len(read[part]), 'stamp')} on {counted(len(behind[part]), 'background')}"
        print(f"{options.output / part}: {counted(count, 'scene')} with {counted(instances, 'object')}, {shown}")


def write(
    options: argparse.Namespace, part: str, count: int, categories: list[str], stamps: list[pictures.Stamp],
    backgrounds: list[Image.Image],
) -> int:  # fmt: skip
    """Write the scenes of a part and their annotations; how many objects they show."""
    folder = options.output / part
    folder.mkdir(parents=True)
    (options.output / "annotations").mkdir(exist_ok=True)
    one = partial(write_one, folder, options, stamps, backgrounds)
    bar = Progress(transient=True, disable=not sys.stdout.isatty())
    with ThreadPoolExecutor(cgroup.workers()) as pool, bar as progress:
        instances = list(progress.track(pool.map(one, range(1, count + 1)), total=count, description=part))
    numbers = {name: number for number, name in enumerate(categories, 1)}
    annotations: list[dict[str, Any]] = []
    for image, objects in enumerate(instances, 1):
        for about in objects:
            category = numbers[about.pop("category")]
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": category, **about})
    document = {
        "info": {"description": f"{SOURCE}; python -m {NAME}, part {part}, seed {options.seed}"},
        "images": [
            {"id": number, "file_name": file_name(number), "width": options.side, "height": options.side}
            for number in range(1, count + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    path = options.output / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return len(annotations)


def write_one(
    folder: Path, options: argparse.Namespace, stamps: list[pictures.Stamp], backgrounds: list[Image.Image], number: int
) -> list[dict[str, Any]]:
    """Write the scene of this number, which depends on nothing else but the seed; what COCO says of its objects."""
    generator = np.random.default_rng([options.seed, pictures.PARTS.index(folder.name), number])
    image, found = scene.make(generator, stamps, backgrounds, options.side)
    image.save(folder / file_name(number), quality=QUALITY)
    return [{"category": one.category, **described(one.mask)} for one in found]


def described(mask: np.ndarray) -> dict[str, Any]:
    """An object in COCO's words: its mask as run lengths, its area, and its box (left, top, width, height)."""
    from faster_coco_eval.core import mask as coco  # noqa: PLC0415 - an extra, which need not be installed

    runs = coco.encode(np.asfortranarray(mask, np.uint8))
    box = [float(number) for number in coco.toBbox(runs)]
    segmentation = {"size": list(mask.shape), "counts": runs["counts"].decode()}
    return {"segmentation": segmentation, "area": int(mask.sum()), "bbox": box, "iscrowd": 0}


def file_name(number: int) -> str:
    """The name of a scene's file."""
    return f"{number:06d}.jpg"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = terminal.parser(
        NAME,
        "Make scenes of Debian's stamps on Debian's wallpapers, with masks, in COCO's format. No stamp and no "
        "background is in both parts.",
        ["scenes", "scenes --train 500 --val 100 --side 256"],
    )
    add = command.add_argument
    add("output", type=Path, help="a new folder, for train/, val/ and annotations/")
    add("--stamps", type=Path, default=STAMPS, help="folder with a folder a category (default: %(default)s)")
    add("--backgrounds", type=Path, action="append", help="folder of pictures; may be given several times (default: "
        f"{' and '.join(map(str, BACKGROUNDS))})")  # fmt: skip
    add("--train", type=int, default=4000, help="scenes to train on (default: %(default)s)")
    add("--val", type=int, default=500, help="scenes to test on (default: %(default)s)")
    add("--side", type=int, default=512, metavar="PIXELS", help="of the square scenes (default: %(default)s)")
    add("--seed", type=int, default=0)
    return command


if __name__ == "__main__":
    terminal.end(NAME, main)

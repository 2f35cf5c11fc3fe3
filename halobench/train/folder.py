"""A folder of images, with a folder for each class: which folders are classes, and which files are images.

The layout and the order are those of torchvision's ``ImageFolder``. It and timm's reader are not used, because they
enter hidden folders and thumbnails, follow links round in circles, and leave out without a word what cannot be listed.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from halobench.train.decode import EXTENSIONS
from halobench.train.unusable import DataError

CLUTTER = frozenset(
    {"@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "__macosx", "$recycle.bin", "lost+found"}
    | {"system volume information", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)
"""What network storages, macOS, Windows and Python leave in folders, in lower case."""


@dataclass
class Files:
    """The images of a part and the numbers of their classes, in order; what was left out, counted by kind."""

    paths: list[str] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def class_folders(part: Path) -> dict[str, str]:
    """The class folders of a part by name, in the order of the names.

    A name is taken in Unicode's composed form (NFC): macOS may have written the same one decomposed.

    Raises:
        DataError: the part cannot be listed, or two folders have one name.
    """
    found: dict[str, str] = {}
    for entry in entries(str(part)):
        if not is_folder(entry):
            continue
        name = unicodedata.normalize("NFC", entry.name)
        if name in found:
            raise DataError(f"{part} holds two folders of the name {name!r}, composed and decomposed Unicode")
        found[name] = entry.path
    return dict(sorted(found.items()))


def train_classes(part: Path) -> tuple[str, ...]:
    """The names of the classes, from the folder ``train/``.

    Raises:
        DataError: there are fewer than two.
    """
    names = tuple(class_folders(part))
    if not names:
        raise DataError(f"{part} must hold a folder for each class, it has none")
    if len(names) == 1:
        raise DataError(f"{part} must hold folders of two classes at least, it has one: {names[0]!r}")
    return names


def refuse_other_classes(part: Path, classes: Sequence[str]) -> None:
    """Raise ``DataError`` where a part has a class that ``train/`` does not have."""
    for name in class_folders(part):
        if name not in classes:
            alike = next((each for each in classes if each.casefold() == name.casefold()), None)
            hint = f" (but {alike!r})" if alike else ""
            raise DataError(f"{part} has a class folder {name!r}, which train/ does not have{hint}")


def find(part: Path, classes: Sequence[str]) -> Files:
    """The images of a part, numbered by ``classes``; files beside the class folders are no images.

    Raises:
        DataError: a folder cannot be listed, or leads back to one that it lies in.
    """
    files = Files()
    folders = class_folders(part)
    above = frozenset(identity(str(place)) for place in (part.resolve(), *part.resolve().parents))
    files.left_out["images beside the class folders"] = sum(
        is_image(entry) for entry in entries(str(part)) if not is_folder(entry)
    )
    for number, name in enumerate(classes):
        if name not in folders:
            continue
        for entry in below(folders[name], above):
            if is_image(entry):
                files.paths.append(entry.path)
                files.targets.append(number)
            else:
                files.left_out[Path(entry.name).suffix.lower() or "without extension"] += 1
    files.left_out = +files.left_out
    return files


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one.

    Raises:
        DataError: a link cannot be followed, and by its name it is no image, whose reading would say so.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if is_image(entry):
            return False
        raise DataError(f"{entry.path} cannot be followed: {error.strerror}") from error


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file's name ends as an image's; a broken link counts, so that reading names it."""
    return Path(entry.name).suffix.lower() in EXTENSIONS and (entry.is_symlink() or entry.is_file())


def below(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    """All files in a folder and the folders in it; ``above`` are those that it lies in."""
    own = identity(folder)
    if own in above:
        raise DataError(f"{folder} leads back to a folder that it lies in")
    inside = entries(folder)
    yield from (entry for entry in inside if not is_folder(entry))
    for entry in inside:
        if is_folder(entry):
            yield from below(entry.path, above | {own})


def identity(folder: str) -> tuple[int, int]:
    """What a folder is, by whatever path or link it was reached."""
    found = os.stat(folder)  # noqa: PTH116 - a Path for each of a million entries takes longer than the call
    return found.st_dev, found.st_ino


def entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, by name, without hidden entries and clutter."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                (each for each in found if not each.name.startswith(".") and each.name.casefold() not in CLUTTER),
                key=lambda each: each.name,
            )
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from error

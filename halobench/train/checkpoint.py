"""A run's last good state on disk: written whole or not at all, and gone on with by the same run only."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from halobench.train.unusable import Unusable
from halobench.train.whole_file import whole
from halobench.wording import counted

VERSION = 3
SHARES = ("processes", "batch", "learning_rate")  # with the number of processes, the images of a step may change
Values = dict[str, Any]


class CheckpointError(Unusable):
    """A checkpoint that cannot be used; the message names the file."""


def write(path: Path, state: Values) -> None:
    """Write the state beside the path and put it in the old one's place: a kill leaves the old one or the new one.

    Raises:
        Unusable: it cannot be written; the old one is kept.
    """
    with whole(path) as beside, beside.open("wb") as file:
        torch.save({"version": VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Values:
    """The state, its tensors on the CPU: whoever loads them knows which belong on the device.

    Raises:
        CheckpointError: there is none, or it is none.
    """
    try:
        state: Values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: there is nothing to resume") from None
    except Exception as error:  # pickle raises whatever a broken file makes it raise
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise CheckpointError(f"{path} is no checkpoint of this halobench (version {VERSION})")
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Use a checkpoint's state in here; ``CheckpointError`` where something is missing, or has another form."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit this program: {type(error).__name__} {said}") from error


def changes(path: Path, was: Values, now: Values) -> Iterator[str]:
    """What a resumed run does otherwise than the one that it goes on with, a sentence each; arguments are settings.

    Raises:
        CheckpointError: more than the number of processes changed, or the number of epochs, which may only grow.
    """
    changed = {name for name in now if was.get(name) != now[name]}
    if "processes" in changed:
        changed -= set(SHARES)
        on, images = counted(now["processes"], "process", "processes"), now["batch"] * now["processes"]
        yield (
            f"no longer bit for bit: on {on} instead of {was['processes']}, "
            f"{counted(images, 'image')} a step instead of {was['batch'] * was['processes']}, "
            f"highest learning rate {now['learning_rate']:g} instead of {was['learning_rate']:g}"
        )
    if "epochs" in changed and now["epochs"] > was["epochs"]:
        changed.remove("epochs")
        yield (
            f"no longer bit for bit: {counted(now['epochs'], 'epoch')} instead of {was['epochs']}, "
            f"and from here on the learning rate of a run of {now['epochs']}"
        )
    if changed:
        said = ", ".join(f"{name} was {was.get(name)!r}, not {now[name]!r}" for name in sorted(changed))
        raise CheckpointError(f"{path} cannot be resumed with other settings: {said}")


def refuse_other_classes(path: Path, was: Sequence[str], now: Sequence[str]) -> None:
    """Raise ``CheckpointError`` where the data have other classes than those that the run was begun with."""
    if list(was) == list(now):
        return
    gone, new = (sorted(set(one) - set(other)) for one, other in ((was, now), (now, was)))
    said = [f"{some(names)} {what}" for names, what in ((gone, "no longer there"), (new, "new")) if names]
    raise CheckpointError(f"{path} cannot be resumed with other classes: {' and '.join(said) or 'their order changed'}")


def refuse_other_counts(path: Path, was: dict[str, int], now: dict[str, int]) -> None:
    """Raise ``CheckpointError`` where the parts of the data have other numbers of images."""
    said = ", ".join(
        f"{part} had {counted(was[part], 'image')}, not {now[part]}" for part in now if was[part] != now[part]
    )
    if said:
        raise CheckpointError(f"{path} cannot be resumed with other data: {said}")


def refuse_other_names(path: Path, was: dict[str, str], now: dict[str, str], what: str) -> None:
    """Raise ``CheckpointError`` where the parts of the data have images of other names, or what else tells them."""
    if changed := [part for part in now if was[part] != now[part]]:
        parts = " and ".join(changed)
        raise CheckpointError(f"{path} cannot be resumed with other data: the images of {parts} have other {what} now")


def some(names: Sequence[str], most: int = 3) -> str:
    """A few of many names."""
    said = ", ".join(map(repr, names[:most]))
    return said if len(names) <= most else f"{said} and {len(names) - most} more"

"""A run's last good state on disk: written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch

VERSION = 1


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is one line and names the file."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Write the state beside the path and put it in the old one's place: a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        torch.save({"version": VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read(path: Path, fixed: dict[str, Any]) -> dict[str, Any]:
    """The state, its tensors on the CPU: whoever loads them knows which belong on the device.

    Raises:
        CheckpointError: there is none, it is none, or it belongs to a run with other settings than ``fixed``.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: there is nothing to resume") from None
    except Exception as error:  # pickle raises whatever a broken file makes it raise
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise CheckpointError(f"{path} is no checkpoint of this halobench (version {VERSION})")
    changed = sorted(name for name in fixed if state["fixed"].get(name) != fixed[name])
    if changed:
        was = ", ".join(f"{name} was {state['fixed'].get(name)!r}, not {fixed[name]!r}" for name in changed)
        raise CheckpointError(f"{path} cannot be resumed with other settings: {was}")
    return state

"""One step before any image is read: what cannot work ends a run in seconds, and not after the data."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from halobench.attention.problem import Unsupported
from halobench.machine import memory
from halobench.train.processes import Processes
from halobench.train.repeatable import repeatable
from halobench.train.settings import Settings
from halobench.train.step import Step
from halobench.train.unusable import Unusable
from halobench.wording import counted


@contextmanager
def explained(settings: Settings, processes: Processes) -> Iterator[None]:
    """Build the model and take its first step in here.

    Raises:
        Unusable: the backend, the memory or the sizes do not allow it.
        NotRepeatable: an operation does not repeat bit for bit.
    """
    try:
        with repeatable(fast=settings.fast):
            yield
    except (RuntimeError, ValueError, AssertionError, Unsupported, MemoryError) as error:  # timm asserts sizes
        # A kernel's fault is no choice of the user's: its traceback is wanted.
        if isinstance(error, torch.AcceleratorError) or processes.lost(error):
            raise
        raise Unusable(reason(error, settings)) from error


def take(step: Step, images: Tensor, targets: Any) -> None:
    """Train on blank images (batch, 3, H, W), up to the optimizer; the model is left as it was."""
    buffers = {name: buffer.clone() for name, buffer in step.model.named_buffers()}
    step.model.train()
    step.loss(images, targets).backward()
    with torch.no_grad():
        for name, buffer in step.model.named_buffers():
            buffer.copy_(buffers[name])
    step.optimizer.zero_grad(set_to_none=True)


def reason(error: Exception, settings: Settings) -> str:
    """Why a step failed, in one line."""
    if isinstance(error, Unsupported):
        return f"{settings.model} cannot use the backend {settings.backend!r} here: {error}"
    sizes = f"a step of {counted(settings.batch, 'image')} of {counted(settings.image_size, 'pixel')}"
    if memory.ran_out(error):
        return f"out of memory: {settings.model} takes more than {settings.device} has for {sizes}"
    return f"{settings.model} cannot take {sizes}: {(str(error).splitlines() or [type(error).__name__])[0]}"

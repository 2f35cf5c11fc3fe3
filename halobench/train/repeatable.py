"""Runs that repeat bit for bit on the same device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from halobench.train.unusable import Unusable


class NotRepeatable(Unusable):
    """An operation has no algorithm that repeats bit for bit; the message is one line."""


@contextmanager
def repeatable(*, fast: bool) -> Iterator[None]:
    """Have PyTorch use only algorithms that repeat bit for bit; ``fast`` leaves it free.

    Raises:
        NotRepeatable: an operation has no such algorithm.
    """
    mode = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), mode.fill_uninitialized_memory  # type: ignore[attr-defined]
    if not fast:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(not fast)
    mode.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it finds bugs, at the price of speed
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=fast, deterministic=not fast):
            yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise NotRepeatable(f"{str(error).partition('. ')[0]}; --fast does without") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        mode.fill_uninitialized_memory = before[1]  # type: ignore[attr-defined]

"""Sums over the ranks of a group, and a record of all that a rank sends, from which it can be sent again alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from halobench.distributed.lost import ANYONE, waiting


@dataclass(frozen=True)
class Message:
    """What a rank posts at once: (rank of the group, bytes) of pixels that it sends and receives; or bytes of a sum."""

    sent: tuple[tuple[int, int], ...] = ()
    received: tuple[tuple[int, int], ...] = ()
    summed: int = 0


RECORDS: list[list[Message]] = []


@contextmanager
def recorded() -> Iterator[list[Message]]:
    """Note what this process sends in here, in order, backward passes included."""
    messages: list[Message] = []
    RECORDS.append(messages)
    try:
        yield messages
    finally:
        RECORDS.pop()


def group_of(group: Any) -> ProcessGroup:
    """The group that is meant, the default one if ``None``.

    Raises:
        ValueError: there is none, or this process is not one of its ranks.
    """
    found = group or distributed.group.WORLD
    if found is None:
        raise ValueError("group must be one of this process's, got None before init_process_group made a default one")
    if found == distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group must be one of this process's, got what new_group returns to those who are not in it")
    return cast("ProcessGroup", found)


def note(message: Message) -> None:
    """Add a message to what is being recorded."""
    for messages in RECORDS:
        messages.append(message)


def sum_over(group: ProcessGroup, tensor: Tensor, wanted: str) -> Tensor:
    """The tensor, which must be contiguous, after its sum over the group was written into it.

    Raises:
        RankLost: a rank did not answer within the group's time-out.
    """
    note(Message(summed=tensor.nbytes))
    with waiting(group, ANYONE, wanted):
        distributed.all_reduce(tensor, group=group)
    return tensor


def exact(dtype: torch.dtype) -> torch.dtype:
    """In which dtype numbers of this one are summed: float32 at least."""
    return torch.promote_types(dtype, torch.float32)

"""The processes of a run: one, or those that torchrun starts, each with its GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from halobench.train.unusable import Unusable
from halobench.wording import counted

LOST = "another process of the run ended"
TOLD = "told"  # the key under which processes count what they told


def told() -> tuple[int, int, int]:
    """What torchrun says: this process's rank, how many there are, and its number on this host; zeros if nothing.

    Raises:
        Unusable: it is no number.
    """
    numbers = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        said = os.environ.get(name, "0")
        try:
            numbers.append(int(said))
        except ValueError:
            raise Unusable(f"{name} in the environment must be a number, as torchrun sets it, got {said!r}") from None
    rank, count, local = numbers
    return rank, count, local


@contextmanager
def finding(count: int) -> Iterator[None]:
    """Look for the other processes in here; ``Unusable`` where they are not found."""
    try:
        yield
    except (distributed.DistError, ValueError) as error:  # of what torchrun tells, nothing or nonsense
        raise Unusable(
            f"the {counted(count, 'process', 'processes')} do not find each other: {str(error).splitlines()[0]}"
        ) from error


@dataclass
class Processes:
    """This process among all: ``rank`` of ``count``, the ``local``-th on its host."""

    rank: int = 0
    count: int = 1
    local: int = 0
    store: Store | None = field(default=None, repr=False)

    @classmethod
    def of_environment(cls) -> "Processes":
        """What torchrun says, or a single process.

        Raises:
            Unusable: the others are not found.
        """
        rank, count, local = told()
        if count <= 1:
            return cls()
        with finding(count):
            store, _, _ = next(rendezvous("env://", rank, count))
        return cls(rank, count, local, store)

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """This process's device."""
        return torch.device(kind, self.local) if kind == "cuda" else torch.device(kind)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Join the others for the time of the context. After an error nobody waits for them: the process is to end.

        Raises:
            Unusable: there is no GPU for this process, or the others are not found.
        """
        if device.type == "cuda":
            if self.local >= (here := torch.cuda.device_count()):
                raise Unusable(f"each process on this host needs a GPU of its own, got {counted(here, 'GPU')}")
            torch.cuda.set_device(device)
        if self.count == 1:
            yield
            return
        with finding(self.count):
            gpu = device.type == "cuda"
            distributed.init_process_group(
                "nccl" if gpu else "gloo",
                store=self.store,
                rank=self.rank,
                world_size=self.count,
                device_id=device if gpu else None,  # all connect now, whoever sends first
            )
        yield
        distributed.barrier()  # nobody leaves while another still talks to it
        distributed.destroy_process_group()

    def spread(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model as it is called in training: its gradients are averaged over all processes."""
        if self.count == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            distributed.all_reduce(numbers)
        return numbers

    def gathered(self, mine: Any) -> list[Any]:
        """What all processes have, in their order."""
        if self.count == 1:
            return [mine]
        everyone = [None] * self.count
        distributed.all_gather_object(everyone, mine)
        return everyone

    def tells(self, problem: str) -> bool:
        """Whether this process is to tell a problem: others may have the same, and end because this one does."""
        if self.store is None:
            return True
        try:
            nothing_told = self.store.add(TOLD, 1) == 1
            return nothing_told if problem == LOST else self.store.add(problem, 1) == 1
        except RuntimeError:  # who kept the store is gone
            return problem != LOST

    def lost(self, error: Exception) -> bool:
        """Whether an error comes from another process's end."""
        return self.count > 1 and (isinstance(error, distributed.DistError) or "gloo" in str(error))

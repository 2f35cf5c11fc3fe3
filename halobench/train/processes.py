"""The processes of a run: one, or those that torchrun starts, each with its GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among all: ``rank`` of ``count``, the ``local``-th on its host."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> "Processes":
        """What torchrun says, or a single process."""
        return cls(*(int(os.environ.get(name, other)) for name, other in NAMES.items()))

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """This process's device."""
        return torch.device(kind, self.local) if kind == "cuda" else torch.device(kind)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Join the others for the time of the context."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.count == 1:
            yield
            return
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield
            distributed.barrier()  # nobody leaves while another still talks to it
        finally:
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


NAMES = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}

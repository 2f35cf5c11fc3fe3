"""Where a workload lies in a GPU's memory: its time depends on it, and the next process's lies elsewhere."""

from random import Random

import torch
from torch import Tensor

from halobench.attention.problem import Backend
from halobench.cases.workload import Workload
from halobench.machine.clock import Call
from halobench.measure import graphs

SPACERS = 8
LARGEST_SPACER_BYTES = 5 * 2**20  # the caching allocator packs tensors of up to 10 MiB into segments of 2 and 20 MiB


class Placement:
    """Moves a workload's tensors, and with them what its calls allocate, about in the GPU's memory.

    Blocks of random sizes stay allocated, so that the others have to be fitted around them. Every workload is moved
    to the same sequence of places, as far as the allocator's view goes; pages are the driver's to choose.
    """

    def __init__(self, backend: Backend, workload: Workload, call: Call) -> None:
        self._backend, self._call = backend, call
        self._tensors = (*workload.tensors.values(), workload.cotangent)
        self._random = Random(0)  # noqa: S311 - places, not secrets
        self._spacers: list[Tensor] = []

    def move(self) -> Call:
        """Move everything to the next place; the call there, as a replay where the backend can be captured.

        Nothing may hold on to the addresses, or to the call, of before.

        Raises:
            Uncapturable: the backend synchronizes, for example.
        """
        self._spacers.clear()
        torch.cuda.empty_cache()
        device = self._tensors[0].device
        sizes = [self._random.randrange(1, LARGEST_SPACER_BYTES) for _ in range(2 * SPACERS)]
        blocks = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
        self._spacers = blocks[::2]  # the others are freed, and leave gaps
        del blocks
        for tensor in self._tensors:
            tensor.data = tensor.data.clone()
        if device.type != "cuda" or not self._backend.capturable:
            return self._call
        return graphs.warmed(self._call, self._backend.name)

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
    to the same sequence of places, as far as the allocator's view goes; pages are the driver's to choose. ``call`` is
    what was last sampled: the call itself, until it is moved.
    """

    def __init__(self, backend: Backend, workload: Workload, call: Call) -> None:
        self._backend, self._workload, self._launched = backend, workload, call
        self.call = call
        self._random = Random(0)  # noqa: S311 - places, not secrets
        self._spacers: list[Tensor] = []

    def move(self) -> Call:
        """Move everything to the next place; the call there, as a replay where the backend can be captured.

        Nothing else may hold on to the addresses, or to the call, of before.

        Raises:
            Uncapturable: the backend synchronizes, for example.
        """
        self.call = self._launched
        self._spacers.clear()
        torch.cuda.empty_cache()
        device = self._workload.cotangent.device
        sizes = [self._random.randrange(1, LARGEST_SPACER_BYTES) for _ in range(2 * SPACERS)]
        blocks = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
        self._spacers = blocks[::2]  # the others are freed, and leave gaps
        del blocks
        self._workload.relocate()
        if device.type == "cuda" and self._backend.capturable:
            self.call = graphs.warmed(self._launched, self._backend.name)
        return self.call

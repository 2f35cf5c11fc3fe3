"""Gradients of all parameters in one buffer, which ranks average in one message behind the backward pass.

``DistributedDataParallel`` copies each gradient into its bucket by a launch of its own, so that the buckets travel
during the backward pass. Small networks on fast links lose more by the launches than they gain by that.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup


class Flat:
    """The buffer of a model, all of whose parameters get gradients, for the ranks of a group.

    Ranks must begin with the same weights: nothing is sent before the first step.
    """

    def __init__(self, model: nn.Module, group: ProcessGroup) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.group = group
        self.sends = True
        sizes = [parameter.numel() for parameter in self.parameters]
        first = self.parameters[0]
        self.buffer = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
        self.lines = self.buffer.split(sizes)

    def average(self) -> None:
        """Put the mean of all ranks' gradients in the place of this rank's; they are pieces of the buffer then."""
        if not self.sends:
            return
        with torch.no_grad():
            torch._foreach_copy_(self.lines, [line(one.grad, one) for one in self.parameters])
        distributed.all_reduce(self.buffer, group=self.group)
        self.buffer.div_(self.group.size())
        for parameter, piece in zip(self.parameters, self.lines, strict=True):
            parameter.grad = piece.as_strided(parameter.size(), parameter.stride())

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Where gradients stay this rank's own, as of ``DistributedDataParallel``."""
        self.sends = False
        try:
            yield
        finally:
            self.sends = True


def line(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """A gradient's numbers in a row, in the order in which its parameter's lie in memory: itself, where they do too."""
    if gradient is None:
        raise ValueError(f"every parameter must have a gradient, got none of one of {tuple(parameter.shape)}")
    if order(gradient) != order(parameter):
        gradient = torch.empty_like(parameter).copy_(gradient)
    return gradient.as_strided((gradient.numel(),), (1,))


def order(tensor: Tensor) -> list[int]:
    """The strides that count."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]

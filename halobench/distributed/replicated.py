"""What every rank holds whole: its gradient is the sum over the shards."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from halobench.distributed.messages import exact, group_of, sum_over


def replicated(group: ProcessGroup | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The same tensors; their gradients are summed over the group, by one all-reduce for all of them.

    Every rank must ask for the gradient of the same ones.
    """
    found: tuple[Tensor, ...] = Replicated.apply(group, *tensors)
    return found


class Replicated(torch.autograd.Function):
    """Forward the tensors as they are, backward the sum over the group, in float32 at least."""

    @staticmethod
    def forward(ctx: Any, group: ProcessGroup | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Nothing is sent."""
        ctx.group = group_of(group)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """One message for all gradients."""
        together = torch.cat([gradient.flatten() for gradient in gradients])
        summed = sum_over(ctx.group, together.to(exact(together.dtype)), "the sum of gradients")
        parts = summed.to(together.dtype).split([gradient.numel() for gradient in gradients])
        pairs = zip(parts, gradients, strict=True)
        return None, *(part.view(gradient.shape).to(gradient.dtype) for part, gradient in pairs)

"""What the formula might as well have made: its roundings drawn anew, and written as fused kernels compute it.

Where few roundings add up, a single evaluation says little: it may be right by luck. And kernels that recompute the
weights in the backward pass take the products of outputs and cotangents from outputs that are rounded already, as
FlashAttention-2 does (Dao 2023, algorithm 2). That shifts all of a query's logit gradients alike, where the formula's
roundings of many weights average out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from halobench.attention import formula
from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables


class Rounding(TorchDispatchMode):
    """Inside, what operations compute in float64 is rounded to ``dtype``: up or down at random, right on average.

    Numbers that the dtype holds stay as they are, so that moving them costs nothing. A unit in the last place is the
    most that a rounding errs by, twice as much as to the nearest, and in the mean square 1.4 times as much.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.numbers = torch.Generator(device).manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(Tensor, self.rounded, func(*args, **(kwargs or {})))

    def rounded(self, tensor: Tensor) -> Tensor:
        """The tensor itself where there is nothing to be rounded."""
        if tensor.dtype != torch.float64:
            return tensor
        nearest = tensor.to(self.dtype).double()
        if torch.equal(nearest, tensor):
            return tensor
        limits = torch.finfo(self.dtype)
        unit = (tensor.frexp().exponent - 1).double().exp2().clamp(min=limits.smallest_normal) * limits.eps
        offset = torch.rand(tensor.shape, generator=self.numbers, dtype=torch.float64, device=tensor.device) - 0.5
        drawn = (tensor + unit * offset).to(self.dtype).double()
        return torch.where(nearest == tensor, tensor, drawn)


def recomputing(
    query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
) -> Tensor:
    """``formula.attend``, with the gradients of logits and values as kernels compute them."""
    queries = formula.blocks(query, geometry)
    keys, values = formula.strided_windows(key, geometry), formula.strided_windows(value, geometry)
    logits = formula.scores(queries, keys, relative, geometry) * query.shape[-1] ** -0.5
    hidden = formula.hide(logits, key.shape[2], key.shape[3], geometry)
    output = Recomputing.apply(hidden.flatten(-2), values.flatten(-3, -2))
    return formula.unblock(output, query.shape[2], query.shape[3])


class Recomputing(torch.autograd.Function):
    """softmax(logits) @ values: [b n R C i j k], [b n R C k e] -> [b n R C i j e]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor) -> Tensor:  # noqa: D102
        output = torch.einsum("bnRCijk,bnRCke->bnRCije", logits.softmax(-1), values)
        ctx.save_for_backward(logits, values, output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        logits, values, output = ctx.saved_tensors
        weights = logits.softmax(-1)
        products = torch.einsum("bnRCije,bnRCke->bnRCijk", gradient, values)
        changes = weights * (products - (gradient * output).sum(-1, keepdim=True))
        return changes, torch.einsum("bnRCijk,bnRCije->bnRCke", weights, gradient)

"""How much a problem magnifies roundings that no backend can avoid, from the sizes of what is summed.

A rounding of a logit is a relative error of its weight, and it grows with the logit. And the gradient of a logit,
``weight * (product - mean)``, is a difference: where one key has all the weight, or where the terms of a sum over
queries cancel, little is left of large terms, each of which was rounded. What a rounding of every term makes of such a
sum, the terms being independent, is the root of the sum of their squares.
"""

from dataclasses import replace

import torch
from torch import Tensor

from halobench.attention import formula
from halobench.cases.operator_call import Call

USUAL_LOGIT = 8.0
"""The magnitude of a logit that the floors of ``accuracy`` are made for."""
USUAL_SUM = 3.0
"""And how many times a gradient the sum of its terms, nothing cancelling, may be: standard normal inputs stay below."""


def logits_and_sums(call: Call) -> tuple[float, dict[str, float]]:
    """The largest logit that has weight, and what each gradient would be in the 2-norm if nothing cancelled.

    The call is in float64, block and stride dividing one another. A query's logit is the root of the mean square,
    weighted as the softmax weights its keys. There are sums for query, key and tables.
    """
    tensors, geometry = call.tensors, call.geometry
    scale = tensors["query"].shape[-1] ** -0.5
    values = formula.strided_windows(tensors["value"], geometry)
    gradients = formula.blocks(call.cotangent, geometry)
    logits = scored(call) * scale
    height, width = tensors["key"].shape[2:4]
    weights = formula.hide(logits, height, width, geometry).flatten(-2).softmax(-1).view_as(logits)
    outputs = torch.einsum("bnRCijyx,bnRCyxe->bnRCije", weights, values)
    products = torch.einsum("bnRCije,bnRCyxe->bnRCijyx", gradients, values)
    means = (gradients * outputs).square().sum(-1)[..., None, None]
    squares = weights.square() * (products.square() + means) * scale**2
    # The products of queries with keys and tables are linear in each: squared terms are summed by their own gradient.
    leaves = {name: tensor.square().requires_grad_() for name, tensor in tensors.items() if name != "value"}
    summed = torch.autograd.grad(scored(replace(call, tensors=leaves)), list(leaves.values()), squares)
    largest = (weights * logits.square()).sum((-2, -1)).amax() if logits.numel() else torch.zeros(())
    return float(largest.sqrt()), {name: float(each.sum().sqrt()) for name, each in zip(leaves, summed, strict=True)}


def scored(call: Call) -> Tensor:
    """The unscaled products of a call's queries with keys and tables."""
    queries = formula.blocks(call.tensors["query"], call.geometry)
    keys = formula.strided_windows(call.tensors["key"], call.geometry)
    return formula.scores(queries, keys, call.relative, call.geometry)

"""One call of an operator as numbers: its inputs by name, its cotangent, and what anything makes of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halobench.attention import formula
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Attend, RelativeTables

OUTPUT = "output"
Meaning = Callable[[RelativeTables | None, Geometry, int, int], tuple[RelativeTables | None, Geometry]]


@dataclass(frozen=True)
class Call:
    """The tensors of a call by name, as ``Inputs.tensors``, and the gradient of its output."""

    tensors: dict[str, Tensor]
    cotangent: Tensor
    geometry: Geometry

    @property
    def relative(self) -> RelativeTables | None:
        """The tables, if there are any."""
        return RelativeTables(self.tensors["rows"], self.tensors["columns"]) if "rows" in self.tensors else None

    def to(self, dtype: torch.dtype) -> "Call":
        """The same numbers in another dtype."""
        tensors = {name: tensor.detach().to(dtype) for name, tensor in self.tensors.items()}
        return Call(tensors, self.cotangent.to(dtype), self.geometry)

    def meant(self, meaning: Meaning) -> "Call":
        """In float64, with the tables and the geometry that a backend means, as the formula knows them."""
        exact = self.to(torch.float64)
        key = exact.tensors["key"]
        relative, geometry = meaning(exact.relative, self.geometry, key.shape[2], key.shape[3])
        query, tiled = on_every_pixel(exact.tensors["query"], key, geometry)
        cotangent, _ = on_every_pixel(exact.cotangent, key, geometry)
        tables = {} if relative is None else relative._asdict()
        return Call({"query": query, "key": key, "value": exact.tensors["value"], **tables}, cotangent, tiled)

    def results(self, attend: Attend | None) -> dict[str, Tensor]:
        """The output and the gradients of all tensors; the output alone where it has not the cotangent's form."""
        assert attend is not None
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in self.tensors.items()}
        relative = replace(self, tensors=leaves).relative
        output = attend(leaves["query"], leaves["key"], leaves["value"], relative, self.geometry)
        if output.shape != self.cotangent.shape or output.dtype != self.cotangent.dtype:
            return {OUTPUT: output.detach()}
        gradients = torch.autograd.grad(output, list(leaves.values()), self.cotangent)
        return {OUTPUT: output.detach(), **dict(zip(leaves, gradients, strict=True))}


def yardstick(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative: RelativeTables | None,
    geometry: Geometry,
    attend: Attend = formula.attend,
) -> Tensor:
    """The readable formula, or another spelling of it, for every geometry."""
    stride = geometry.stride
    every, geometry = on_every_pixel(query, key, geometry)
    output = attend(every, key, value, relative, geometry)
    return output if geometry.stride == stride else output[:, :, ::stride, ::stride]


def on_every_pixel(queries: Tensor, key: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
    """What belongs to queries, and the geometry, as the formula knows them.

    Where block and stride do not divide one another, blocks hold different numbers of queries, and the formula refuses;
    then there is a query on every pixel, and those that nobody asked for are zero.
    """
    if geometry.tiles:
        return queries, geometry
    height, width = geometry.own_rows(key.shape[2]), geometry.own_columns(key.shape[3])
    every = queries.new_zeros(*key.shape[:2], height, width, queries.shape[-1])
    every[:, :, :: geometry.stride, :: geometry.stride] = queries
    return every, replace(geometry, stride=1)

"""A trial's tensors: numbers of a magnitude, in a layout, in memory that otherwise holds NaN.

Layouts of a tensor (batch, heads, height, width, dim):

- ``heads_last``: pixels hold their heads side by side, as a channels-last layer makes them;
- ``packed``: the same, queries, keys and values being parts of one projection, queries every ``stride``-th pixel of it;
- ``contiguous``: as the axes are named;
- ``padded``: ``heads_last``, cut out of a larger map;
- ``transposed``: dims are farthest apart in memory;
- ``offset``: ``heads_last``, one number behind where memory is aligned;
- ``expanded``: all images are the same memory (tables: all entries).

Tables are contiguous, but transposed, offset or expanded where the maps are. Around and between what a tensor names
lies NaN: a number that a backend should not have read shows.

Magnitudes. All numbers are standard normal, but ``tiny``: queries, keys and tables of 1e-3; ``large_*``: that tensor
times 30, so that logits reach hundreds, or outputs do; ``huge_key``: one number of the keys is 1000. Cotangents:
``tiny`` is 1e-3 and ``large`` 30 times standard, ``one_pixel`` is zero but for one query, ``zero`` is zero.

What a magnitude can show depends on the yardstick, the readable formula at the same dtype. With standard and tiny
numbers it is good to a few roundings, and every wrong index shows. In half precision its logits of hundreds are rounded
to units: there the budget is wide, and what shows is overflow, NaN, and a wrong maximum. Only one factor of a product
is large, because the formula rounds products before it scales them: in float16 two would overflow it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halobench.attention.problem import Inputs, RelativeTables
from halobench.fuzz.draw import Cotangent, Layout, Magnitude, Trial

LARGE, TINY, HUGE = 30.0, 1e-3, 1000.0
SCALES: dict[Magnitude, dict[str, float]] = {
    "standard": {},
    "tiny": {"query": TINY, "key": TINY, "rows": TINY, "columns": TINY},
    "large_query": {"query": LARGE},
    "large_key": {"key": LARGE},
    "large_tables": {"rows": LARGE, "columns": LARGE},
    "large_value": {"value": LARGE},
    "huge_key": {},
}
COTANGENT_SCALES: dict[Cotangent, float] = {"standard": 1, "tiny": TINY, "large": LARGE, "one_pixel": 1, "zero": 0}


@dataclass(frozen=True)
class Laid:
    """A trial's tensors on a device, and the memory they lie in."""

    inputs: Inputs
    cotangent: Tensor
    memory: tuple[Tensor, ...]


def lay(trial: Trial, device: torch.device | str) -> Laid:
    """The tensors of a trial: equal numbers on every device."""
    problem = trial.problem
    tensors = {name: tensor.detach() for name, tensor in problem.inputs("cpu", seed=trial.seed).tensors.items()}
    for name, scale in SCALES[trial.magnitude].items():
        if name in tensors:
            tensors[name] = tensors[name] * scale
    if trial.magnitude == "huge_key" and tensors["key"].numel():
        batch, heads, height, width, dim = tensors["key"].shape
        tensors["key"][batch // 2, heads // 2, height // 2, width // 2, dim // 2] = HUGE
    shaped = replace(problem, key_dim=problem.value_dim, relative=False)
    cotangent = shaped.inputs("cpu", seed=trial.seed + 1).query * COTANGENT_SCALES[trial.cotangent]
    if trial.cotangent == "one_pixel":
        chosen = torch.zeros_like(cotangent)
        chosen[-1:, -1:, -1:, -1:] = cotangent[-1:, -1:, -1:, -1:]
        cotangent = chosen

    memory: list[Tensor] = []
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    maps = ("query", "key", "value")
    if trial.layout == "packed":
        placed = packed({name: tensors[name] for name in maps}, problem.geometry.stride, memory)
    else:
        placed = {name: place(tensors[name], trial.layout, memory) for name in maps}
    relative = None
    if problem.relative:
        relative = RelativeTables(*(place(tensors[name], trial.layout, memory) for name in RelativeTables._fields))
    inputs = Inputs(placed["query"], placed["key"], placed["value"], relative)
    laid = place(cotangent.to(device), trial.cotangent_layout, memory)
    return Laid(inputs, laid, tuple(memory))


def place(tensor: Tensor, layout: Layout, memory: list[Tensor]) -> Tensor:
    """A copy of the tensor in this layout; ``memory`` gets what it lies in."""
    rank = tensor.dim()
    order = list(range(rank))  # of the axes in memory, the farthest apart first
    if layout == "transposed":
        order = [*range(rank - 3), *reversed(range(max(rank - 3, 0), rank))]
    elif rank == 5 and layout != "contiguous":
        order = [0, 2, 3, 1, 4]
    shape = [tensor.shape[axis] for axis in order]
    starts = [0] * rank
    if layout == "padded" and rank == 5:
        shape[1], shape[2], starts = shape[1] + 3, shape[2] + 2, [0, 1, 2, 0, 0]
    if layout == "expanded":
        shape[0] = min(shape[0], 1)
    numbers = 1
    for size in shape:
        numbers *= size
    margin = 64  # numbers on each side: whole 128 bytes
    before = margin + (layout == "offset")
    held = tensor.new_full((before + numbers + margin,), torch.nan)
    memory.append(held)
    room = held[before : before + numbers].view(shape)
    for axis, start in enumerate(starts):
        if layout != "expanded":
            room = room.narrow(axis, start, tensor.shape[order[axis]])
    back = [order.index(axis) for axis in range(rank)]
    room = room.permute(back)
    room.copy_(tensor[:1] if layout == "expanded" else tensor)
    return room.expand(tensor.shape) if layout == "expanded" else room


def packed(tensors: dict[str, Tensor], stride: int, memory: list[Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values as parts of one (batch, height, width, heads * (2 key_dim + value_dim))."""
    batch, heads, height, width, _ = tensors["key"].shape
    widths = [heads * tensor.shape[-1] for tensor in tensors.values()]
    whole = tensors["key"].new_full((batch, height, width, sum(widths)), torch.nan)
    memory.append(whole)
    placed = {}
    for (name, tensor), part in zip(tensors.items(), whole.split(widths, -1), strict=True):
        view = part.unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)
        view = view[:, :, ::stride, ::stride] if name == "query" else view
        placed[name] = view.copy_(tensor)
    return placed

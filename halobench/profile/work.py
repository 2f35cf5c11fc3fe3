"""What each operation of a call reads, writes and computes, counted as PyTorch dispatches it.

A pass of its own: nothing is timed while it runs. Kernels that no operation of PyTorch launches, as those of a
compiler, are not seen, and what a fused operation moves inside itself is not either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

FUSED_ATTENTION = "aten::_scaled_dot_product_"
FLASH = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001 - the operator's name
ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_backward  # noqa: SLF001
ON_CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001
UNREGISTERED = {ON_CPU: flop_registry[FLASH], ON_CPU_BACKWARD: flop_registry[FLASH_BACKWARD]}
EXPONENTIAL = ("aten::exp", "aten::exp2", "aten::_softmax", "aten::_safe_softmax", "aten::_log_softmax")


@dataclass(frozen=True)
class Work:
    """Bytes that a call must move, FLOPs of its products (a multiply-add is two), and its exponentials."""

    bytes: float = 0
    flops: float = 0
    exponentials: float = 0

    def __add__(self, other: "Work") -> "Work":
        """The work of one after the other."""
        return Work(self.bytes + other.bytes, self.flops + other.flops, self.exponentials + other.exponentials)


NOTHING = ("aten::empty", "aten::new_empty", "aten::detach", "aten::alias", "aten::_unsafe_view", "aten::lift_fresh")
Operations = list[tuple[str, Work]]


class Counting(TorchDispatchMode):
    """Notes the name and the work of every operation, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Operations = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note its work."""
        result = func(*args, **(kwargs or {}))
        self.operations.append((func._schema.name, work(func, args, kwargs or {}, result)))  # noqa: SLF001 - as torch's own modes
        return result


def count(call: Callable[[], object]) -> Operations:
    """The operations of one call."""
    counting = Counting()
    with counting:
        call()
    return counting.operations


def work(func: Any, args: Any, kwargs: Any, result: Any) -> Work:
    """The work of one operation. A view and an allocation move nothing."""
    name = func._schema.name  # noqa: SLF001 - as torch's own modes
    if func.is_view or name.startswith(NOTHING):
        return Work()
    tensors = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
    packet = func._overloadpacket  # noqa: SLF001 - as torch's own modes
    formula = flop_registry.get(packet) or UNREGISTERED.get(packet)
    flops = formula(*args, **kwargs, out_val=result) if formula else 0
    return Work(sum(size(tensor) for tensor in tensors.values()), flops, exponentials(name, args, result))


def exponentials(name: str, args: Any, result: Any) -> int:
    """The exponentials of an operation; a fused attention's are its scores, backward once more."""
    if name in EXPONENTIAL:
        return prod(result.shape)
    if not name.startswith(FUSED_ATTENTION):
        return 0
    query, key = args[1:3] if name.endswith("_backward") else args[:2]
    return int(prod(query.shape[:-1]) * key.shape[-2])


def size(tensor: Tensor) -> int:
    """Bytes behind a tensor; overlapping windows of it are stored once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def total(operations: Operations) -> Work:
    """The work of all operations together."""
    return sum((one for _, one in operations), Work())


def countable(call: Callable[[], object]) -> Operations | None:
    """``count``, or ``None`` where an operation cannot run under a dispatch mode, as those of a compiler."""
    try:
        return count(call)
    except (NotImplementedError, RuntimeError, TypeError):
        return None

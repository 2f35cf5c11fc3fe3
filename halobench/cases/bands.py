"""Guard bands: a tensor between two stretches of memory that nobody may write to, and nobody should read.

The bands hold bytes of ones, which is NaN in every floating dtype: a kernel that reads beyond its input and counts on
what it finds there computes NaN.
"""

import torch
from torch import Tensor

BAND_BYTES = 2**16  # whole pages: what lies between the bands is aligned as an allocation of its own
PATTERN = 0xFF


def surrounded(tensor: Tensor) -> Tensor:
    """A copy with the same shape and strides between two bands of its own; not a view, as far as PyTorch can tell."""
    buffer = torch.full((2 * BAND_BYTES + span_bytes(tensor),), PATTERN, dtype=torch.uint8, device=tensor.device)
    copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    copy.set_(buffer.untyped_storage(), BAND_BYTES // tensor.element_size(), tensor.shape, tensor.stride())
    return copy.copy_(tensor.detach())


def span_bytes(tensor: Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last."""
    if tensor.numel() == 0:
        return 0
    steps = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + sum(steps)) * tensor.element_size()


def trespassed(tensors: dict[str, Tensor]) -> str | None:
    """The name of a tensor beside which something was written, within the memory that it was allocated with."""
    for name, tensor in tensors.items():
        memory = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
        first = tensor.storage_offset() * tensor.element_size()
        if not all((band == PATTERN).all() for band in (memory[:first], memory[first + span_bytes(tensor) :])):
            return name
    return None

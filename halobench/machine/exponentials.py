"""A Triton kernel that does nothing but exponentials, to measure how many a GPU can do."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROUNDS = 256
BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def exponentials(numbers, results, rounds: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Apply x -> 2^-x ``rounds`` times: each exponential needs the one before, so none can be left out."""
    offsets = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.load(numbers + offsets)
    for _ in tl.static_range(rounds):
        value = tl.exp2(-value)
    tl.store(results + offsets, value)


def repeat_exp2(numbers: Tensor) -> Tensor:
    """``ROUNDS`` dependent exponentials of each number; the numbers a float32 vector, a multiple of 1024 long."""
    results = torch.empty_like(numbers)
    exponentials[(numbers.numel() // BLOCK,)](numbers, results, ROUNDS, BLOCK)
    return results

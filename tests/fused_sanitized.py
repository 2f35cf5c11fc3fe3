"""A few small calls of the fused kernels for compute-sanitizer, which watches their memory: ``tox -e sanitize``.

Whole and partial blocks, strides, windows beyond the map, odd heads; forward and backward, in bfloat16 and float32.
"""

import torch

from halobench import backends
from tests.cases import problem

CASES = (
    "whole_blocks",
    "partial_blocks",
    "stride_2_partial",
    "stride_2_odd_block",
    "sasa",
    "halo_beyond_map",
    "odd_heads",
)


def main() -> None:
    attend = backends.load("fused").attend
    assert attend is not None
    for name in CASES:
        for border in ("masked", "zero"):
            for dtype in ("bfloat16", "float32"):
                task = problem(name, border, dtype)
                inputs = task.inputs("cuda", requires_grad=True)
                output = attend(*inputs, task.geometry)
                gradients = torch.autograd.grad(output, list(inputs.tensors.values()), torch.ones_like(output))
                assert all(tensor.isfinite().all() for tensor in (output, *gradients)), (name, border, dtype)


if __name__ == "__main__":
    main()

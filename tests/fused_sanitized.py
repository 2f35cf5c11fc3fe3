"""A few small calls of our own kernels for compute-sanitizer, which watches their memory: ``tox -e sanitize``.

Whole and partial blocks, strides, windows beyond the map and wide ones, heads of odd widths; forward and backward, in
bfloat16 and float32.
What a backend refuses is named. ``python -m tests.fused_sanitized fused_cuda`` calls one backend alone.
"""

import sys

import torch

from halobench import Unsupported, backends
from tests.cases import problem

CASES = (
    "whole_blocks",
    "partial_blocks",
    "stride_2_partial",
    "stride_2_odd_block",
    "sasa",
    "halo_beyond_map",
    "wide_window",
    "wide_values",
    "odd_heads",
)


def main() -> None:
    for name in sys.argv[1:] or ("fused", "fused_cuda"):
        for case in CASES:
            for border in ("masked", "zero"):
                for dtype in ("bfloat16", "float32"):
                    call(name, case, border, dtype)


def call(name: str, case: str, border: str, dtype: str) -> None:
    """Attend and differentiate once."""
    attend = backends.load(name).attend
    assert attend is not None
    task = problem(case, border, dtype)
    inputs = task.inputs("cuda", requires_grad=True)
    try:
        output = attend(*inputs, task.geometry)
    except Unsupported as refusal:
        sys.stdout.write(f"{name} {case} {border} {dtype} refused: {refusal}\n")
        return
    gradients = torch.autograd.grad(output, list(inputs.tensors.values()), torch.ones_like(output))
    assert all(tensor.isfinite().all() for tensor in (output, *gradients)), (name, case, border, dtype)
    sys.stdout.write(f"{name} {case} {border} {dtype} called\n")


if __name__ == "__main__":
    main()

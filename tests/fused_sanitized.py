"""Small calls of our own kernels for compute-sanitizer, which watches their memory: ``tox -e sanitize``.

Chosen cases (whole and partial blocks, strides, windows beyond the map and wide ones, heads of odd widths) under both
borders in bfloat16 and float32; shapes on which Triton's kernels once went wrong; and drawn ones. Forward and backward.
What a backend refuses is named. ``python -m tests.fused_sanitized fused_cuda --seed 3`` calls one backend alone, with
other drawn problems.

Tensors are allocated one by one, without the guard that the fuzzer puts around them, so that the sanitizer sees every
access beside them. The calls take the kernels less than a tenth of a second; compiling them and watching them takes
the time.
"""

import argparse
import sys
from collections.abc import Iterator

import torch

from halobench import Geometry, Problem, Unsupported, backends
from halobench.fuzz import draw
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
ONCE_WRONG = (
    Problem(Geometry(6, 4), 45, 14, 1, 8, 24, 160, dtype="bfloat16"),
    Problem(Geometry(6, 6, 1, "zero"), 20, 28, 3, 1, 24, 80, dtype="float16"),
    Problem(Geometry(7, 3, 2), 30, 5, 3, 1, 24, 160, dtype="bfloat16"),
    Problem(Geometry(8, 4), 4, 2, 1, 1, 24, 160, dtype="bfloat16"),
    Problem(Geometry(13, 3, 2), 20, 27, 3, 8, 8, 32, dtype="bfloat16"),
    Problem(Geometry(15, 5, 2), 40, 37, 3, 1, 16, 24, dtype="bfloat16"),
    Problem(Geometry(14, 5, 2, "zero"), 3, 27, 1, 3, 8, 40, dtype="bfloat16"),
    Problem(Geometry(15, 5, 2, "zero"), 17, 1, 1, 8, 24, 40, dtype="float16"),
    Problem(Geometry(9, 2, 2), 31, 31, 2, 5, 16, 24, dtype="bfloat16"),
    Problem(Geometry(16, 5), 1, 25, 2, 8, 64, 160, dtype="float16"),
)
DRAWN = 20
MOST_PAIRS = 2**17  # of a drawn problem: the sanitizer slows kernels down a hundredfold and more


def main() -> None:
    command = argparse.ArgumentParser(description="Call our own kernels on small problems, under compute-sanitizer.")
    command.add_argument("backends", nargs="*", default=("fused", "fused_cuda"), help="default: fused and fused_cuda")
    command.add_argument("--seed", type=int, default=0, help="of the drawn problems (default: 0)")
    options = command.parse_args()
    for name in options.backends:
        for task in chosen():
            call(name, task)
        tasks = drawn(options.seed)
        for _ in range(DRAWN):
            while not call(name, next(tasks)):
                pass


def chosen() -> Iterator[Problem]:
    """The cases under both borders and two dtypes, and the shapes that once went wrong."""
    for case in CASES:
        for border in ("masked", "zero"):
            for dtype in ("bfloat16", "float32"):
                yield problem(case, border, dtype)
    yield from ONCE_WRONG


def drawn(seed: int) -> Iterator[Problem]:
    """Small problems without end, as the fuzzer draws them: a family each."""
    number = 0
    while True:
        task = draw.trial(seed, draw.family(seed, number, draw.DTYPES[:3]), 0).problem
        if draw.scored_pairs(task) <= MOST_PAIRS:
            yield task
        number += 1


def call(name: str, task: Problem) -> bool:
    """Attend and differentiate once; whether the backend did not refuse."""
    attend = backends.load(name).attend
    assert attend is not None
    inputs = task.inputs("cuda", requires_grad=True)
    try:
        output = attend(*inputs, task.geometry)
    except Unsupported as refusal:
        sys.stdout.write(f"{name} {task} refused: {refusal}\n")
        return False
    gradients = torch.autograd.grad(output, list(inputs.tensors.values()), torch.ones_like(output))
    assert all(tensor.isfinite().all() for tensor in (output, *gradients)), (name, task)
    sys.stdout.write(f"{name} {task} called\n")
    return True


if __name__ == "__main__":
    main()

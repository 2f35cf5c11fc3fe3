"""Fused CUDA: our kernels in CUDA C++ for windows of up to 24 pixels (33 with their block), in half precision.

Nothing of the size queries x keys reaches memory: the forward pass stores the output and one log-sum-exp per query and
head. Three kernels (``forward.cu``, ``query_gradient.cu``, ``key_gradient.cu``) share what ``halo.cuh`` explains; NVRTC
compiles them at the first call with a geometry, in seconds, and the machine code is remembered on disk. On Hopper,
those of ``hopper/`` take their places for blocks of 8 x 8. All are deterministic, always. ``docs/kernels.md`` tells why
they look as they do.
"""

import torch
from halobench.implementations.fused_cuda import launch
from halobench.implementations.fused_cuda.hopper.work import Work, forward_work, key_work, query_work
from halobench.implementations.fused_cuda.operator import TABLE_ROWS, forward
from halobench.implementations.fused_cuda.packed import attend_packed
from halobench.implementations.fused_cuda.shapes import scored_pairs, summed_channels, value_slices
from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Execution, Problem, RelativeTables, refuse_transforms

__all__ = ["attend", "attend_packed", "execution"]


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention in one kernel; arguments and result as ``formula.attend``, the result channels-last in memory.

    Raises:
        Unsupported: no GPU of compute capability 8.0, or a call outside the class that ``shapes.shape_of`` describes,
            or one that ``layouts.served`` finds no room for, or a transform of ``torch.func``.
    """
    refuse_transforms("fused_cuda")
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        relative = None if relative is None else RelativeTables(*(table.to(dtype) for table in relative))
    rows, columns = (None, None) if relative is None else relative
    output: Tensor = forward(
        query, key, value, rows, columns, geometry.block, geometry.halo, geometry.stride, geometry.border
    )[0]
    return output


def execution(problem: Problem) -> Execution:
    """Rows of the window that lie in the image are scored, each in whole octets of keys, for each part of the values.

    Backward scores twice: by queries, and by keys. On Hopper, its kernels' work where they serve the problem.
    """
    geometry, slices = problem.geometry, value_slices(problem.value_dim)
    pairs = problem.batch * problem.heads * scored_pairs(geometry, problem.height, problem.width)
    scores, sums = 2 * slices * problem.key_dim * pairs, 2 * summed_channels(problem.value_dim) * pairs
    bias_flops = 2 * slices * problem.queries * 2 * TABLE_ROWS * problem.key_dim if problem.relative else 0
    once = Work(scores + sums + bias_flops, slices * pairs)
    by_queries = Work(2 * scores + sums + 3 * bias_flops, slices * pairs)
    by_keys = Work(2 * scores + 2 * sums, slices * pairs)
    if launch.here():
        once = forward_work(problem) or once
        by_queries, by_keys = query_work(problem) or by_queries, key_work(problem) or by_keys
    return Execution(
        forward_flops=once.flops,
        backward_flops=by_queries.flops + by_keys.flops,
        forward_exponentials=once.exponentials,
        backward_exponentials=by_queries.exponentials + by_keys.exponentials,
        stored=2 * problem.queries,  # a log-sum-exp in float32 is two elements
    )

"""The cost of ``fused_cuda`` in closed form, as the kernels of the current device have it."""

from halobench.implementations.fused_cuda import launch
from halobench.implementations.fused_cuda.hopper.work import Work, forward_work, key_work, query_work
from halobench.implementations.fused_cuda.shapes import TABLE_ROWS, scored_pairs, summed_channels, value_slices

from halobench.attention.problem import Execution, Problem


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

"""The cost of ``fused_cuda`` in closed form, as the kernels of the current device have it."""

from halobench.implementations.fused_cuda import launch
from halobench.implementations.fused_cuda.hopper.work import Work, forward_work, key_work, query_work
from halobench.implementations.fused_cuda.shapes import TABLE_ROWS, Kernel, scored_pairs, summed_channels, value_slices

from halobench.attention.problem import Execution, Problem

ON_HOPPER = {"forward": forward_work, "query_gradient": query_work, "key_gradient": key_work}


def execution(problem: Problem) -> Execution:
    """Rows of the window that lie in the image are scored, each in whole octets of keys, for each part of the values.

    Backward scores twice: by queries, and by keys. On Hopper, its kernels' work where they serve the problem.
    """
    geometry, slices = problem.geometry, value_slices(problem.value_dim)
    pairs = problem.batch * problem.heads * scored_pairs(geometry, problem.height, problem.width)
    scores, sums = 2 * slices * problem.key_dim * pairs, 2 * summed_channels(problem.value_dim) * pairs
    bias_flops = 2 * slices * problem.queries * 2 * TABLE_ROWS * problem.key_dim if problem.relative else 0
    on_hopper = launch.here()

    def taken(name: Kernel, plain: Work) -> tuple[str, Work]:
        """The kernel that serves a pass, and what it executes."""
        found = ON_HOPPER[name](problem) if on_hopper else None
        return (f"hopper/{name}", found) if found else (name, plain)

    forward, once = taken("forward", Work(scores + sums + bias_flops, slices * pairs))
    query, by_queries = taken("query_gradient", Work(2 * scores + sums + 3 * bias_flops, slices * pairs))
    key, by_keys = taken("key_gradient", Work(2 * scores + 2 * sums, slices * pairs))
    return Execution(
        forward_flops=once.flops,
        backward_flops=by_queries.flops + by_keys.flops,
        forward_exponentials=once.exponentials,
        backward_exponentials=by_queries.exponentials + by_keys.exponentials,
        stored=2 * problem.queries,  # a log-sum-exp in float32 is two elements
        forward_kernels=(forward,),
        backward_kernels=(query, key),
    )

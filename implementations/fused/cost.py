"""What the kernels execute, in closed form: whole tiles, padded heads, both recomputations of the backward pass."""

from halobench.implementations.fused.tiles import key_tiles, scored, tiling

from halobench.attention.problem import Execution, Problem

FLOAT32_BYTES = 4


def execution(problem: Problem, *, tables: bool = True) -> Execution:
    """The products of the three kernels, tile by tile; ``tables`` says whether the tables' gradients are wanted.

    Both backward kernels score their pairs again: the one over keys (five products, three of them again), and the one
    over queries. The forward pass stores a log-sum-exp in float32 for each query.
    """
    geometry = problem.geometry
    cut = tiling(geometry, problem.key_dim, problem.value_dim, problem.torch_dtype.itemsize)
    images, dims = problem.batch * problem.heads, cut.key_dim + cut.value_dim
    rows_beyond, columns_beyond = (geometry.above, geometry.below), (geometry.left, geometry.right)
    tile_rows, row_steps = scored(geometry, problem.height, cut.walked.rows, cut.height, *rows_beyond)
    tile_columns, column_steps = scored(geometry, problem.width, cut.walked.columns, cut.width, *columns_beyond)
    pairs = images * row_steps * column_steps * cut.queries * cut.walked.rows * cut.walked.columns
    # Terms of the columns once for each tile of columns, terms of the rows at every step.
    row_terms = 2 * images * row_steps * column_steps * cut.queries * cut.walked.row_span * cut.key_dim
    column_terms = 2 * images * tile_rows * column_steps * cut.queries * cut.walked.column_span * cut.key_dim
    forward_terms = (row_terms + column_terms) * problem.relative
    # Their gradients go to the queries and, if wanted, to the tables: those of rows at the end where they are held.
    held_terms = 2 * images * tile_rows * tile_columns * cut.queries * cut.held_span * cut.key_dim
    sent_on = ((held_terms if cut.held_rows else row_terms) + column_terms) * problem.relative
    query_kernel = 2 * (dims + cut.key_dim) * pairs + forward_terms + (2 if tables else 1) * sent_on

    down = key_tiles(geometry, problem.height, cut.owned.rows, cut.height, *rows_beyond)
    across = key_tiles(geometry, problem.width, cut.owned.columns, cut.width, *columns_beyond)
    visits = images * down.visits * across.visits
    repeated = visits * cut.queries * cut.owned.rows * cut.owned.columns
    spans = 2 * visits * cut.queries * (cut.owned.row_span + cut.owned.column_span) * cut.key_dim * problem.relative
    key_kernel = 4 * dims * repeated + spans
    return Execution(
        forward_flops=2 * dims * pairs + forward_terms,
        backward_flops=query_kernel + key_kernel,
        forward_exponentials=pairs,
        backward_exponentials=pairs + repeated,
        stored=problem.queries * FLOAT32_BYTES // problem.torch_dtype.itemsize,
    )

"""SDPA: windows folded into the batch of PyTorch's ``scaled_dot_product_attention``.

Each block is an attention problem of its own: its queries against the keys of its window. Relative positions and the
border ride along in the head dimension (``halobench.attention.folding``) instead of an attention mask, so the fused
kernels apply and no score matrix reaches memory; what remains is the copy of overlapping windows.
"""

from torch import Tensor

from halobench.attention import formula
from halobench.attention.compilation import exporting
from halobench.attention.folding import fold, folded_dim, fused_attention
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Execution, Problem, RelativeTables
from halobench.attention.tokens import Tokens

strips = True


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention, one batch entry of ``scaled_dot_product_attention`` per block and head."""
    if exporting():
        return attend_tokens(query, key, value, relative, geometry)
    height, width = key.shape[2:4]
    queries = formula.blocks(query, geometry)  # [b n R C i j d]
    keys, values = formula.strided_windows(key, geometry), formula.strided_windows(value, geometry)
    vectors = None if relative is None else formula.offset_tables(relative, geometry)
    visible = None
    if needs_mask(geometry, height, width):
        inside = formula.inside_image(height, width, geometry, query.device)  # [R C y x]
        # The image is a rectangle: rows and columns suffice.
        visible = inside.any(3)[:, 0][:, None, None, None], inside.any(2)[0][:, None, None]
    queries, keys = fold(queries, keys, vectors, visible)
    output = fused_attention(
        queries.flatten(4, 5), keys.flatten(4, 5), values.flatten(4, 5), scale=query.shape[-1] ** -0.5
    )
    return formula.unblock(output.unflatten(4, (geometry.side, geometry.side)), query.shape[2], query.shape[3])


def attend_tokens(
    query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
) -> Tensor:
    """The same of maps whose sizes are symbols (``halobench.attention.tokens``), for ``torch.export``."""
    formula.check_tiles(geometry)
    tokens, side, window = Tokens.of(query, geometry), geometry.side, geometry.window
    queries = tokens.queries(query).unflatten(1, (1, 1, 1, side, side))  # [B 1 1 1 i j d]
    keys = tokens.windows(key).unflatten(1, (1, 1, 1, window, window))
    vectors = None if relative is None else formula.offset_tables(relative, geometry)
    visible = None
    if geometry.border == "masked":
        inside = tokens.visible(key).unflatten(1, (1, 1, 1, 1, window, window))  # [B 1 1 1 1 y x]
        visible = inside.any(-1).unsqueeze(-2), inside.any(-2).unsqueeze(-2)
    queries, keys = fold(queries, keys, vectors, visible)
    scale = query.shape[-1] ** -0.5
    return tokens.join(fused_attention(queries.flatten(1, 5), keys.flatten(1, 5), tokens.windows(value), scale))


def needs_mask(geometry: Geometry, height: int, width: int) -> bool:
    """Whether any window holds a pixel outside the image that must not count."""
    own = geometry.own_rows(height), geometry.own_columns(width)
    whole = geometry.halo == 0 and not any(size % geometry.block for size in own)
    return geometry.border == "masked" and not whole


def execution(problem: Problem) -> Execution:
    """Full windows are scored at the folded head dimension; windows are stored, scores are not."""
    geometry, pairs = problem.geometry, problem.window_pairs
    queries = pairs // geometry.window**2
    needed = problem.relative or needs_mask(geometry, problem.height, problem.width)
    dim = folded_dim(problem.key_dim, geometry.window, geometry.window, needed=needed)
    bias_flops = 2 * 2 * queries * geometry.window * problem.key_dim if problem.relative else 0
    windows = queries // geometry.side**2 * geometry.window**2 * (dim + problem.value_dim)
    return Execution.of_pairs(
        problem, pairs, score_dim=dim, bias_flops=bias_flops, stored=windows + queries * dim, recomputes=True
    )

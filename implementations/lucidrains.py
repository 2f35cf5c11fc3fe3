"""lucidrains: the attention of ``halonet_pytorch.HaloAttention``, run as its author wrote it, behind our interface.

Its projections are replaced by modules that hand over the given query, key and value; everything after them is the
package's own code. Release 0.0.5 masks the border correctly; before it, the mask was inverted.
"""

from functools import lru_cache

import torch
from halonet_pytorch import HaloAttention
from torch import Tensor, nn

from halobench.attention import formula
from halobench.attention.geometry import Geometry
from halobench.attention.layer import Given
from halobench.attention.problem import Execution, Problem, RelativeTables, Unsupported

borders = ("masked",)


class Positions(nn.Module):
    """The package's relative logits from given tables instead of learned ones."""

    def __init__(self, learned: nn.Module) -> None:
        super().__init__()
        self.learned = learned

    def forward(self, queries: Tensor) -> Tensor:
        """Relative logits of the blocked queries."""
        return torch.func.functional_call(self.learned, self.tables, (queries,))


@lru_cache(maxsize=1)
def layer(heads: int, dim: int, geometry: Geometry) -> HaloAttention:
    """The package's layer of this shape, its projections replaced."""
    attention = HaloAttention(
        dim=2 * heads * dim, block_size=geometry.block, halo_size=geometry.halo, dim_head=dim, heads=heads
    )
    attention.to_q, attention.to_kv, attention.to_out = Given(), nn.Identity(), nn.Identity()
    attention.rel_pos_emb = Positions(attention.rel_pos_emb)
    return attention


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention through ``HaloAttention.forward``.

    Raises:
        Unsupported: what the package's layer cannot express.
    """
    refuse(key, value, relative, geometry)
    assert relative is not None
    heads, dim = key.shape[1], key.shape[-1]
    attention = layer(heads, dim, geometry)
    queries = formula.blocks(query, geometry)  # [b n R C i j d]
    # The package scales the queries in place, so it gets a copy of its own.
    attention.to_q.tensor = queries.permute(0, 2, 3, 4, 5, 1, 6).flatten(5).flatten(3, 4).flatten(0, 2).clone()
    tables = {"rel_height": relative.rows, "rel_width": relative.columns}
    attention.rel_pos_emb.tables = {name: table.roll(geometry.halo, 0) for name, table in tables.items()}
    pixels = torch.stack([key, value], 1)  # [b 2 n H W d]
    output = attention(pixels.permute(0, 1, 2, 5, 3, 4).flatten(1, 3))
    return output.unflatten(1, (heads, dim)).movedim(2, -1)


def refuse(key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> None:
    """Raise ``Unsupported`` for what the package's layer cannot express."""
    height, width = key.shape[2:4]
    if geometry.border != "masked":
        raise Unsupported("halonet-pytorch masks the border: border 'masked' only")
    if relative is None:
        raise Unsupported("halonet-pytorch always has relative positions")
    if geometry.stride != 1:
        raise Unsupported("halonet-pytorch has no strided queries")
    if geometry.halo == 0:
        raise Unsupported("halonet-pytorch needs a halo of at least 1")
    if value.shape[-1] != key.shape[-1]:
        raise Unsupported(f"halonet-pytorch has equal key and value heads, got {key.shape[-1]} and {value.shape[-1]}")
    if height % geometry.block or width % geometry.block:
        raise Unsupported(f"halonet-pytorch needs maps in whole blocks of {geometry.block}, got {height} x {width}")


def execution(problem: Problem) -> Execution:
    """As the formula, but windows are copied twice, and every query is scored against the whole tables."""
    return formula.execution(problem, copies=2, offsets=2 * problem.geometry.window - 1)

"""timm: the attention of ``timm.layers.HaloAttn``, run as its authors wrote it, behind our interface.

The layer's two projections are replaced by modules that hand over the given query, key and value; everything after
them is timm's own code. Its border is ``"zero"``. Its table index counts from the window's corner, ours from the
query, so tables move by ``halo``. Packing key and value head by head, as timm's fused projection lays them out, is
one copy that a real timm layer does not pay.
"""

from functools import lru_cache

import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor
from torch.func import functional_call

from halobench.attention import formula
from halobench.attention.geometry import Geometry
from halobench.attention.layer import Given
from halobench.attention.problem import Execution, Problem, RelativeTables, Unsupported

borders = ("zero",)


@lru_cache(maxsize=1)
def layer(heads: int, key_dim: int, value_dim: int, geometry: Geometry) -> HaloAttn:
    """Timm's layer of this shape, its projections replaced."""
    halo_attn = HaloAttn(
        dim=heads * value_dim,
        num_heads=heads,
        dim_head=key_dim,
        block_size=geometry.block,
        halo_size=geometry.halo,
        scale_pos_embed=True,
    )
    halo_attn.q, halo_attn.kv = Given(), Given()
    return halo_attn


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention through ``HaloAttn.forward``.

    Raises:
        Unsupported: what timm's layer cannot express.
    """
    batch, heads, height, width, key_dim = key.shape
    refuse(key, relative, geometry)
    assert relative is not None
    halo_attn = layer(heads, key_dim, value.shape[-1], geometry)
    halo_attn.q.tensor = channels(query)
    halo_attn.kv.tensor = channels(torch.cat([key, value], -1))
    tables = {"pos_embed.height_rel": relative.rows, "pos_embed.width_rel": relative.columns}
    moved = {name: table.roll(geometry.halo, 0) for name, table in tables.items()}
    output = functional_call(halo_attn, moved, (key.new_empty(batch, 0, height, width),))
    return output.unflatten(1, (heads, -1)).movedim(2, -1)


def channels(pixels: Tensor) -> Tensor:
    """(batch, heads, H, W, dim) -> (batch, heads * dim, H, W), as a projection returns it."""
    return pixels.permute(0, 1, 4, 2, 3).flatten(1, 2)


def refuse(key: Tensor, relative: RelativeTables | None, geometry: Geometry) -> None:
    """Raise ``Unsupported`` for what timm's layer cannot express."""
    batch, height, width = key.shape[0], *key.shape[2:4]
    if batch == 0:
        raise Unsupported("timm's HaloAttn takes no empty batch")
    if geometry.border != "zero":
        raise Unsupported("timm's HaloAttn lets padded keys take part: border 'zero' only")
    if relative is None:
        raise Unsupported("timm's HaloAttn always has relative positions")
    if geometry.stride != 1:
        raise Unsupported("timm's strided HaloAttn indexes positions by the subsampled query, not by true offsets")
    if height % geometry.block or width % geometry.block:
        raise Unsupported(f"timm's HaloAttn needs maps in whole blocks of {geometry.block}, got {height} x {width}")


def execution(problem: Problem) -> Execution:
    """As the formula, but windows are copied twice, and every query is scored against the whole tables."""
    return formula.execution(problem, copies=2, offsets=2 * problem.geometry.window - 1)

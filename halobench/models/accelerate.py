"""Our attention inside a model that timm made: timm's own layers and parameters, computed by any backend.

timm's ``HaloAttn`` lets padded keys take part (border ``"zero"``), refuses maps that are no multiple of the block, and
adds its relative positions unscaled unless told otherwise; all of this an attention layer of ours can express. What it
cannot is timm's strided queries: their positions are looked up by the number of the query, not by the pixel it stands
on.

An accelerated layer is the same object with the same parameters, of another class (``exchange``).
"""

import torch
from timm.layers.halo_attn import HaloAttn, PosEmbedRel
from torch import Tensor, nn

from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.layer import AttentionLayer, hooked
from halobench.attention.problem import Attend, LayerSpec, RelativeTables, Unsupported
from halobench.models.exchange import Acceleration, Exchanged


class AcceleratedPosEmbedRel(Exchanged, PosEmbedRel):
    """timm's ``PosEmbedRel`` inside an accelerated layer, which wants its tables: called, so that its hooks run."""

    original = PosEmbedRel
    reported = False

    def forward(self, q: Tensor | None) -> Tensor:
        """Both tables, rows first (2, 2 * window - 1, key_dim); timm's logits where there are queries."""
        if q is None:
            return torch.stack([self.height_rel, self.width_rel])
        logits: Tensor = super().forward(q)
        return logits


class AcceleratedHaloAttn(Exchanged, AttentionLayer, HaloAttn):
    """timm's ``HaloAttn``, its attention computed by a backend; maps of any size.

    Its parameters are timm's, by name, shape and unit; keys and values come from one projection, head by head. Only
    ``accelerate`` makes one, out of a ``HaloAttn``.
    """

    original = HaloAttn

    def release(self) -> None:
        """Forget backend and specification, and pool as timm does."""
        del self.spec, self.attend
        round_pool(self, up=False)

    def tables(self, dtype: torch.dtype) -> RelativeTables:
        """The tables, as ``attend`` takes them: counted from the query, not from the window's corner, and scaled."""
        both = self.pos_embed(None).roll(-self.halo_size, 1)
        if not self.scale_pos_embed:  # a backend scales positions like the other logits
            both = both * self.dim_head_qk**0.5
        both = both.to(dtype)
        return RelativeTables(both[0], both[1])

    def projections(self) -> tuple[nn.Module, nn.Module]:
        """Of queries; of keys and values."""
        return self.q, self.kv

    def project(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map, (batch, heads, H, W, dim) each."""
        key, value = self.heads(self.kv(pixels)).split([self.dim_head_qk, self.dim_head_v], -1)
        return self.heads(self.q(pixels)), key, value

    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Weights and biases side by side; timm lays those of keys and values out head by head."""

        def beside(query: Tensor, both: Tensor) -> Tensor:
            key, value = both.unflatten(0, (self.num_heads, -1)).split([self.dim_head_qk, self.dim_head_v], 1)
            return torch.cat([query, key.flatten(0, 1), value.flatten(0, 1)])

        weight = beside(self.q.weight, self.kv.weight)
        if self.q.bias is None and self.kv.bias is None:
            return weight, None
        assert self.q.bias is not None
        assert self.kv.bias is not None
        return weight, beside(self.q.bias, self.kv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> (batch, dim_out, H / stride, W / stride).

        Raises:
            Unsupported: the backend refuses the layer.
        """
        output: Tensor = self.pool(super().forward(x))
        return output


def accelerate(model: nn.Module, backend: str = "strided_gather") -> Acceleration:
    """Compute every ``HaloAttn`` in ``model`` (or ``model`` itself) by the backend, in place.

    Parameters are timm's before and after, so that checkpoints of either load into both, and an optimiser made before
    goes on. Called again, it changes the backend; ``restore`` undoes it. A layer that would lose something is kept and
    named: one of a class derived from ``HaloAttn``, with another ``forward`` put in its place or another ``scale``,
    with hooks or parametrisations on ``pos_embed``, or with other modules than timm's inside.

    Raises:
        ValueError: there is no such backend.
        Unsupported: the backend is no attention, or does not know border ``"zero"``.
    """
    chosen = backends.load(backend)
    if chosen.attend is None or "zero" not in chosen.borders:
        raise Unsupported(f"timm's HaloAttn needs attention with border 'zero', which backend {backend!r} is not")
    replaced: list[str] = []
    kept: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, AcceleratedHaloAttn):
            module.attend = chosen.attend
        elif not isinstance(module, HaloAttn):
            continue
        elif reason := obstacle(module):
            kept[name] = reason
            continue
        else:
            exchange(module, chosen.attend)
        replaced.append(name)
    return Acceleration(replaced, kept)


def obstacle(attention: HaloAttn) -> str | None:
    """Why timm's layer has to stay as it is, or ``None``."""
    if type(attention) is not HaloAttn:
        return f"it is a {type(attention).__name__}, derived from HaloAttn, which may compute something else"
    if "forward" in vars(attention) or "forward" in vars(attention.pos_embed):
        return "a forward of its own was put in the place of timm's"
    if attention.block_stride > 1:
        return "its strided queries index positions by query number: no table of true offsets does the same"
    if attention.scale != attention.dim_head_qk**-0.5:
        return f"its scale is {attention.scale:g}, and backends divide logits by the root of the key dim"
    return obstacle_inside(attention)


def obstacle_inside(attention: HaloAttn) -> str | None:
    """Why a layer of timm's has to stay as it is for its modules, or ``None``."""
    positions = attention.pos_embed
    others: list[nn.Module] = [one for one in (attention.q, attention.kv) if not isinstance(one, nn.Conv2d)]
    if type(positions) not in (PosEmbedRel, AcceleratedPosEmbedRel):
        others.append(positions)
    if others:
        return f"a {type(others[0]).__name__} stands in the place of one of its modules"
    if hooked(positions):
        return "its pos_embed has hooks (pruning is one), which would see tables in place of logits"
    return None


def exchange(attention: HaloAttn, attend: Attend) -> None:
    """Let timm's layer, which has no ``obstacle``, compute its attention by ``attend``."""
    attention.__class__, attention.pos_embed.__class__ = AcceleratedHaloAttn, AcceleratedPosEmbedRel
    assert isinstance(attention, AcceleratedHaloAttn)
    attention.attend = attend
    attention.spec = LayerSpec(
        channels=attention.q.in_channels,
        heads=attention.num_heads,
        key_dim=attention.dim_head_qk,
        value_dim=attention.dim_head_v,
        geometry=Geometry(attention.block_size, attention.halo_size, border="zero"),
        positions="sum",
    )
    round_pool(attention, up=True)


def round_pool(attention: HaloAttn, *, up: bool) -> None:
    """Let the pooling behind the attention round odd sizes up, as the shortcut beside it does, or down, as timm's.

    With an even block timm takes even maps only, so its results stay.
    """
    if isinstance(attention.pool, nn.AvgPool2d) and attention.block_size % 2 == 0:
        attention.pool.ceil_mode = up

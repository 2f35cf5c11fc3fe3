"""Our attention inside a model that timm made: timm's own layers and parameters, computed by any backend.

timm's ``HaloAttn`` lets padded keys take part (border ``"zero"``), refuses maps that are no multiple of the block, and
adds its relative positions unscaled unless told otherwise; all of this an attention layer of ours can express. What it
cannot is timm's strided queries: their positions are looked up by the number of the query, not by the pixel it stands
on.

An accelerated layer is the same object with the same parameters, of another class: PyTorch's parametrisations do
likewise. So nothing is converted, and state dicts, optimisers, averages, hooks and ties stay what they were.
"""

from dataclasses import dataclass

import torch
from timm.layers.halo_attn import HaloAttn, PosEmbedRel
from torch import Tensor, nn

from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.layer import AttentionLayer, hooked
from halobench.attention.problem import Attend, LayerSpec, RelativeTables, Unsupported


@dataclass(frozen=True)
class Acceleration:
    """What became of a model's ``HaloAttn`` layers: the names of those replaced, and of those kept, with the reason.

    A layer that stands in several places has a name for each.
    """

    replaced: list[str]
    kept: dict[str, str]


class AcceleratedHaloAttn(AttentionLayer, HaloAttn):
    """timm's ``HaloAttn``, its attention computed by a backend; maps of any size.

    Its parameters are timm's, by name, shape and unit; keys and values come from one projection, head by head. Only
    ``accelerate`` makes one, out of a ``HaloAttn``.
    """

    def tables(self, dtype: torch.dtype) -> RelativeTables:
        """The tables, as ``attend`` takes them: counted from the query, not from the window's corner, and scaled.

        Raises:
            RuntimeError: the tables' module got a hook after it was accelerated; it would not run.
        """
        positions = self.pos_embed
        if hooked(positions):
            raise RuntimeError(
                "pos_embed of an accelerated HaloAttn is not called, so its hooks (pruning is one) would not run: "
                "call models.accelerate again, which gives this layer back to timm"
            )
        both = torch.stack([positions.height_rel, positions.width_rel]).roll(-self.halo_size, 1)
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
    named: one of a class derived from ``HaloAttn``, with another ``forward`` put in its place, with hooks on
    ``pos_embed``, or with other modules than timm's inside.

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
        if not isinstance(module, HaloAttn):
            continue
        if reason := obstacle(module):
            give_back(module)
            kept[name] = reason
        else:
            exchange(module, chosen.attend)
            replaced.append(name)
    return Acceleration(replaced, kept)


def restore(model: nn.Module) -> list[str]:
    """Make every accelerated layer in ``model`` timm's ``HaloAttn`` again, in place, and return their names.

    Raises:
        TypeError: a layer has become another class since, which somebody else has to take back first.
    """
    found = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, AcceleratedHaloAttn)
    ]
    for name, module in found:
        if type(module) is not AcceleratedHaloAttn:
            raise TypeError(f"{name} has become a {type(module).__name__} after it was accelerated: undo that first")
        if "forward" in vars(module):
            raise TypeError(f"a forward was put in the place of {name}'s after it was accelerated: undo that first")
    for _, module in found:
        give_back(module)
    return [name for name, _ in found]


def obstacle(attention: HaloAttn) -> str | None:
    """Why a layer has to stay timm's, or ``None``."""
    positions = attention.pos_embed
    if type(attention) not in (HaloAttn, AcceleratedHaloAttn):
        return f"it is a {type(attention).__name__}, derived from HaloAttn, which may compute something else"
    if "forward" in vars(attention) and type(attention) is HaloAttn:
        return "a forward of its own was put in the place of HaloAttn's"
    if attention.block_stride > 1:
        return "its strided queries index positions by query number: no table of true offsets does the same"
    others: list[nn.Module] = [module for module in (attention.q, attention.kv) if not isinstance(module, nn.Conv2d)]
    if type(positions).forward is not PosEmbedRel.forward or "forward" in vars(positions):
        others.append(positions)
    if others:
        return f"a {type(others[0]).__name__} stands in the place of one of its modules"
    if hooked(positions):
        return "its pos_embed has hooks (pruning is one), and would not be called"
    return None


def exchange(attention: HaloAttn, attend: Attend) -> None:
    """Let the layer, which has no ``obstacle``, compute its attention by ``attend``."""
    attention.__class__ = AcceleratedHaloAttn
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


def give_back(attention: HaloAttn) -> None:
    """Make the layer timm's again, if it is an accelerated one, and nobody holds on to its ``forward``."""
    if type(attention) is AcceleratedHaloAttn and "forward" not in vars(attention):
        del attention.spec, attention.attend
        attention.__class__ = HaloAttn  # type: ignore[assignment]  # narrowed to the class that it leaves
        round_pool(attention, up=False)


def round_pool(attention: HaloAttn, *, up: bool) -> None:
    """Let the pooling behind the attention round odd sizes up, as the shortcut beside it does, or down, as timm's.

    With an even block timm takes even maps only, so its results stay.
    """
    if isinstance(attention.pool, nn.AvgPool2d) and attention.block_size % 2 == 0:
        attention.pool.ceil_mode = up

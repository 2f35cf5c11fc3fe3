"""Our halo layers inside a model that timm made: same weights, same outputs, any backend.

timm's ``HaloAttn`` lets padded keys take part (border ``"zero"``), refuses maps that are no multiple of the block, and
adds its relative positions unscaled unless told otherwise; all of this a layer of ours can express. What it cannot is
timm's strided queries: their positions are looked up by the number of the query, not by the pixel it stands on.
"""

from dataclasses import dataclass

import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn

from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.layer import HaloAttention
from halobench.attention.problem import Backend, LayerSpec, Unsupported


@dataclass(frozen=True)
class Acceleration:
    """What became of a model's ``HaloAttn`` layers: the names of those replaced, and of those kept, with the reason."""

    replaced: list[str]
    kept: dict[str, str]


def accelerate(model: nn.Module, backend: str = "strided_gather") -> Acceleration:
    """Replace every ``HaloAttn`` inside ``model`` by our layer, in place; weights, dtype, device and mode stay.

    Load checkpoints before: the parameters of replaced layers change their names and shapes. An optimiser made before
    would hold the old ones.

    Raises:
        ValueError: there is no such backend.
        TypeError: ``model`` itself is a ``HaloAttn``, which has nothing around it.
        Unsupported: the backend is no attention, or does not know border ``"zero"``.
    """
    if isinstance(model, HaloAttn):
        raise TypeError("the model must contain HaloAttn layers, got a HaloAttn itself")
    chosen = backends.load(backend)
    if chosen.attend is None or "zero" not in chosen.borders:
        raise Unsupported(f"timm's HaloAttn needs attention with border 'zero', which backend {backend!r} is not")
    replaced: list[str] = []
    kept: dict[str, str] = {}
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, HaloAttn)]
    for name, attention in found:
        if attention.block_stride > 1:
            kept[name] = "its strided queries index positions by query number: no table of true offsets does the same"
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, replacement(attention, chosen))
        replaced.append(name)
    return Acceleration(replaced, kept)


def replacement(attention: HaloAttn, backend: Backend) -> nn.Module:
    """Our layer with the weights of timm's, and its pooling behind it where it has one."""
    spec = LayerSpec(
        channels=attention.q.in_channels,
        heads=attention.num_heads,
        key_dim=attention.dim_head_qk,
        value_dim=attention.dim_head_v,
        geometry=Geometry(attention.block_size, attention.halo_size, border="zero"),
        positions="sum",
    )
    with torch.device(attention.q.weight.device), torch.no_grad():
        layer = backend.build(spec)
        assert isinstance(layer, HaloAttention)
        copy_weights(attention, layer)
    layer.train(attention.training)
    if isinstance(attention.pool, nn.Identity):
        return layer
    # Rounds odd sizes up, as the shortcut beside it does; the same on even maps, the only ones timm takes.
    return nn.Sequential(layer, nn.AvgPool2d(2, 2, ceil_mode=True))


def copy_weights(attention: HaloAttn, layer: HaloAttention) -> None:
    """Fill our layer with the projections and tables of timm's, biases included."""
    spec = layer.spec

    def split(fused: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of timm's fused projection, which lays them out head by head: [k, v], [k, v], ..."""
        heads = fused.reshape(spec.heads, spec.key_dim + spec.value_dim, *fused.shape[1:])
        return heads[:, : spec.key_dim].flatten(0, 1), heads[:, spec.key_dim :].flatten(0, 1)

    def parameter(tensor: Tensor, original: Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.detach().clone(), requires_grad=original.requires_grad)

    query, fused, positions = attention.q, attention.kv, attention.pos_embed
    layer.query.weight = parameter(query.weight, query.weight)
    for projection, weight in zip((layer.key, layer.value), split(fused.weight), strict=True):
        projection.weight = parameter(weight, fused.weight)
    if query.bias is not None and fused.bias is not None:
        layer.query.bias = parameter(query.bias, query.bias)
        for projection, bias in zip((layer.key, layer.value), split(fused.bias), strict=True):
            projection.bias = parameter(bias, fused.bias)
    # We scale positions like the other logits, and count offsets from the query, not from the window's corner.
    scale = 1 if attention.scale_pos_embed else spec.key_dim**-0.5
    assert layer.relative is not None
    layer.relative.rows = parameter(positions.height_rel.roll(-spec.geometry.halo, 0) / scale, positions.height_rel)
    layer.relative.columns = parameter(positions.width_rel.roll(-spec.geometry.halo, 0) / scale, positions.width_rel)

"""A whole network's inference on one image whose rows the ranks hold: every layer that mixes rows fetches its own.

Convolutions and pooling run on this rank's rows and on those received beside them, as on any map, and what they make of
received rows is dropped: a row or two of outputs at each edge. At the image's borders their own padding is at work.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from halobench.attention.geometry import Geometry
from halobench.attention.layer import AttentionLayer, RelativePositions
from halobench.attention.problem import RelativeTables, Unsupported
from halobench.distributed import sharded
from halobench.distributed.exchange import Arrive, Depart, Exchange
from halobench.distributed.lost import ANYONE, waiting
from halobench.distributed.shards import Shards
from halobench.models.blocks import Bottleneck
from halobench.models.halonet import HaloNet

ROW_BY_ROW = (
    HaloNet, Bottleneck, nn.Sequential, RelativePositions,
    nn.BatchNorm2d, nn.SiLU, nn.ReLU, nn.Identity, nn.Linear, nn.Dropout,
)  # fmt: skip
MEANS = ("avg", "fast", "fastavg")  # what timm calls the mean over the map


class Layout:
    """Who holds which rows of each map: known from those of the image, for which ranks ask one another once."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.image = Shards(())

    def begin(self, network: nn.Module, images: tuple[Tensor]) -> None:
        """Ask for the shards of an image; a hook before each forward pass."""
        if network.training:
            raise Unsupported("a sharded network infers: in training, normalisation would see the rows of one rank")
        self.image = sharded.asked(images[0], self.group)
        if 0 in self.image.heights:
            raise ValueError(f"every rank of a sharded network needs rows, got {self.image.heights}")

    def of(self, height: int) -> Shards:
        """The shards of the map of which this rank has so many rows: layers halve the image's, or keep them."""
        shards, rank = self.image, self.group.rank()
        while shards.heights[rank] > height:
            shards = shards.strided(2)
        return shards


def shard_network(network: HaloNet, group: ProcessGroup | None = None, *, backend: str) -> HaloNet:
    """Change a HaloNet so that it takes this rank's rows (batch, channels, h, W) of an image, and returns it.

    Its logits are those of the whole image, the same on every rank. Every map must be cut between blocks, the smallest,
    too: of HaloNet-H0, whose last map has 1/32 of the image's side and blocks of 8, the image every 256 rows.
    Parameters and their names stay. It infers only.

    Raises:
        Unsupported: a module mixes rows in a way that is not known here.
        ValueError: no such backend.
    """
    group = group or distributed.group.WORLD
    assert group is not None
    layout = Layout(group)
    changed: list[tuple[nn.Module, str, object]] = []
    for name, module in network.named_modules():
        if ".pool" in name or name.startswith("global_pool."):
            continue  # a part of what is pooled as a whole
        if isinstance(module, AttentionLayer):
            changed.append((module, "attend", partial(attended, layout, backend)))
        elif isinstance(module, nn.Conv2d | nn.MaxPool2d):
            reach, stride = reach_of(name, module)
            if reach:
                changed.append((module, "forward", partial(windowed, layout, module.forward, reach, stride)))
        elif isinstance(module, SelectAdaptivePool2d) and module.pool_type in MEANS:
            changed.append((module, "forward", partial(averaged, layout)))
        elif not isinstance(module, ROW_BY_ROW):
            raise Unsupported(f"{name}, a {type(module).__name__}, may mix rows in a way that is not sharded")
    for module, attribute, value in changed:
        setattr(module, attribute, value)
    network.register_forward_pre_hook(layout.begin)
    return network


def reach_of(name: str, module: nn.Conv2d | nn.MaxPool2d) -> tuple[int, int]:
    """How many rows beside its own an output sees, and the stride.

    Raises:
        Unsupported: the kernel is not square and odd, or its padding is not half of it.
    """
    given: tuple[Any, ...] = module.kernel_size, module.stride, module.padding, module.dilation
    sides, strides, paddings, dilations = (set(each) if isinstance(each, tuple) else {each} for each in given)
    if len(sides) > 1 or max(sides) % 2 == 0 or paddings != {max(sides) // 2} or len(strides) > 1:
        raise Unsupported(
            f"{name}: a kernel of {module.kernel_size} with padding {module.padding} is not sharded: "
            "square, odd ones with half of it are"
        )
    if dilations != {1}:
        raise Unsupported(f"{name}: dilation {module.dilation} is not sharded")
    return max(sides) // 2, strides.pop()


def attended(
    layout: Layout,
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative: RelativeTables | None,
    geometry: Geometry,
) -> Tensor:
    """As every ``attend``, on this rank's rows."""
    shards = layout.of(key.shape[2])
    return sharded.attend(query, key, value, relative, geometry, layout.group, backend=backend, shards=shards)


def windowed(layout: Layout, forward: Callable[[Tensor], Tensor], reach: int, stride: int, pixels: Tensor) -> Tensor:
    """A convolution, or pooling, of this rank's rows (b c h W): outputs that others own are dropped."""
    height, shards = pixels.shape[2], layout.of(pixels.shape[2])
    rank, geometry = layout.group.rank(), Geometry(stride, -(-reach // stride) * stride)
    shards.check(geometry)
    above, below = (len(rows) for rows in shards.needed(rank, geometry))
    exchange = Exchange(shards, geometry, layout.group)
    channels_last = pixels.permute(0, 2, 3, 1).unsqueeze(1)
    own, nothing, received = Depart.apply(exchange, channels_last, channels_last[..., :0])
    shard = sharded.Shard(own, own, nothing, Arrive.apply(exchange, received), above, below)
    extended, _ = shard.rows(-above, height + below)
    output = forward(extended.squeeze(1).permute(0, 3, 1, 2))
    return output.narrow(2, above // stride, -(-height // stride))


def averaged(layout: Layout, features: Tensor) -> Tensor:
    """The mean over the whole map (b c h W) -> (b c)."""
    pixels = layout.of(features.shape[2]).height * features.shape[3]
    summed = features.float().sum((2, 3)) if features.dtype.itemsize == 2 else features.sum((2, 3))
    with waiting(layout.group, ANYONE, "the mean of the last map"):
        distributed.all_reduce(summed, group=layout.group)
    return (summed / pixels).to(features.dtype)

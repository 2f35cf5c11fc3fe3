"""A whole network on one image that ranks hold, inference and training: what mixes pixels fetches its own.

Convolutions and pooling run on this rank's pixels and on those received around them, as on any map, and what they make
of received ones is dropped: an output or two at each edge. At the image's borders their own padding is at work.
Backward, the gradients of received pixels go back to their owners, and those of weights are summed over ranks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from halobench.attention.geometry import Geometry
from halobench.attention.layer import AttentionLayer, RelativePositions
from halobench.attention.problem import RelativeTables, Unsupported
from halobench.distributed import sharded
from halobench.distributed.exchange import Arrive, Depart, Exchange
from halobench.distributed.layout import Layout
from halobench.distributed.messages import exact, group_of
from halobench.distributed.normalisation import normalised
from halobench.distributed.shards import Shards
from halobench.models.blocks import Bottleneck
from halobench.models.halonet import HaloNet

PIXEL_BY_PIXEL = (
    HaloNet, Bottleneck, nn.Sequential, RelativePositions,
    nn.SiLU, nn.ReLU, nn.Identity, nn.Linear, nn.Dropout,
)  # fmt: skip
MEANS = ("avg", "fast", "fastavg")  # what timm calls the mean over the map


def shard_network(
    network: HaloNet,
    group: ProcessGroup | None = None,
    *,
    backend: str,
    shards: Shards | None = None,
    exchanged: bool = True,
) -> HaloNet:
    """Change a HaloNet so that it takes this rank's pixels (batch, channels, h, w) of an image, and returns it.

    Its logits are those of the whole image, the same on every rank. Every map must be cut between blocks, the smallest,
    too: of HaloNet-H0, whose last map has 1/32 of the image's side and blocks of 8, the image every 256 pixels.
    Parameters and their names stay. In training, statistics are those of all ranks' pixels, and where every rank
    computes the same loss of the logits, all gradients of parameters are those of the whole image, the same on every
    rank: they must not be summed or averaged again.

    ``group``, ``shards`` (of the image) and ``exchanged`` as ``attend``'s; without exchange ranks do not communicate at
    all, and nothing is right.

    Raises:
        Unsupported: a module mixes pixels in a way that is not known here.
        ValueError: no such backend.
    """
    layout = Layout(group_of(group), shards, exchanged)
    changed = [
        (module, *change)
        for name, module in network.named_modules()
        # A part of what is pooled as a whole is none by itself.
        if not (".pool" in name or name.startswith("global_pool."))
        and (change := sharded_as(layout, backend, name, module))
    ]
    for module, attribute, value in changed:
        setattr(module, attribute, value)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # what sees pixels; normalisation and tables sum for themselves
            module.register_forward_pre_hook(layout.sum_gradients)
    methods: dict[str, Callable[..., Any]] = {
        "forward_features": begun,
        "forward_intermediates": begun,
        "forward_stage": staged,
        "forward_head": ended,
    }
    for name, method in methods.items():
        setattr(network, name, partial(method, layout, network, getattr(network, name)))
    return network


def begun(
    layout: Layout, network: HaloNet, forward: Callable[..., Any], pixels: Tensor, *options: Any, **named: Any
) -> Any:
    """What the network makes of this rank's pixels (b c h w) of an image."""
    layout.begin(network, pixels)
    return forward(pixels, *options, **named)


def staged(
    layout: Layout, network: HaloNet, forward: Callable[..., Tensor], stage: nn.Sequential, pixels: Tensor
) -> Tensor:
    """A stage; blocks that the backward pass computes again are then of this image, whatever others have begun."""
    if not network.grad_checkpointing:
        return forward(stage, pixels)
    return forward([partial(of_image, layout, layout.image, block) for block in stage], pixels)


def of_image(layout: Layout, image: Shards, block: nn.Module, pixels: Tensor) -> Tensor:
    """What a block makes of this rank's pixels of a map of an image."""
    layout.image = image
    output: Tensor = block(pixels)
    return output


def ended(layout: Layout, network: HaloNet, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What its head makes of the last map, with the pooling that ``reset_classifier`` may have put there."""
    pooling = network.global_pool
    if "forward" not in vars(pooling) and (change := sharded_as(layout, "", "global_pool", pooling)):
        setattr(pooling, *change)
    return forward(*given, **named)


def sharded_as(layout: Layout, backend: str, name: str, module: nn.Module) -> tuple[str, Callable[..., Tensor]] | None:
    """Which attribute of a module becomes what, if any.

    Raises:
        Unsupported: it mixes pixels in a way that is not known here.
        ValueError: no such backend.
    """
    if isinstance(module, AttentionLayer):
        return "attend", partial(attended, layout, backend)
    if isinstance(module, nn.Conv2d | nn.MaxPool2d):
        reach, stride = reach_of(name, module)
        return ("forward", partial(windowed, layout, module.forward, reach, stride)) if reach else None
    if isinstance(module, nn.BatchNorm2d):
        return "forward", partial(normalised, layout, module)
    if isinstance(module, SelectAdaptivePool2d) and module.pool_type in MEANS:
        return "forward", partial(averaged, layout)
    if not isinstance(module, PIXEL_BY_PIXEL):
        named = name or "the network"
        raise Unsupported(f"{named}, a {type(module).__name__}, may mix pixels in a way that is not sharded")
    return None


def reach_of(name: str, module: nn.Conv2d | nn.MaxPool2d) -> tuple[int, int]:
    """How many pixels beside its own an output sees along an axis, and the stride.

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
    """As every ``attend``, on this rank's pixels."""
    shards = layout.of(key.shape[2:4])
    return sharded.attend(
        query, key, value, relative, geometry, layout.group,
        backend=backend, shards=shards, exchanged=layout.travels,
    )  # fmt: skip


def windowed(layout: Layout, forward: Callable[[Tensor], Tensor], reach: int, stride: int, pixels: Tensor) -> Tensor:
    """A convolution, or pooling, of this rank's pixels (b c h w): outputs that others own are dropped."""
    shards, geometry = layout.of(pixels.shape[2:]), Geometry(stride, -(-reach // stride) * stride)
    shards.check(geometry)
    exchange = Exchange(shards, geometry, layout.group, layout.travels)
    channels_last = pixels.permute(0, 2, 3, 1).unsqueeze(1)
    own, frame = exchange.routes[:2]
    *_, departed = Depart.apply(exchange, False, channels_last, channels_last[..., :0])  # noqa: FBT003 - as declared
    extended, _ = Arrive.apply(exchange, [frame], departed)
    output = forward(extended.squeeze(1).permute(0, 3, 1, 2))
    within = own.seen_from(frame.rows.start, frame.columns.start)
    return sharded.asking(within, stride).of(output)


def averaged(layout: Layout, features: Tensor) -> Tensor:
    """The mean over the whole map (b c h w) -> (b c)."""
    summed: Tensor = Sum.apply(layout, features.sum((2, 3), dtype=exact(features.dtype)))
    return (summed / layout.pixels(features)).to(features.dtype)


class Sum(torch.autograd.Function):
    """The sum over the group, of which every rank then computes the same: so its gradient is each part's."""

    @staticmethod
    def forward(_ctx: Any, layout: Layout, part: Tensor) -> Tensor:
        """One message."""
        return layout.sum(part, "the mean of the last map")

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Nothing is sent."""
        return None, gradient

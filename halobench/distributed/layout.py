"""What a sharded network's layers share: the group, and who holds which pixels of each map."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.weak import WeakIdKeyDictionary

from halobench.attention.problem import Unsupported
from halobench.distributed import sharded
from halobench.distributed.messages import exact, sum_over
from halobench.distributed.shards import Shards
from halobench.models.halonet import HaloNet
from halobench.wording import counted


@dataclass
class Layout:
    """``told`` are the shards of every image; without them ranks ask one another at each call.

    ``travels`` is false for measuring what communication costs: each rank then computes as if it were alone.
    """

    group: ProcessGroup
    told: Shards | None = None
    travels: bool = True
    image: Shards = field(default_factory=partial(Shards, ()))
    known_shares: dict[tuple[object, ...], Tensor] = field(default_factory=dict)
    summed_weights: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)

    def __deepcopy__(self, _memo: object) -> "Layout":
        """That of a copied network: of the same group, which cannot be copied. Its weights are others."""
        return replace(self, known_shares={}, summed_weights=WeakIdKeyDictionary())

    def begin(self, network: HaloNet, images: Tensor) -> None:
        """Note the shards of the image, before its forward pass."""
        rank, (height, width) = self.group.rank(), images.shape[2:]
        if network.training and network.drop_rate:
            raise Unsupported(
                f"dropout of a sharded network would differ on each rank, got drop_rate {network.drop_rate}"
            )
        shards = self.image = (self.told or sharded.asked(images, self.group)).of_width(width)
        if 0 in (*shards.heights, *(shards.widths or ())):
            raise ValueError(f"every rank of a sharded network needs pixels, got {shards}")
        least = network.feature_info[-1]["reduction"] // 2  # of it and less, the last two maps are a pixel each
        if shards.ranks > 1 and any(max(shards.size(each)) <= least for each in range(shards.ranks)):
            most = counted(least, "row")
            raise Unsupported(f"every rank needs more than {most} of an image, or as many columns, got {shards}")
        if shards.ranks != self.group.size() or shards.size(rank) != (height, width):
            raise ValueError(f"the image must have {height} x {width} pixels on rank {rank}, got {shards}")

    def of(self, size: Sequence[int]) -> Shards:
        """The shards of the map of which this rank has so many rows and columns.

        Layers halve the image's, or keep them. Both are asked for: of few rows, the maps of two strides have one.
        """
        shards, rank = self.image, self.group.rank()
        while shards.size(rank) > tuple(size):  # the first that differ
            shards = shards.strided(2)
        return shards

    def shares(self, features: Tensor) -> Tensor:
        """Which share of a map (b c h w) each rank has, (ranks,). It is kept: the device would be waited for."""
        shards, dtype = self.of(features.shape[2:]), exact(features.dtype)
        key = shards, dtype, features.device
        if key not in self.known_shares:
            held = [shards.area(rank).pixels for rank in range(shards.ranks)]
            pixels = torch.tensor(held, dtype=dtype, device=features.device)
            self.known_shares[key] = pixels / sum(held)
        return self.known_shares[key]

    def pixels(self, features: Tensor) -> int:
        """Pixels of the whole map of which this rank has (b c h w)."""
        shards = self.of(features.shape[2:])
        return shards.height * shards.width

    def sum(self, tensor: Tensor, wanted: str) -> Tensor:
        """The sum over the group, in float32 at least; this rank's part where nothing travels."""
        return self.summed(tensor.to(exact(tensor.dtype)).clone(memory_format=torch.contiguous_format), wanted)

    def summed(self, own: Tensor, wanted: str) -> Tensor:
        """The same of a contiguous tensor that nobody else has: its sum is written into it."""
        return sum_over(self.group, own, wanted) if self.travels else own

    def sum_gradients(self, module: nn.Module, _inputs: object) -> None:
        """Have the gradients of the module's own weights summed, also of weights put there later: a hook before it."""
        for weight in module.parameters(recurse=False):
            if weight.requires_grad and weight not in self.summed_weights:
                weight.register_hook(self.sum_gradient)
                self.summed_weights[weight] = True

    def sum_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient of a weight that every rank holds whole: a hook of it."""
        return self.sum(gradient, "the sum of gradients").to(gradient.dtype)

"""The layer on shards: the same state dict as ``halobench.HaloAttention``, each rank's pixels in, its pixels out."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from halobench.attention import layer
from halobench.attention.geometry import Geometry
from halobench.attention.problem import LayerSpec, RelativeTables
from halobench.distributed import sharded
from halobench.distributed.replicated import replicated
from halobench.distributed.shards import Shards


@dataclass(frozen=True)
class Operator:
    """``sharded.attend`` of one group, as a layer calls it."""

    group: ProcessGroup | None
    backend: str
    shards: Shards | None

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
    ) -> Tensor:
        """As every ``attend``, on this rank's pixels."""
        return sharded.attend(
            query, key, value, relative, geometry, self.group, backend=self.backend, shards=self.shards
        )


class HaloAttention(layer.HaloAttention):
    """(batch, channels, h, w) -> (batch, value_channels, h / stride, w / stride), of this rank's pixels.

    Every rank has all weights. Their gradients are summed over the group in the backward pass, so that they are those
    of the whole map on every rank; ``DistributedDataParallel`` must not average them again. ``group``, ``backend`` and
    ``shards`` as ``attend``'s.
    """

    def __init__(
        self, spec: LayerSpec, group: ProcessGroup | None = None, *, backend: str, shards: Shards | None = None
    ) -> None:
        super().__init__(spec, Operator(group, backend, shards))
        self.group = group

    def project(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of this rank's pixels, (batch, heads, h, w, dim) each."""
        projections = self.projections()
        weights = replicated(self.group, *(projection.weight for projection in projections))
        pairs = zip(projections, weights, strict=True)
        query, key, value = (self.heads(projected(pixels, projection, weight)) for projection, weight in pairs)
        return query, key, value


def projected(pixels: Tensor, projection: nn.Conv2d, weight: Tensor) -> Tensor:
    """The 1x1 convolution with this weight; of no pixels, too, which convolutions refuse."""
    if 0 not in pixels.shape[2:]:
        return F.conv2d(pixels, weight, stride=projection.stride)
    down, across = projection.stride
    return torch.einsum("bchw,oc->bohw", pixels[:, :, ::down, ::across], weight[:, :, 0, 0])

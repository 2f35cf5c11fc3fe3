"""The layer on shards: the same state dict as ``halobench.HaloAttention``, each rank's pixels in, its pixels out."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.func import functional_call

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

    def __deepcopy__(self, _memo: object) -> "Operator":
        """The same: the copy of a layer is of the same group, which cannot be copied."""
        return self


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

    @property
    def group(self) -> ProcessGroup | None:
        """Who holds the map; ``None`` is the default group."""
        assert isinstance(self.attend, Operator)
        return self.attend.group

    def project(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of this rank's pixels, (batch, heads, h, w, dim) each."""
        projections = self.projections()
        named = [dict(projection.named_parameters()) for projection in projections]
        weights = iter(replicated(self.group, *(weight for each in named for weight in each.values())))
        held = [{name: next(weights) for name in each} for each in named]
        pairs = zip(projections, held, strict=True)
        query, key, value = (self.heads(projected(pixels, projection, each)) for projection, each in pairs)
        return query, key, value


def projected(pixels: Tensor, projection: nn.Module, weights: dict[str, Tensor]) -> Tensor:
    """What a projection makes of pixels with these weights; of no pixels, too, which convolutions refuse."""
    empty = [along == 0 for along in pixels.shape[2:]]
    one_at_least = F.pad(pixels, (0, empty[1], 0, empty[0])) if any(empty) else pixels
    made: Tensor = functional_call(projection, weights, (one_at_least,))
    return made[:, :, : 0 if empty[0] else None, : 0 if empty[1] else None] if any(empty) else made

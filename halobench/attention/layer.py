"""The attention layer: 1x1 projections, relative tables, one ``attend``."""

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from halobench.attention.geometry import Geometry
from halobench.attention.points import pointwise
from halobench.attention.problem import Attend, LayerSpec, RelativeTables


class RelativePositions(nn.Module):
    """The relative tables of a layer, as learned parameters.

    ``"split"`` (the paper) learns half-width tables: rows meet the first half of a head's channels and columns the
    rest, so the full-width tables of the operator are zero elsewhere. ``"sum"`` (the public ports) learns both whole.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        entries, dim = 2 * spec.geometry.window - 1, spec.key_dim
        self.row_dim = dim // 2 if spec.positions == "split" else dim
        self.column_dim = dim - self.row_dim if spec.positions == "split" else dim
        self.key_dim = dim
        self.rows = nn.Parameter(torch.empty(entries, self.row_dim))
        self.columns = nn.Parameter(torch.empty(entries, self.column_dim))
        for table in (self.rows, self.columns):
            nn.init.normal_(table, std=dim**-0.5)

    def forward(self, dtype: torch.dtype) -> RelativeTables:
        """The two tables of shape (2 * window - 1, key_dim), in ``dtype``."""
        rows = F.pad(self.rows, (0, self.key_dim - self.row_dim))
        columns = F.pad(self.columns, (self.key_dim - self.column_dim, 0))
        return RelativeTables(rows.to(dtype), columns.to(dtype))


class AttentionLayer(nn.Module):
    """(batch, channels, H, W) -> (batch, value_channels, H / stride, W / stride), through any backend's ``attend``.

    What a layer has to say is how it projects pixels, and where its relative tables come from. Sizes that are no
    multiple of the stride are rounded up: every stride-th pixel asks, from the first on. The result is laid out
    channels-last.

    Where it ``recomputes``, queries, keys and values are not kept for the backward pass, which projects again.
    """

    spec: LayerSpec
    attend: Attend
    recomputes = False

    def tables(self, dtype: torch.dtype) -> RelativeTables | None:
        """The relative tables in ``dtype``, if the layer has any."""
        raise NotImplementedError

    def projections(self) -> tuple[nn.Module, ...]:
        """The modules that project pixels."""
        raise NotImplementedError

    def project(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map, (batch, heads, H, W, dim) each."""
        raise NotImplementedError

    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the 1x1 convolution that projects queries, keys and values at once, in this order."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        """Mix the pixels of a map; sizes as in the class docstring."""
        spec = self.spec
        # A projection that is more than a 1x1 convolution, by hooks, its class or its kernel, is called.
        if getattr(self.attend, "packed", None) and spec.geometry.stride == 1 and all(map(plain, self.projections())):
            packed = self.projected(lambda pixels: F.conv2d(pixels, *self.packed()), pixels)
            relative = self.tables(packed.dtype)
            return channels(attended_packed(self.attend, packed, relative, spec.heads, spec.key_dim, spec.geometry))
        query, key, value = self.projected(self.project, pixels)
        return channels(attended(self.attend, query, key, value, self.tables(query.dtype), spec.geometry))

    def projected(self, project: Callable[[Tensor], Any], pixels: Tensor) -> Any:
        """What ``project`` makes of pixels, kept or made again; a symbolic trace, which has no tensors, knows neither.

        Projections draw nothing at random, and a state of random numbers cannot be read while a graph is captured.
        """
        if not (self.recomputes and isinstance(pixels, Tensor) and torch.is_grad_enabled()):
            return project(pixels)
        return checkpoint(project, pixels, use_reentrant=False, preserve_rng_state=False)

    def heads(self, channels: Tensor) -> Tensor:
        """(batch, heads * dim, H, W) -> (batch, heads, H, W, dim), a view."""
        heads: Tensor = channels.unflatten(1, (self.spec.heads, -1))
        return heads.movedim(2, -1)

    def extra_repr(self) -> str:
        """The layer's specification and backend, for ``print``."""
        backend = getattr(self.attend, "backend", None)
        return repr(self.spec) if backend is None else f"{self.spec!r}, backend={backend!r}"


class HaloAttention(AttentionLayer):
    """The attention layer of HaloNet's bottleneck: projections have no bias and there is no output projection.

    The state dict does not depend on the backend, so weights move between backends.
    """

    def __init__(self, spec: LayerSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        self.attend = attend
        key_channels = spec.heads * spec.key_dim
        # Attention downsampling: only the queries are strided, keys and values stay whole.
        self.query = pointwise(spec.channels, key_channels, spec.geometry.stride)
        self.key = nn.Conv2d(spec.channels, key_channels, 1, bias=False)
        self.value = nn.Conv2d(spec.channels, spec.value_channels, 1, bias=False)
        self.relative = RelativePositions(spec) if spec.positions else None

    def tables(self, dtype: torch.dtype) -> RelativeTables | None:
        """The relative tables in ``dtype``, or ``None`` where the specification has none."""
        return None if self.relative is None else self.relative(dtype)

    def projections(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        """Of queries, keys and values."""
        return self.query, self.key, self.value

    def project(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map, (batch, heads, H, W, dim) each."""
        return self.heads(self.query(pixels)), self.heads(self.key(pixels)), self.heads(self.value(pixels))

    def packed(self) -> tuple[Tensor, Tensor | None]:
        """The weights of all three, side by side, and the biases if somebody gave them any."""
        weight = torch.cat([projection.weight for projection in self.projections()])
        biases = [projection.bias for projection in self.projections() if projection.bias is not None]
        return weight, torch.cat(biases) if biases else None


def plain(projection: nn.Module) -> bool:
    """Whether calling this module is a 1x1 convolution by its weight and bias, and nothing else."""
    if not untouched(projection) or type(projection).forward is not nn.Conv2d.forward:
        return False
    assert isinstance(projection, nn.Conv2d)
    kind = projection.kernel_size, projection.stride, projection.padding, projection.groups
    return kind == ((1, 1), (1, 1), (0, 0), 1)


def untouched(module: nn.Module) -> bool:
    """Whether calling this module calls its class's ``forward``, and nothing else."""
    return not hooked(module) and "forward" not in module.__dict__


def hooked(module: nn.Module) -> bool:
    """Whether calling the module calls hooks."""
    return bool(
        module._forward_pre_hooks  # noqa: SLF001 - no public name tells it
        or module._forward_hooks  # noqa: SLF001
        or module._backward_pre_hooks  # noqa: SLF001
        or module._backward_hooks  # noqa: SLF001
    )


@torch.fx.wrap  # a leaf of symbolic traces, which know no shapes
def attended(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
) -> Tensor:
    """``attend``'s output; shapes as there."""
    return attend(query, key, value, relative, geometry)


@torch.fx.wrap
def attended_packed(
    attend: Any, packed: Tensor, relative: RelativeTables | None, heads: int, key_dim: int, geometry: Geometry
) -> Tensor:
    """The same of a map (batch, channels, H, W) that holds queries, keys and values side by side."""
    output: Tensor = attend.packed(packed, relative, heads, key_dim, geometry)
    return output


def channels(heads: Tensor) -> Tensor:
    """(batch, heads, H, W, dim) -> (batch, heads * dim, H, W), a view where the memory is channels-last."""
    return heads.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


class Given(nn.Module):
    """A projection that ignores its input and returns the ``tensor`` it was given.

    It lets a backend run the attention inside somebody else's layer, whose projections it replaces.
    """

    tensor: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """The given tensor, in place of a projection of ``pixels``."""
        del pixels
        return self.tensor

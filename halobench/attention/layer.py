"""The attention layer: 1x1 projections, relative tables, one ``attend``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class HaloAttention(nn.Module):
    """(batch, channels, H, W) -> (batch, value_channels, H / stride, W / stride), through any backend's ``attend``.

    Projections have no bias and there is no output projection, as in HaloNet's bottleneck. The state dict does not
    depend on the backend, so weights move between backends. Sizes that are no multiple of the stride are rounded up:
    every stride-th pixel asks, from the first on. The result is laid out channels-last.
    """

    def __init__(self, spec: LayerSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        self.attend = attend
        key_channels = spec.heads * spec.key_dim
        # Attention downsampling: only the queries are strided, keys and values stay whole.
        self.query = nn.Conv2d(spec.channels, key_channels, 1, stride=spec.geometry.stride, bias=False)
        self.key = nn.Conv2d(spec.channels, key_channels, 1, bias=False)
        self.value = nn.Conv2d(spec.channels, spec.value_channels, 1, bias=False)
        self.relative = RelativePositions(spec) if spec.positions else None

    def forward(self, pixels: Tensor) -> Tensor:
        """Mix the pixels of a map; sizes as in the class docstring."""
        query, key, value = (self.heads(project(pixels)) for project in (self.query, self.key, self.value))
        relative = None if self.relative is None else self.relative(query.dtype)
        output = self.attend(query, key, value, relative, self.spec.geometry)
        return self.channels(output)

    def channels(self, heads: Tensor) -> Tensor:
        """(batch, heads, H, W, dim) -> (batch, heads * dim, H, W), a view where the memory is channels-last."""
        return heads.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)

    def heads(self, channels: Tensor) -> Tensor:
        """(batch, heads * dim, H, W) -> (batch, heads, H, W, dim), a view."""
        heads: Tensor = channels.unflatten(1, (self.spec.heads, -1))
        return heads.movedim(2, -1)

    def extra_repr(self) -> str:
        """The layer's specification, for ``print``."""
        return repr(self.spec)


class Given(nn.Module):
    """A projection that ignores its input and returns the ``tensor`` it was given.

    It lets a backend run the attention inside somebody else's layer, whose projections it replaces.
    """

    tensor: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """The given tensor, in place of a projection of ``pixels``."""
        del pixels
        return self.tensor

"""Blocks and windows as rows of tokens, gathered by index: halo attention where the sizes of a map are symbols.

``torch.export`` keeps a size open only as long as nothing depends on its value. Views do: whether they need a copy
turns on whether an axis has one entry, and a small map may have one block. Here blocks, windows and maps are gathered,
and blocks are counted together with images and heads, so that no axis of a tensor is a number of blocks.

    query  [b n H/s W/s d]  --queries-->  [B q d]   B: blocks of all images and heads, q: the queries of a block
    key    [b n H   W   d]  --windows-->  [B k d]   k: the pixels of the window that all queries of the block see
    output [b n H/s W/s e]  <--join--     [B q e]
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from halobench.attention.geometry import Geometry


@dataclass(frozen=True)
class Tokens:
    """Where the tokens of maps of ``height`` x ``width`` queries lie; numbers, or symbols for them."""

    geometry: Geometry
    batch: int
    heads: int
    height: int
    width: int

    @classmethod
    def of(cls, query: Tensor, geometry: Geometry) -> "Tokens":
        """The tokens of this map (b n H/s W/s d)."""
        return cls(geometry, *query.shape[:4])

    @property
    def rows(self) -> int:
        """Blocks from top to bottom."""
        return ceiling(self.height, self.geometry.side)

    @property
    def columns(self) -> int:
        """Blocks from left to right."""
        return ceiling(self.width, self.geometry.side)

    def corner(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The block of each token, ``tokens`` of them to a block: its row and column, and the token's number in it."""
        block, inner = split(torch.arange(self.rows * self.columns * tokens, device=device), tokens)
        return *split(block, self.columns), inner

    def queries(self, query: Tensor) -> Tensor:
        """Cut the queries into blocks; partial ones are filled up with any: (b n H/s W/s d) -> (B q d)."""
        side = self.geometry.side
        row, column, inner = self.corner(side**2, query.device)
        i = (row * side + inner // side).clamp(max=self.height - 1)
        j = (column * side + inner % side).clamp(max=self.width - 1)
        tokens = query.reshape(-1, self.height * self.width, query.shape[-1]).index_select(1, i * self.width + j)
        return tokens.flatten(0, 1).view(-1, side**2, query.shape[-1])

    def windows(self, pixels: Tensor) -> Tensor:
        """The window of every block, zeros outside the image: (b n H W d) -> (B k d)."""
        geometry, (height, width, dim) = self.geometry, pixels.shape[2:]
        row, column, inner = self.corner(geometry.window**2, pixels.device)
        a = row * geometry.step - geometry.halo + inner // geometry.window + geometry.above
        b = column * geometry.step - geometry.halo + inner % geometry.window + geometry.left
        inside = (a >= 0) & (a < height) & (b >= 0) & (b < width)
        index = a.clamp(0, height - 1) * width + b.clamp(0, width - 1)
        tokens = pixels.reshape(-1, height * width, dim).index_select(1, index)
        return torch.where(inside[:, None], tokens, 0).flatten(0, 1).view(-1, geometry.window**2, dim)

    def visible(self, pixels: Tensor) -> Tensor:
        """Whether each pixel of a window is one of the map's (b n H W d): (B k)."""
        return self.windows(torch.ones_like(pixels[..., :1])).squeeze(-1) > 0

    def join(self, output: Tensor) -> Tensor:
        """Put blocks in their places on the map, channels-last in memory: (B q e) -> (b n H/s W/s e)."""
        side, dim = self.geometry.side, output.shape[-1]
        i, j = split(torch.arange(self.height * self.width, device=output.device), self.width)
        index = (i // side * self.columns + j // side) * side**2 + i % side * side + j % side
        images = output.flatten(0, 1).view(self.batch, self.heads, self.rows * self.columns * side**2, dim)
        joined = images.transpose(1, 2).index_select(1, index)  # [b (H/s W/s) n e]
        return joined.view(self.batch, self.height, self.width, self.heads, dim).permute(0, 3, 1, 2, 4)


def split(number: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder, without an operator for the remainder: ONNX has none for a symbol."""
    quotient = number // divisor
    return quotient, number - quotient * divisor


def ceiling(number: int, divisor: int) -> int:
    """The quotient, rounded up; of a symbol, in the form that PyTorch simplifies best."""
    return (number + divisor - 1) // divisor

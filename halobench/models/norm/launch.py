"""The kernels on tensors: what is allocated, and how they are launched."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import wrap_triton

from halobench.models.norm.kernels import (
    gradient_sums,
    normalize,
    parameter_gradients,
    pixel_gradient,
    pixel_sums,
    statistics,
)
from halobench.models.norm.pooled_kernels import normalize_and_pool, pooled_gradient_sums, pooled_pixel_gradient

WIDEST_BLOCK = 64  # of channels
SUMMED_PROGRAMS, SUMMED_CHANNELS = 256, 8  # of one program that adds up the others' sums
PROGRAMS = 528  # that share one sum: four a multiprocessor of an H100


class Tile(NamedTuple):
    """Pixels that a program works on at a time, and its warps."""

    rows: int
    warps: int


# Of the sums forward and backward, of what is written pixel by pixel, by quads, by windows; the fastest on an H100.
STATISTICS, GRADIENTS, PIXELS, QUADS, WINDOWS = Tile(64, 8), Tile(32, 4), Tile(32, 4), Tile(16, 4), Tile(16, 4)


class Call(NamedTuple):
    """What is normalised, with what, and what follows; shapes as in ``operator``. Maps are channels-last in memory."""

    pixels: Tensor
    weight: Tensor
    bias: Tensor
    shortcut: Tensor | None
    eps: float
    relu: bool
    pooled: bool

    @property
    def rows(self) -> int:
        """Pixels of all images."""
        return self.pixels.numel() // self.channels

    @property
    def channels(self) -> int:
        """Channels of a pixel."""
        return self.pixels.shape[1]

    @property
    def block(self) -> int:
        """Channels of a program: all of a narrow map's."""
        return min(WIDEST_BLOCK, 1 << (self.channels - 1).bit_length())

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Height and width of the map, then of the map of windows."""
        height, width = self.pixels.shape[2:]
        return height, width, *pooled_size(height, width)

    @property
    def windows(self) -> int:
        """Windows of all images, or quads."""
        *_, height, width = self.sizes
        return self.pixels.shape[0] * height * width

    @property
    def parts(self) -> int:
        """In how many blocks the channels are cut."""
        return -(-self.channels // self.block)

    def tile(self, tile: Tile) -> dict[str, int]:
        """What a kernel is compiled for."""
        return {"BLOCK_ROWS": tile.rows, "BLOCK_CHANNELS": self.block, "num_warps": tile.warps}

    def grid(self, tile: Tile, rows: int) -> tuple[int, int]:
        """Programs for so many rows: a tile each."""
        return triton.cdiv(rows, tile.rows), self.parts

    def empty_sums(self, tile: Tile, rows: int) -> Tensor:
        """What programs sum up over so many rows, (programs, 2, channels)."""
        programs = min(triton.cdiv(rows, tile.rows), triton.cdiv(PROGRAMS, self.parts))
        return self.pixels.new_empty((programs, 2, self.channels), dtype=torch.float32)


def pooled_size(height: int, width: int) -> tuple[int, int]:
    """Windows of 3 x 3 pixels, stride 2, padding 1."""
    return (height - 1) // 2 + 1, (width - 1) // 2 + 1


def forward(call: Call, output: Tensor, winners: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Fill the output, the windows' winners where it is pooled, and the statistics of each channel."""
    pixels, rows, channels = call.pixels, call.rows, call.channels
    sums = call.empty_sums(STATISTICS, rows)
    wrap_triton(pixel_sums)[sums.shape[0], call.parts](pixels, sums, rows, channels, **call.tile(STATISTICS))
    wrap_triton(statistics)[summing_grid(channels)](
        pixels, sums, mean, variance, rows, sums.shape[0], channels, **summing_tile()
    )
    if call.pooled:
        wrap_triton(normalize_and_pool)[call.grid(WINDOWS, call.windows)](
            pixels, mean, variance, call.weight, call.bias, output, winners,
            call.windows, channels, *call.sizes, EPS=call.eps, RELU=call.relu, **call.tile(WINDOWS),
        )  # fmt: skip
    else:
        has_shortcut = call.shortcut is not None
        shortcut = pixels if call.shortcut is None else call.shortcut  # not read then
        wrap_triton(normalize)[call.grid(PIXELS, rows)](
            pixels, shortcut, mean, variance, call.weight, call.bias, output,
            rows, channels, EPS=call.eps, SHORTCUT=has_shortcut, RELU=call.relu, **call.tile(PIXELS),
        )  # fmt: skip


def backward(
    call: Call, gradient: Tensor, winners: Tensor, mean: Tensor, variance: Tensor,
    of_pixels: Tensor, of_shortcut: Tensor, of_weight: Tensor, of_bias: Tensor,
) -> None:  # fmt: skip
    """Fill the gradients of the pixels, of the shortcut where there is one, and of the parameters (float32)."""
    if call.pooled:
        return pooled_backward(call, gradient, winners, mean, variance, of_pixels, of_weight, of_bias)
    pixels, rows, channels = call.pixels, call.rows, call.channels
    has_shortcut = call.shortcut is not None
    shortcut = pixels if call.shortcut is None else call.shortcut  # not read then
    sums = call.empty_sums(GRADIENTS, rows)
    wrap_triton(gradient_sums)[sums.shape[0], call.parts](
        gradient, pixels, shortcut, mean, variance, call.weight, call.bias, sums,
        of_shortcut if has_shortcut else of_pixels,  # not written without
        rows, channels, EPS=call.eps, SHORTCUT=has_shortcut, RELU=call.relu, **call.tile(GRADIENTS),
    )  # fmt: skip
    wrap_triton(parameter_gradients)[summing_grid(channels)](
        sums, of_bias, of_weight, sums.shape[0], channels, **summing_tile()
    )
    wrap_triton(pixel_gradient)[call.grid(PIXELS, rows)](
        of_shortcut if has_shortcut else gradient, pixels, mean, variance, call.weight, call.bias,
        of_bias, of_weight, of_pixels, rows, channels, EPS=call.eps,
        SHORTCUT=has_shortcut, RELU=call.relu, **call.tile(PIXELS),
    )  # fmt: skip
    return None


def pooled_backward(
    call: Call, gradient: Tensor, winners: Tensor, mean: Tensor, variance: Tensor,
    of_pixels: Tensor, of_weight: Tensor, of_bias: Tensor,
) -> None:  # fmt: skip
    """The same through the windows."""
    pixels, quads, channels = call.pixels, call.windows, call.channels
    sums = call.empty_sums(QUADS, quads)
    wrap_triton(pooled_gradient_sums)[sums.shape[0], call.parts](
        gradient, winners, pixels, mean, variance, call.weight, call.bias, sums,
        quads, channels, *call.sizes, EPS=call.eps, RELU=call.relu, **call.tile(QUADS),
    )  # fmt: skip
    wrap_triton(parameter_gradients)[summing_grid(channels)](
        sums, of_bias, of_weight, sums.shape[0], channels, **summing_tile()
    )
    wrap_triton(pooled_pixel_gradient)[call.grid(QUADS, quads)](
        gradient, winners, pixels, mean, variance, call.weight, call.bias, of_bias, of_weight, of_pixels,
        call.rows, quads, channels, *call.sizes, EPS=call.eps, RELU=call.relu, **call.tile(QUADS),
    )  # fmt: skip


def summing_grid(channels: int) -> tuple[int, int]:
    """Programs that add up what others have summed."""
    return 1, triton.cdiv(channels, SUMMED_CHANNELS)


def summing_tile() -> dict[str, int]:
    """What they are compiled for."""
    return {"BLOCK_PROGRAMS": SUMMED_PROGRAMS, "BLOCK_CHANNELS": SUMMED_CHANNELS, "num_warps": 4}

"""The kernels on tensors: what is allocated, and how they are launched."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from halobench.models.norm import kernels

BLOCK_CHANNELS = 64
PROGRAMS = 1056  # that share one sum: eight a multiprocessor of an H100
SUMMED_PROGRAMS, SUMMED_CHANNELS = 64, 16  # of one program that adds up the others' sums


class Tile(NamedTuple):
    """Pixels that a program works on at a time, and its warps."""

    rows: int
    warps: int

    def constants(self) -> dict[str, int]:
        """What a kernel is compiled for."""
        return {"BLOCK_ROWS": self.rows, "BLOCK_CHANNELS": BLOCK_CHANNELS, "num_warps": self.warps}

    def grid(self, rows: int, channels: int) -> tuple[int, int]:
        """Programs for so many pixels: a tile each."""
        return triton.cdiv(rows, self.rows), triton.cdiv(channels, BLOCK_CHANNELS)


SUMS, PIXELS, WINDOWS = Tile(64, 8), Tile(32, 8), Tile(32, 8)  # of kernels that sum, write pixels, write windows


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
    def sizes(self) -> tuple[int, int, int, int]:
        """Height and width of the map, then of the map of windows."""
        height, width = self.pixels.shape[2:]
        return height, width, *pooled_size(height, width)

    def empty_sums(self) -> Tensor:
        """What programs sum up, (programs, 2, channels)."""
        tiles, parts = SUMS.grid(self.rows, self.channels)
        programs = min(tiles, triton.cdiv(PROGRAMS, parts))
        return self.pixels.new_empty((programs, 2, self.channels), dtype=torch.float32)


def pooled_size(height: int, width: int) -> tuple[int, int]:
    """Windows of 3 x 3 pixels, stride 2, padding 1."""
    return (height - 1) // 2 + 1, (width - 1) // 2 + 1


def forward(call: Call, output: Tensor, winners: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Fill the output, the windows' winners where it is pooled, and the statistics of each channel."""
    pixels, rows, channels = call.pixels, call.rows, call.channels
    parts = triton.cdiv(channels, BLOCK_CHANNELS)
    with on_device(pixels):
        sums = call.empty_sums()
        kernels.pixel_sums[sums.shape[0], parts](pixels, sums, rows, channels, **SUMS.constants())
        kernels.statistics[summing(channels)](
            pixels, sums, mean, variance, rows, sums.shape[0], channels, **summing_tiles()
        )
        given = (mean, variance, call.weight, call.bias, output)
        if call.pooled:
            windows = output.numel() // channels
            kernels.normalize_and_pool[WINDOWS.grid(windows, channels)](
                pixels, *given, winners, windows, channels, *call.sizes, call.eps,
                RELU=call.relu, **WINDOWS.constants(),
            )  # fmt: skip
        else:
            has_shortcut = call.shortcut is not None
            shortcut = pixels if call.shortcut is None else call.shortcut  # not read then
            kernels.normalize[PIXELS.grid(rows, channels)](
                pixels, shortcut, *given, rows, channels, call.eps,
                SHORTCUT=has_shortcut, RELU=call.relu, **PIXELS.constants(),
            )  # fmt: skip


def backward(
    call: Call, gradient: Tensor, winners: Tensor, mean: Tensor, variance: Tensor,
    pixel_gradient: Tensor, shortcut_gradient: Tensor, weight_gradient: Tensor, bias_gradient: Tensor,
) -> None:  # fmt: skip
    """Fill the gradients of the pixels, of the shortcut where there is one, and of the parameters (float32)."""
    pixels, rows, channels = call.pixels, call.rows, call.channels
    has_shortcut = call.shortcut is not None
    shortcut = pixels if call.shortcut is None else call.shortcut  # not read then
    constants = {"SHORTCUT": has_shortcut, "POOLED": call.pooled, "RELU": call.relu}
    given = (mean, variance, call.weight, call.bias)
    with on_device(pixels):
        sums = call.empty_sums()
        kernels.gradient_sums[sums.shape[0], triton.cdiv(channels, BLOCK_CHANNELS)](
            gradient, winners, pixels, shortcut, *given, sums, shortcut_gradient,
            rows, channels, *call.sizes, call.eps, **constants, **SUMS.constants(),
        )  # fmt: skip
        kernels.parameter_gradients[summing(channels)](
            sums, bias_gradient, weight_gradient, sums.shape[0], channels, **summing_tiles()
        )
        kernels.pixel_gradient[PIXELS.grid(rows, channels)](
            shortcut_gradient if has_shortcut else gradient, winners, pixels, *given,
            bias_gradient, weight_gradient, pixel_gradient,
            rows, channels, *call.sizes, call.eps, **constants, **PIXELS.constants(),
        )  # fmt: skip


def summing(channels: int) -> tuple[int, int]:
    """Programs that add up what others have summed."""
    return 1, triton.cdiv(channels, SUMMED_CHANNELS)


def summing_tiles() -> dict[str, int]:
    """The tile of one of them."""
    return {"BLOCK_PROGRAMS": SUMMED_PROGRAMS, "BLOCK_CHANNELS": SUMMED_CHANNELS}


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Launch where the tensor is; Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()

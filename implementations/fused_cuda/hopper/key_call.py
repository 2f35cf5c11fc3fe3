"""A call of the backward kernel by keys for Hopper: its argument, and the tensor maps by which blocks are copied."""

import ctypes
from functools import lru_cache

from halobench.implementations.fused_cuda.hopper import key_gradient, tensor_maps
from halobench.implementations.fused_cuda.launch import Args, HopperKeyArgs, images_near, order_of
from halobench.implementations.fused_cuda.shapes import Shape
from torch import Tensor

Mapped = tuple[int, tuple[int, int, int], tuple[int, int, int]]


def argument(
    shape: Shape, args: Args, pixels: tuple[Tensor, ...], statistics: Tensor, biases: Tensor | None
) -> HopperKeyArgs | None:
    """The kernel's argument, or none where it does not serve the call.

    ``pixels`` are queries, gradients of the output, keys and values; statistics and biases, if any, are what the pass
    by queries left.
    """
    layout = key_gradient.layout_of(shape)
    if layout is None or not all(map(tensor_maps.heads_side_by_side, pixels)):
        return None
    batch, tiles = len(pixels[0]), args.tiles_y * args.tiles_x
    order = order_of(batch, args.tiles_y, args.tiles_x, images_near(batch, key_gradient.row_bytes(shape, args.width)))
    if order is None:
        return None
    sizes = args.blocks_y * args.blocks_x, batch * shape.heads
    left = [mapped_lines(statistics, sizes, key_gradient.STATISTICS_LINES, key_gradient.STATISTICS_CHANNELS)]
    if biases is not None:
        left.append(mapped_lines(biases, sizes, key_gradient.QUERIES, key_gradient.BIAS_CHANNELS))
    maps = encoded(shape, (*map(mapped, pixels), *left))
    if maps is None:
        return None
    made = HopperKeyArgs(args=args, count=batch * tiles * shape.heads // layout.heads, order=order)
    ctypes.memmove(made.maps, maps, len(maps))
    return made


def mapped(tensor: Tensor) -> Mapped:
    """A map (b h H W d) as tensor maps know it: its pointer, width, height and batch, and their strides."""
    batch, _, height, width, _ = tensor.shape
    return tensor.data_ptr(), (width, height, batch), (tensor.stride(3), tensor.stride(2), tensor.stride(0))


def mapped_lines(tensor: Tensor, sizes: tuple[int, int], lines: int, channels: int) -> Mapped:
    """What a pass left for each block of each head, as lines of channels of 16 bits: a box is a block's, of heads."""
    blocks, heads = sizes
    return tensor.data_ptr(), (lines, heads, blocks), (channels, blocks * lines * channels, lines * channels)


@lru_cache(maxsize=1024)
def encoded(shape: Shape, tensors: tuple[Mapped, ...]) -> bytes | None:
    """The tensor maps of all tensors, encoded; none if the driver takes one of them for impossible."""
    maps = [tensor_maps.encode(shape.dtype, *tensors[box.tensor], box) for box in key_gradient.boxes(shape)]
    return None if None in maps else b"".join(one for one in maps if one)

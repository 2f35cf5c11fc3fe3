"""What the kernels serve: the class of shapes, and what a shape has of pixels, channels and pairs."""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables, Unsupported

Kernel = Literal["forward", "query_gradient", "key_gradient"]
HALF = {torch.bfloat16: 0, torch.float16: 1}
KEY_DIMS = (16, 32, 48, 64)
WIDEST_VALUE, WIDEST_SLICE = 256, 128  # of a head, and of what a kernel takes of it at a time
WIDEST_WINDOW, MOST_ENTRIES = 24, 32  # of a table, that a query can use
OCTET = 8  # pixels of a window's row come in eights
TABLE_ROWS = 32  # of a table, padded, in products and in its gradient
LARGE_BLOCK = 12  # with a wide window, larger ones are laid out in their own way


@dataclass(frozen=True, eq=False)
class Shape:
    """Everything about a call that its kernels know at compile time. ``shape_for`` makes them, each once.

    ``value_dim`` is that of the slice of the values that a kernel takes at a time; it fills it up to whole tiles of 16.
    """

    geometry: Geometry
    key_dim: int
    value_dim: int
    heads: int
    relative: bool
    dtype: torch.dtype

    @property
    def padded_value_dim(self) -> int:
        """Channels of the values that a kernel works on."""
        return whole(self.value_dim, 16)

    @property
    def large(self) -> bool:
        """Whether a window's row has more pixels than two octets, which come together, and its block many tiles."""
        return is_large(self.geometry)

    @property
    def lane_bytes(self) -> int:
        """Of 8 queries' biases, what a lane of the pass by keys reads."""
        if self.large:
            return 24
        return 16 if self.geometry.window <= 2 * OCTET else 32

    def tiles(self, kernel: Kernel) -> int:
        """Tiles of 16 that one head of a CTA works on: queries or, in the pass by keys, keys."""
        return -(-(self.geometry.block**2) // 16) if kernel == "key_gradient" else padded_queries(self.geometry) // 16


def is_large(geometry: Geometry) -> bool:
    """Whether a block of many tiles lies under a window whose rows are more than two octets."""
    return geometry.window > 2 * OCTET and geometry.block > LARGE_BLOCK


def line_bytes(channels: int, *, large: bool) -> int:
    """Bytes of a pixel in shared memory: chunks of 16, an odd number of them unless they are swizzled.

    A power of two is; in large windows from eight on.
    """
    chunks = channels // 8
    return 16 * (chunks if chunks & (chunks - 1) == 0 and (not large or chunks >= 8) else chunks | 1)


def shape_of(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Shape:
    """The shape class of a call.

    Raises:
        Unsupported: the call is outside the class, or its tensors cannot be read as they lie in memory.
    """
    value_dim = value.shape[-1]
    if value_dim % (8 if value_dim <= WIDEST_SLICE else 16) or value_dim > WIDEST_VALUE:
        raise Unsupported(
            f"fused_cuda has value heads of multiples of 8 up to {WIDEST_SLICE} and of 16 up to {WIDEST_VALUE}, "
            f"got {value_dim}"
        )
    shape = shape_for(
        seen_geometry(geometry, *key.shape[2:4]),
        query.shape[-1],
        value_dim // value_slices(value_dim),
        query.shape[1],
        query.dtype,
        relative=relative is not None,
    )
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not readable(tensor):
            raise Unsupported(f"fused_cuda reads channels-last memory, got a {name} with strides {tensor.stride()}")
    return shape


@lru_cache
def shape_for(
    geometry: Geometry, key_dim: int, value_dim: int, heads: int, dtype: torch.dtype, *, relative: bool
) -> Shape:
    """The one object for a shape class: what is remembered of a shape is found by its identity.

    Raises:
        Unsupported: the shape is outside the class.
    """
    if dtype not in HALF:
        raise Unsupported(f"fused_cuda computes in bfloat16 and float16, got {dtype}")
    if geometry.window > WIDEST_WINDOW:
        raise Unsupported(f"fused_cuda has windows of up to {WIDEST_WINDOW} pixels, got {geometry.window}")
    if geometry.window + geometry.block - 1 > MOST_ENTRIES:
        raise Unsupported(
            f"fused_cuda has windows and blocks of up to {MOST_ENTRIES + 1} pixels together, "
            f"got {geometry.window} and {geometry.block}"
        )
    if geometry.block % geometry.stride:
        raise Unsupported(f"fused_cuda needs a stride that divides the block, got {geometry.stride}, {geometry.block}")
    if key_dim not in KEY_DIMS:
        raise Unsupported(f"fused_cuda has key heads of {', '.join(map(str, KEY_DIMS))}, got {key_dim}")
    return Shape(geometry, key_dim, value_dim, heads, relative, dtype)


@lru_cache
def value_slices(value_dim: int) -> int:
    """In how many slices of one width the kernels take the values of a head: as few as they can.

    Widths that no kernel takes have a number too: what a call would cost is asked before it is refused.
    """
    least = -(-value_dim // WIDEST_SLICE)
    return least if value_dim % 16 else next(n for n in count(least) if value_dim % (16 * n) == 0)


def whole(number: int, unit: int) -> int:
    """So many, up to whole units."""
    return -(-number // unit) * unit


def summed_channels(value_dim: int) -> int:
    """Channels that the products with the values of a head have, in all slices."""
    slices = value_slices(value_dim)
    return slices * whole(-(-value_dim // slices), 16)


@lru_cache
def seen_geometry(geometry: Geometry, height: int, width: int) -> Geometry:
    """The geometry that the kernels work with: a halo of which nobody sees a pixel is none.

    That is so where one block covers the map, unless pixels outside the map count. The tables then lose
    ``2 * geometry.halo`` entries at either end.
    """
    if geometry.border == "masked" and max(height, width) <= geometry.block:
        return replace(geometry, halo=0)
    return geometry


def readable(tensor: Tensor) -> bool:
    """Whether each head of a pixel lies in one piece, in steps of 16 bytes."""
    return tensor.data_ptr() % 16 == 0 and readable_layout(tensor.shape, tensor.stride())


@lru_cache
def readable_layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape (b h H W d) and these strides is readable from where 16 bytes begin."""
    *outer, innermost = strides
    image = sum((size - 1) * stride for size, stride in zip(shape[1:4], outer[1:], strict=True))
    return innermost == 1 and not any(stride % 8 for stride in outer) and min(outer) >= 0 and image < 2**31 - 2**16


def padded_queries(geometry: Geometry) -> int:
    """Queries of a block, filled up to whole tiles of 16."""
    return whole(geometry.side**2, 16)


def scored_pairs(geometry: Geometry, height: int, width: int) -> int:
    """Query-key pairs of one head of one image that are scored: rows of the window in the image, in whole octets.

    Of windows of 18 pixels of large blocks, the last two columns come apart, four rows of them in an octet.
    """
    side, window = geometry.side, seen_geometry(geometry, height, width).window
    rows, keys = geometry.queries(height) * window, whole(window, OCTET)
    if geometry.border == "masked":
        rows = geometry.seen_along(height)
    scored = rows * keys
    if window == 2 * OCTET + 2 and is_large(geometry):
        scored = rows * 2 * OCTET + octets_apart(geometry, height) * OCTET
    return scored * geometry.blocks(width) * side


def octets_apart(geometry: Geometry, height: int) -> int:
    """Octets of four rows of a window that are scored, summed over rows of queries: those with a row in the image."""
    octets = 0
    for pixel in range(0, height, geometry.stride):
        rows = range(geometry.window)
        if geometry.border == "masked":
            top = pixel // geometry.block * geometry.block - geometry.halo
            rows = range(max(0, -top), min(geometry.window, height - top))
        octets += -(-rows.stop // 4) - rows.start // 4
    return octets

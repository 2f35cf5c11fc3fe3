"""A call of a kernel for Hopper: its argument, and the tensor maps by which windows are copied."""

import ctypes
from functools import lru_cache

import torch
from halobench.implementations.fused_cuda.hopper import forward, query_gradient
from halobench.implementations.fused_cuda.launch import Args, HopperArgs, HopperQueryArgs, Program, order_of
from halobench.implementations.fused_cuda.shapes import HALF, Shape
from torch import Tensor


def argument(shape: Shape, args: Args, query: Tensor, key: Tensor, value: Tensor) -> HopperArgs | None:
    """The forward kernel's argument, or none where it does not serve the call."""
    blocks = len(query) * shape.heads * args.blocks_y * args.blocks_x
    layout = forward.chosen(shape, blocks)
    found = None if layout is None else shared_argument("hopper", shape, layout.heads, args, (query, key, value))
    return None if found is None else found[0]


def query_argument(
    shape: Shape, args: Args, query: Tensor, key: Tensor, value: Tensor, output: Tensor, gradient: Tensor
) -> HopperQueryArgs | None:
    """The argument of the backward kernel by queries, or none where it does not serve the call."""
    layout, tensors = query_gradient.layout_of(shape), (query, key, value, gradient, output)
    found = None if layout is None else shared_argument("hopper_query", shape, layout.heads, args, tensors)
    if found is None:
        return None
    made = HopperQueryArgs(all=found[0])
    ctypes.memmove(made.maps, found[1], len(made.maps))
    return made


def shared_argument(
    kernel: Program, shape: Shape, heads: int, args: Args, tensors: tuple[Tensor, ...]
) -> tuple[HopperArgs, bytes] | None:
    """What the arguments of these kernels share, and the tensor maps that it has no room for.

    A stage of the kernel has so many ``heads``. None where the kernel does not serve the call.
    """
    if not all(map(heads_side_by_side, tensors)):
        return None
    key = tensors[1]
    batch, _, height, width = key.shape[:4]
    blocks = args.blocks_y * args.blocks_x
    order = order_of(batch, args.blocks_y, args.blocks_x)
    if order is None or batch * shape.heads * blocks * forward.BLOCK**2 >= 2**30:
        return None  # the kernels count log-sum-exps in 32 bits
    maps = encoded(
        kernel,
        shape,
        tuple(tensor.data_ptr() for tensor in tensors),
        (width, height, batch),
        tuple((tensor.stride(3), tensor.stride(2), tensor.stride(0)) for tensor in tensors),
    )
    if maps is None:
        return None
    made = HopperArgs(args=args, count=batch * blocks * shape.heads // heads, order=order)
    ctypes.memmove(made.maps, maps, len(made.maps))
    return made, maps[len(made.maps) :]


def heads_side_by_side(tensor: Tensor) -> bool:
    """Whether the heads of a pixel (b h H W d) lie in one piece, and no two pixels in one place."""
    heads, dim = tensor.shape[1], tensor.shape[-1]
    return (heads == 1 or tensor.stride(1) == dim) and all(tensor.stride(axis) for axis in (0, 2, 3))


@lru_cache(maxsize=1024)
def encoded(
    kernel: Program,
    shape: Shape,
    pointers: tuple[int, ...],
    sizes: tuple[int, int, int],
    strides: tuple[tuple[int, int, int], ...],
) -> bytes | None:
    """The tensor maps of a kernel's tensors, encoded; none if the driver takes one of them for impossible.

    ``sizes`` are width, height and batch, ``strides`` those of column, row and image of each, in elements.
    """
    boxes = (forward if kernel == "hopper" else query_gradient).boxes(shape)
    maps = [encode(shape.dtype, pointers[box.tensor], sizes, strides[box.tensor], box) for box in boxes]
    return None if None in maps else b"".join(one for one in maps if one)


def encode(
    dtype: torch.dtype, pointer: int, sizes: tuple[int, int, int], strides: tuple[int, int, int], box: forward.Box
) -> bytes | None:
    """A tensor map of boxes of channels, columns and rows, or none if the driver refuses it."""
    from cuda.bindings import driver  # noqa: PLC0415

    kind = driver.CUtensorMapDataType
    status, made = driver.cuTensorMapEncodeTiled(
        (kind.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kind.CU_TENSOR_MAP_DATA_TYPE_FLOAT16)[HALF[dtype]],
        4,
        pointer,
        [driver.cuuint64_t(size) for size in (box.all_channels, *sizes)],
        [driver.cuuint64_t(2 * stride) for stride in strides],
        [driver.cuuint32_t(size) for size in (box.channels, box.columns, box.rows, 1)],
        [driver.cuuint32_t(1)] * 4,
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{2 * box.channels}B"),
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    return None if int(status) else ctypes.string_at(int(made.getPtr()), forward.MAP_BYTES)

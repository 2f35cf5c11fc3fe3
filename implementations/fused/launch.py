"""The kernels on tensors: what is allocated, and how they are launched."""

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from halobench.implementations.fused.backward_keys import attend_backward_keys
from halobench.implementations.fused.backward_queries import attend_backward_queries
from halobench.implementations.fused.forward import attend_forward
from halobench.implementations.fused.soundness import Schedule, options, sound_schedule
from halobench.implementations.fused.tiles import KeyTile, Tiling, key_tiles, tiling
from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Unsupported

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LEAST_CAPABILITY = (8, 0)
PROGRAMS_PER_PROCESSOR = 4  # of the kernel that sums up the tables' gradients, each in a copy of its own


class Call(NamedTuple):
    """The inputs of one call, and how they are cut."""

    query: Tensor
    key: Tensor
    value: Tensor
    rows: Tensor | None
    columns: Tensor | None
    geometry: Geometry

    @property
    def tiling(self) -> Tiling:
        """The tiles for this geometry, dtype and heads."""
        return tiling(self.geometry, self.query.shape[-1], self.value.shape[-1], self.query.element_size())

    @property
    def query_tiles(self) -> int:
        """Tiles of queries, over images and heads."""
        batch, heads, height, width = self.query.shape[:4]
        return batch * heads * math.ceil(height / self.tiling.height) * math.ceil(width / self.tiling.width)

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """The tables, or tensors to stand in for them where there are none: the kernels then read neither."""
        return (self.query, self.query) if self.rows is None or self.columns is None else (self.rows, self.columns)

    @property
    def table_strides(self) -> tuple[int, int, int, int]:
        """Strides of the tables' entries and dims."""
        if self.rows is None or self.columns is None:
            return 0, 0, 0, 0
        return (*self.rows.stride(), *self.columns.stride())  # type: ignore[return-value]

    @property
    def from_first_query(self) -> tuple[Tensor, Tensor]:
        """Keys and values from the first query's pixel on: pointers to the others are before them."""
        above, left = self.geometry.above, self.geometry.left
        return self.key[:, :, above:, left:], self.value[:, :, above:, left:]

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Heads, then the ends of the keys' rows and columns, and height and width of the map of queries."""
        height, width = self.key.shape[2] - self.geometry.above, self.key.shape[3] - self.geometry.left
        return self.key.shape[1], height, width, self.query.shape[2], self.query.shape[3]

    @property
    def scale(self) -> float:
        """What a logit is multiplied by."""
        return float(self.query.shape[-1] ** -0.5)

    def constants(self, keys: KeyTile) -> dict[str, Any]:
        """What the kernels are compiled for; ``keys`` is the tile of keys that they walk over or own."""
        cut, geometry = self.tiling, self.geometry
        return {
            "BLOCK": geometry.block,
            "HALO": geometry.halo,
            "STRIDE": geometry.stride,
            "ABOVE": geometry.above,
            "BELOW": geometry.below,
            "LEFT": geometry.left,
            "RIGHT": geometry.right,
            "RELATIVE": self.rows is not None,
            "KEY_DIM": self.key.shape[-1],
            "VALUE_DIM": self.value.shape[-1],
            "PADDED_KEY_DIM": cut.key_dim,
            "PADDED_VALUE_DIM": cut.value_dim,
            "TILE_HEIGHT": cut.height,
            "TILE_WIDTH": cut.width,
            "QUERIES": cut.queries,
            "KEY_ROWS": keys.rows,
            "KEY_COLUMNS": keys.columns,
            "ROW_SPAN": keys.row_span,
            "COLUMN_SPAN": keys.column_span,
            "PRECISION": precision(),
        }


def precision() -> str:
    """How float32 is multiplied: exactly, or in TF32 where PyTorch is told to multiply matrices so."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def refuse(call: Call) -> None:
    """Raise ``Unsupported`` for what the kernels cannot do."""
    device, dtype = call.query.device, call.query.dtype
    if dtype not in DTYPES:
        raise Unsupported(f"fused computes in bfloat16, float16 and float32, got {dtype}")
    if device.type != "cuda" and not (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        raise Unsupported(f"fused needs a CUDA device (or Triton's interpreter: TRITON_INTERPRET=1), got {device}")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        raise Unsupported("fused needs a GPU of compute capability 8.0 or more")
    for tensor in (call.query, call.key, call.value):
        # The kernels' offsets within an image are 32-bit.
        if sum((size - 1) * step for size, step in zip(tensor.shape[2:], tensor.stride()[2:], strict=True)) >= 2**31:
            raise Unsupported("fused reads images of less than 2^31 elements from end to end")


def run(kernel: Any, programs: int, arguments: tuple[Any, ...], constants: dict[str, Any], wanted: Schedule) -> None:
    """Launch a kernel with the warps and stages that are wanted, or with others where it would be assembled wrongly."""
    schedule = sound_schedule(kernel, arguments, constants, wanted) if arguments[0].is_cuda else wanted
    kernel[(programs,)](*arguments, **constants, **options(schedule, arguments[0].dtype))


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Launch on the tensor's GPU, and on that GPU's current stream, whichever GPU is the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def pixels_like(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty (batch, heads, height, width, dim) whose pixels hold their heads side by side, channels-last."""
    batch, heads, height, width, dim = shape
    return tensor.new_empty((batch, height, width, heads, dim)).permute(0, 3, 1, 2, 4)


def empty_outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """What the forward kernel fills: the output, and the log-sum-exp in float32."""
    output = pixels_like(query, (*query.shape[:4], value.shape[-1]))
    return output, query.new_empty(query.shape[:4], dtype=torch.float32)


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """Output (batch, heads, height, width, value_dim) and log-sum-exp (batch, heads, height, width), in log 2.

    Raises:
        Unsupported: see ``refuse`` and ``tiles.tiling``.
    """
    refuse(call)
    cut = call.tiling
    output, log_sum_exp = empty_outputs(call.query, call.value)
    if output.numel() == 0:
        return output, log_sum_exp
    with on_device(call.query):
        arguments = (
            call.query, *call.from_first_query, *call.tables, output, log_sum_exp,
            *call.query.stride(), *call.key.stride(), *call.value.stride(), *call.table_strides, *call.sizes,
            call.scale * math.log2(math.e),
        )  # fmt: skip
        constants = {"PADDED": call.geometry.border == "zero", **call.constants(cut.walked)}
        run(attend_forward, call.query_tiles, arguments, constants, (cut.warps[0], cut.stages[0]))
    return output, log_sum_exp


class Gradients(NamedTuple):
    """A gradient for each input; those of the tables are empty where nobody wants them."""

    query: Tensor
    key: Tensor
    value: Tensor
    rows: Tensor
    columns: Tensor


def empty_gradients(query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None, *, tables: bool) -> Gradients:
    """What the backward kernels fill."""
    table = query.new_empty(rows.shape if tables and rows is not None else (0,))
    return Gradients(*(pixels_like(tensor, tensor.shape) for tensor in (query, key, value)), table, table.clone())


def backward(call: Call, cotangent: Tensor, output: Tensor, log_sum_exp: Tensor, *, tables: bool) -> Gradients:
    """The gradients of all inputs; ``tables`` says whether those of the tables are wanted."""
    gradients = empty_gradients(call.query, call.key, call.value, call.rows, tables=tables)
    if output.numel() == 0:
        return gradients._replace(rows=gradients.rows.zero_(), columns=gradients.columns.zero_())
    delta = log_sum_exp.new_empty(log_sum_exp.shape)
    with on_device(call.query):
        rows, columns = backward_queries(call, cotangent, output, log_sum_exp, delta, gradients.query, tables=tables)
        backward_keys(call, cotangent, log_sum_exp, delta, gradients.key, gradients.value)
    return gradients._replace(rows=rows, columns=columns) if tables else gradients


def backward_queries(
    call: Call,
    cotangent: Tensor,
    output: Tensor,
    log_sum_exp: Tensor,
    delta: Tensor,
    query_gradient: Tensor,
    *,
    tables: bool,
) -> tuple[Tensor, Tensor]:
    """Fill ``delta`` and ``query_gradient``; returns the gradients of the tables."""
    cut, entries = call.tiling, 2 * call.geometry.window - 1
    programs = min(call.query_tiles, PROGRAMS_PER_PROCESSOR * processors(call.query.device))
    shape = (programs, 2, entries, call.query.shape[-1]) if tables else (1,)
    partials = log_sum_exp.new_zeros(shape)
    arguments = (
        call.query, *call.from_first_query, *call.tables,
        output, cotangent, log_sum_exp, delta, query_gradient, partials,
        *call.query.stride(), *call.key.stride(), *call.value.stride(), *output.stride(), *cotangent.stride(),
        *call.table_strides, call.query_tiles, *call.sizes, call.scale * math.log2(math.e), call.scale,
    )  # fmt: skip
    constants = {
        "PADDED": call.geometry.border == "zero",
        "TABLES": tables,
        "HELD_ROWS": cut.held_rows,
        "HELD_SPAN": cut.held_span,
        **call.constants(cut.walked),
    }
    run(attend_backward_queries, programs, arguments, constants, (cut.warps[1], cut.stages[1]))
    if not tables:
        return partials, partials
    rows, columns = (partials.sum(0) * call.scale).to(call.query.dtype)
    return rows.clone(), columns.clone()


def backward_keys(
    call: Call, cotangent: Tensor, log_sum_exp: Tensor, delta: Tensor, key_gradient: Tensor, value_gradient: Tensor
) -> None:
    """Fill the gradients of keys and values."""
    cut, geometry = call.tiling, call.geometry
    batch, heads, height, width = call.key.shape[:4]
    down = key_tiles(geometry, height, cut.owned.rows, cut.height, geometry.above, geometry.below)
    across = key_tiles(geometry, width, cut.owned.columns, cut.width, geometry.left, geometry.right)
    arguments = (
        call.query, *call.from_first_query, *call.tables, cotangent, log_sum_exp, delta, key_gradient, value_gradient,
        *call.query.stride(), *call.key.stride(), *call.value.stride(), *cotangent.stride(), *call.table_strides,
        across.number, down.number, down.shift, across.shift, *call.sizes,
        call.scale * math.log2(math.e), call.scale,
    )  # fmt: skip
    programs = batch * heads * down.number * across.number
    run(attend_backward_keys, programs, arguments, call.constants(cut.owned), (cut.warps[2], cut.stages[2]))


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; one for Triton's interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1

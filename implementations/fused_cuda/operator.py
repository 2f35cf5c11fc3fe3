"""The operators ``halobench::fused_cuda`` and its backward: what PyTorch's compiler, autograd and counters see."""

from functools import lru_cache
from typing import Any

import torch
from halobench.implementations.fused_cuda import launch
from halobench.implementations.fused_cuda.cost import execution
from halobench.implementations.fused_cuda.hopper import key_call, query_gradient, tensor_maps
from halobench.implementations.fused_cuda.launch import Args, Program, View
from halobench.implementations.fused_cuda.layouts import layout_of, served
from halobench.implementations.fused_cuda.shapes import (
    TABLE_ROWS,
    Kernel,
    Shape,
    padded_queries,
    readable,
    shape_of,
)
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem, RelativeTables


def channels_last(like: Tensor, height: int, width: int, dim: int) -> Tensor:
    """An empty (batch, heads, height, width, dim), laid out as the next 1x1 convolution wants it."""
    batch, heads = like.shape[:2]
    return like.new_empty(batch, height, width, heads, dim).permute(0, 3, 1, 2, 4)


def log_sum_exps(query: Tensor, geometry: Geometry) -> Tensor:
    """An empty log-sum-exp for each query, in a row: of image, head, block and query, a block's up to whole tiles.

    No axis counts blocks, so that an exported program may have any number of them.
    """
    batch, heads, height, width = query.shape[:4]
    side = geometry.side
    blocks = -(-height // side) * -(-width // side)
    return query.new_empty(batch * heads * blocks * padded_queries(geometry), dtype=torch.float32)


@torch.library.custom_op("halobench::fused_cuda", mutates_args=())
def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    block: int,
    halo: int,
    stride: int,
    border: str,
) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exps (in powers of two) that the backward pass needs."""
    return attended(Call(query, key, value, rows, columns, geometry_of(block, halo, stride, border)))


@forward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    block: int,
    halo: int,
    stride: int,
    border: str,
) -> tuple[Tensor, Tensor]:
    output = channels_last(query, query.shape[2], query.shape[3], value.shape[-1])
    return output, log_sum_exps(query, geometry_of(block, halo, stride, border))


@torch.library.custom_op("halobench::fused_cuda_backward", mutates_args=())
def backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    output: Tensor,
    log_sum_exp: Tensor,
    block: int,
    halo: int,
    stride: int,
    border: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of query, key, value and of both tables (2, 2 * window - 1, key_dim); always deterministic."""
    call = Call(query, key, value, rows, columns, geometry_of(block, halo, stride, border))
    query_gradient, key_gradient, value_gradient = (
        channels_last(tensor, *tensor.shape[2:]) for tensor in (query, key, value)
    )
    gradients = query_gradient, key_gradient, value_gradient
    return (*gradients, differentiated(call, gradient, output, log_sum_exp, gradients))


@backward.register_fake
def _(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    output: Tensor,
    log_sum_exp: Tensor,
    block: int,
    halo: int,
    stride: int,
    border: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = (channels_last(tensor, *tensor.shape[2:]) for tensor in (query, key, value))
    return (*gradients, empty_tables(query, rows, geometry_of(block, halo, stride, border)))


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward operator takes."""
    ctx.save_for_backward(*inputs[:5], *output)
    ctx.geometry = inputs[5:]


def differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the forward operator's arguments."""
    query, key, value, rows, columns, output, log_sum_exp = ctx.saved_tensors
    *gradients, tables = backward(gradient, query, key, value, rows, columns, output, log_sum_exp, *ctx.geometry)
    by_table = (None, None) if rows is None else tables.unbind()
    return (*gradients, *by_table, None, None, None, None)


forward.register_autograd(differentiate, setup_context=save_for_backward)


def geometry_of(block: int, halo: int, stride: int, border: str) -> Geometry:
    """The geometry that an operator's plain arguments spell; the compiler's symbols for them become numbers."""
    return known_geometry(int(block), int(halo), int(stride), "zero" if border == "zero" else "masked")


known_geometry = lru_cache(Geometry)


def copyable(table: Tensor) -> Tensor:
    """A table as the kernels copy it, 16 bytes at a time: a small copy, where it does not lie like that already."""
    table = table.contiguous()
    return table.clone() if table.data_ptr() % 16 else table


class Call:
    """One call of the kernels: its shape and the arguments that both passes share."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
        geometry: Geometry,
    ) -> None:
        launch.demand_gpu(query.device)
        relative = None if rows is None or columns is None else RelativeTables(copyable(rows), copyable(columns))
        self.shape: Shape = served(shape_of(query, key, value, relative, geometry))
        self.query, self.key, self.value, self.geometry = query, key, value, geometry
        self.relative = relative  # kept alive until the kernels are launched
        self.batch, heads, height, width = key.shape[:4]
        self.args = args = Args(query=View.of(query), key=View.of(key))
        args.heads, args.height, args.width = heads, height, width
        args.query_height, args.query_width = query.shape[2:4]
        args.blocks_y, args.blocks_x = geometry.blocks(height), geometry.blocks(width)
        # Tiles of keys begin a halo before the blocks.
        seen = self.shape.geometry
        args.tiles_y, args.tiles_x = ((size - 1 + seen.halo) // seen.block + 1 for size in (height, width))
        args.scale = query.shape[-1] ** -0.5
        if relative is not None:
            args.first_entry = geometry.window - (seen.halo + seen.block)
            skipped = args.first_entry * query.shape[-1] * query.element_size()
            args.rows, args.columns = relative.rows.data_ptr() + skipped, relative.columns.data_ptr() + skipped

    def blocks(self, kernel: Kernel) -> int:
        """Blocks of queries, for all groups of heads of a kernel and all parts."""
        return self._groups(kernel) * self.args.blocks_y * self.args.blocks_x

    def key_tiles(self) -> int:
        """Tiles of keys, for all groups of heads and all parts."""
        return self._groups("key_gradient") * self.args.tiles_y * self.args.tiles_x

    def _groups(self, kernel: Kernel) -> int:
        layout = layout_of(self.shape, kernel)
        return self.batch * self.shape.heads // layout.heads * layout.parts

    def slices(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The values, their gradient or what is shaped like them, in the slices that the kernels take."""
        width = self.shape.value_dim
        return (tensor,) if tensor.shape[-1] == width else tensor.split(width, -1)  # a view takes microseconds

    def run(self, kernel: Kernel, ctas: int) -> None:
        """Launch a kernel."""
        launch.run(kernel, self.shape, self.args, ctas, self.query.device)

    def run_forward(self, value: Tensor) -> None:
        """Launch the forward kernel that suits the device and the call, on a slice of the values."""
        device = self.query.device
        tensors = self.query, self.key, value
        args = tensor_maps.argument(self.shape, self.args, *tensors) if launch.is_hopper(device) else None
        if args is None:
            return self.run("forward", self.blocks("forward"))
        ctas = min(args.count, launch.resident("hopper", self.shape, device))
        return launch.run("hopper", self.shape, args, ctas, device)

    def query_ctas(self) -> int:
        """CTAs of the kernel by queries: as many as the device holds, or fewer, one for each block."""
        on_hopper = launch.is_hopper(self.query.device) and query_gradient.layout_of(self.shape)
        program: Program = "hopper_query" if on_hopper else "query_gradient"
        return min(self.args.count, launch.resident(program, self.shape, self.query.device))

    def run_query_gradient(self, value: Tensor, output: Tensor, gradient: Tensor, ctas: int) -> None:
        """Launch the kernel by queries that suits the device and the call, on a slice of the values.

        Either takes any number of CTAs, and leaves the same for the kernel by keys.
        """
        device, tensors = self.query.device, (self.query, self.key, value, output, gradient)
        args = tensor_maps.query_argument(self.shape, self.args, *tensors) if launch.is_hopper(device) else None
        if args is None:
            return self.run("query_gradient", ctas)
        return launch.run("hopper_query", self.shape, args, ctas, device)

    def run_key_gradient(self, value: Tensor, gradient: Tensor, statistics: Tensor, biases: Tensor | None) -> None:
        """Launch the kernel by keys that suits the device and the call, on a slice of the values.

        It takes statistics and biases as the kernel by queries left them.
        """
        device, pixels = self.query.device, (self.query, gradient, self.key, value)
        args = None
        if launch.is_hopper(device):
            args = key_call.argument(self.shape, self.args, pixels, statistics, biases)
        if args is None:
            return self.run("key_gradient", self.args.entry_rows + self.key_tiles())
        ctas = min(args.count, launch.resident("hopper_key", self.shape, device))
        return launch.run("hopper_key", self.shape, args, ctas, device)


def attended(call: Call) -> tuple[Tensor, Tensor]:
    """The forward pass: the output, laid out channels-last, and the log-sum-exps."""
    query, value = call.query, call.value
    output = channels_last(query, query.shape[2], query.shape[3], value.shape[-1])
    log_sum_exp = log_sum_exps(query, call.geometry)
    if output.numel():
        call.args.log_sum_exp = log_sum_exp.data_ptr()
        for taken, into in zip(call.slices(value), call.slices(output), strict=True):
            call.args.value, call.args.output = View.of(taken), View.of(into)
            call.run_forward(taken)
    return output, log_sum_exp


def differentiated(
    call: Call, gradient: Tensor, output: Tensor, log_sum_exp: Tensor, into: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """The backward pass: fills the gradients of query, key and value, and returns those of both tables.

    The gradient of a weight is a sum over the values' channels, so each slice of them gives a share of all gradients
    but its own.
    """
    args, query, (dq, dk, dv) = call.args, call.query, into
    tables = empty_tables(query, args.rows, call.geometry)
    if not query.numel():
        return tables.zero_()
    if not readable(gradient):
        gradient = channels_last(gradient, *gradient.shape[2:]).copy_(gradient)
    args.log_sum_exp = log_sum_exp.data_ptr()
    statistics = log_sum_exp.new_empty(*log_sum_exp.shape, 2)
    args.statistics, args.count = statistics.data_ptr(), call.blocks("query_gradient")
    ctas = call.query_ctas()
    biases = None
    if call.shape.relative:
        biases = statistics.new_empty(log_sum_exp.numel() // 8, 32, call.shape.lane_bytes // 4)
        partials = statistics.new_empty(ctas, 2, TABLE_ROWS, query.shape[-1])
        args.biases, args.partials, args.partial_count = biases.data_ptr(), partials.data_ptr(), ctas
    args.entries, args.entry_rows = tables.shape[1], len(tables) * tables.shape[1]
    shares = dq, dk, tables
    for number, slices in enumerate(zip(*map(call.slices, (call.value, output, gradient, dv)), strict=True)):
        if number:
            shares = channels_last(dq, *dq.shape[2:]), channels_last(dk, *dk.shape[2:]), torch.empty_like(tables)
        args.value, args.output, args.output_gradient, args.value_gradient = map(View.of, slices)
        args.query_gradient, args.key_gradient = map(View.of, shares[:2])
        args.tables = shares[2].data_ptr()
        call.run_query_gradient(*slices[:3], ctas)
        call.run_key_gradient(slices[0], slices[2], statistics, biases)
        if number:
            for total, share in zip((dq, dk, tables), shares, strict=True):
                total.add_(share)
    return tables


def empty_tables(query: Tensor, rows: object, geometry: Geometry) -> Tensor:
    """Room for the gradients of both tables: (2, 2 * window - 1, key_dim), or (0, ...) where there are no tables."""
    return query.new_empty(0 if rows is None else 2, 2 * geometry.window - 1, query.shape[-1])


@register_flop_formula(torch.ops.halobench.fused_cuda, get_raw=True)
def _(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None, columns: Tensor | None,
    block: int, halo: int, stride: int, border: str, **_: object,
) -> int:  # fmt: skip
    return execution(Problem.of(query, key, value, rows, geometry_of(block, halo, stride, border))).forward_flops


@register_flop_formula(torch.ops.halobench.fused_cuda_backward, get_raw=True)
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None, columns: Tensor | None,
    output: Tensor, log_sum_exp: Tensor, block: int, halo: int, stride: int, border: str, **_: object,
) -> int:  # fmt: skip
    return execution(Problem.of(query, key, value, rows, geometry_of(block, halo, stride, border))).backward_flops

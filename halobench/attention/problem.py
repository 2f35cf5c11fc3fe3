"""The vocabulary shared by backends, instruments and suites: what is computed, and what may be refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from halobench.attention.geometry import BEYOND, Border, Geometry

Direction = Literal["forward", "training"]
"""What one call does: ``forward`` without gradients, or ``training``: forward, then the gradients of every input."""


class Unsupported(Exception):
    """A backend cannot do a problem. The message says why; nothing ever falls back to another backend."""


class RelativeTables(NamedTuple):
    """Relative positions, shared by the heads: two tables of shape (2 * window - 1, key_dim).

    The logit of query (i, j) and key (a, b), in absolute pixels, gains ``query . rows[a - i + window - 1]`` and
    ``query . columns[b - j + window - 1]``.
    """

    rows: Tensor
    columns: Tensor


class Inputs(NamedTuple):
    """The tensors of one call. Axis order: batch, heads, height, width, dim."""

    query: Tensor
    key: Tensor
    value: Tensor
    relative: RelativeTables | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, the tables among them: everything that has a gradient."""
        tables = {} if self.relative is None else self.relative._asdict()
        return {"query": self.query, "key": self.key, "value": self.value, **tables}


@dataclass(frozen=True)
class Problem:
    """One operator workload: the shapes and the dtype of an ``attend`` call.

    ``height`` and ``width`` count the pixels of keys and values; the queries have ``height / stride`` rows, rounded up,
    and as many columns, of a strip without the pixels beyond them.
    ``dtype`` is the name of a torch dtype, so that a problem can be written to a file.

    Raises:
        ValueError: a size is out of range, or the dtype is unknown.
    """

    geometry: Geometry
    height: int
    width: int
    batch: int = 1
    heads: int = 1
    key_dim: int = 16
    value_dim: int = 16
    relative: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("height", "width", "heads", "key_dim", "value_dim", "own_rows", "own_columns"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch < 0:
            raise ValueError(f"batch must not be negative, got {self.batch}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype must name a torch dtype such as 'bfloat16', got {self.dtype!r}")

    @property
    def own_rows(self) -> int:
        """Rows of pixels that queries stand on: ``height``, but of a strip."""
        return self.geometry.own_rows(self.height)

    @property
    def own_columns(self) -> int:
        """Columns of pixels that queries stand on: ``width``, but of a strip."""
        return self.geometry.own_columns(self.width)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def queries(self) -> int:
        """Queries of the whole call: over batch, heads and the (strided) map."""
        geometry = self.geometry
        return self.batch * self.heads * geometry.queries(self.own_rows) * geometry.queries(self.own_columns)

    @property
    def visible_pairs(self) -> int:
        """Query-key pairs of the whole call that a correct answer depends on (real keys only)."""
        return self.batch * self.heads * self.geometry.visible_pairs(self.height, self.width)

    @property
    def window_pairs(self) -> int:
        """Query-key pairs of the whole call when every block scores its full window, padding included."""
        geometry = self.geometry
        blocks = geometry.blocks(self.own_rows) * geometry.blocks(self.own_columns)
        return self.batch * self.heads * blocks * geometry.side**2 * geometry.window**2

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None, geometry: Geometry) -> "Problem":
        """The problem that these tensors belong to, as an operator gets them."""
        batch, heads, height, width, key_dim = key.shape
        dtype = str(query.dtype).removeprefix("torch.")
        return cls(geometry, height, width, batch, heads, key_dim, value.shape[-1], rows is not None, dtype)

    def inputs(self, device: torch.device | str = "cpu", *, seed: int = 0, requires_grad: bool = False) -> Inputs:
        """Fresh random inputs: standard normal, laid out as a channels-last layer produces them."""
        generator = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(self.torch_dtype)

        def pixels(height: int, width: int, dim: int) -> Tensor:
            return normal(self.batch, height, width, self.heads, dim).permute(0, 3, 1, 2, 4)

        query = pixels(self.geometry.queries(self.own_rows), self.geometry.queries(self.own_columns), self.key_dim)
        key, value = (pixels(self.height, self.width, dim) for dim in (self.key_dim, self.value_dim))
        relative = None
        if self.relative:
            entries = 2 * self.geometry.window - 1
            relative = RelativeTables(normal(entries, self.key_dim), normal(entries, self.key_dim))
        inputs = Inputs(query, key, value, relative)
        for tensor in inputs.tensors.values():
            tensor.requires_grad_(requires_grad)
        return inputs


@dataclass(frozen=True)
class LayerSpec:
    """A layer slot in a network, (batch, channels, H, W) -> (batch, value_channels, H / stride, W / stride).

    Sizes that are no multiple of the stride are rounded up.
    ``positions`` says how the layer fills its relative tables: ``"split"`` (the paper: rows meet the first half of a
    head's channels, columns the second), ``"sum"`` (the public ports: both full width), or ``None``. ``kernel`` is
    the side of the convolution that stands in for attention in the backend ``conv``; attention ignores it.

    Raises:
        ValueError: a size is out of range, or the positions are unknown.
    """

    channels: int
    heads: int
    key_dim: int
    value_dim: int
    geometry: Geometry
    positions: Literal["split", "sum"] | None = "split"
    kernel: int = 3

    def __post_init__(self) -> None:
        for name in ("channels", "heads", "key_dim", "value_dim", "kernel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.positions not in ("split", "sum", None):
            raise ValueError(f"positions must be 'split', 'sum' or None, got {self.positions!r}")
        if self.positions == "split" and self.key_dim < 2:
            raise ValueError("positions 'split' need a key_dim of at least 2, got 1")

    @property
    def value_channels(self) -> int:
        """Channels of the output."""
        return self.heads * self.value_dim

    def problem(self, batch: int, height: int, width: int, dtype: str) -> Problem:
        """The operator workload inside this layer on a map of ``height`` x ``width`` pixels."""
        return Problem(
            self.geometry,
            height,
            width,
            batch,
            self.heads,
            self.key_dim,
            self.value_dim,
            relative=self.positions is not None,
            dtype=dtype,
        )


@dataclass(frozen=True)
class Execution:
    """What a backend executes for a problem, in closed form: padding, dense masks and recomputation included.

    FLOPs count a multiply-add as two. ``stored`` counts the elements of intermediates that the forward pass writes to
    memory (gathered windows, score matrices, biases), the output not among them. A backend that has kernels of its own
    may name those that it launches, in order.
    """

    forward_flops: int
    backward_flops: int
    forward_exponentials: int
    backward_exponentials: int
    stored: int
    forward_kernels: tuple[str, ...] = ()
    backward_kernels: tuple[str, ...] = ()

    @classmethod
    def of_pairs(
        cls,
        problem: Problem,
        pairs: int,
        *,
        score_dim: int | None = None,
        bias_flops: int = 0,
        stored: int = 0,
        recomputes: bool = False,
    ) -> "Execution":
        """The cost of scoring ``pairs`` query-key pairs: two products forward, four backward.

        ``score_dim`` is the length of a score's product where it is not ``key_dim``. ``bias_flops`` computes the
        relative biases beforehand; they are kept. A backend that ``recomputes`` keeps no probabilities: its backward
        repeats the scores and the exponentials.
        """
        scores = 2 * (score_dim or problem.key_dim) * pairs
        forward = scores + 2 * problem.value_dim * pairs + bias_flops
        repeated = scores if recomputes else 0
        return cls(forward, 2 * forward + repeated, pairs, pairs if recomputes else 0, stored)


Attend = Callable[[Tensor, Tensor, Tensor, RelativeTables | None, Geometry], Tensor]
AttendPacked = Callable[[Tensor, RelativeTables | None, int, int, Geometry], Tensor]


def as_given(
    relative: RelativeTables | None, geometry: Geometry, height: int, width: int
) -> tuple[RelativeTables | None, Geometry]:
    """The halo attention that most backends compute: the one they were asked for."""
    del height, width
    return relative, geometry


@dataclass(frozen=True)
class Backend:
    """One way to mix pixels, under its name. ``attend`` is ``None`` where a backend is no attention (``conv``).

    ``build`` makes its layer: a ``HaloAttention`` unless it is no attention.
    ``meaning`` maps (relative, geometry, height, width) to the tables and geometry whose truth the backend computes:
    itself, except for a backend that ignores the geometry. ``borders`` lists the border rules it knows.
    ``strips`` says that it knows strips, whose keys and values go on beyond the queries' map (``Geometry``).
    ``execution`` gives its cost in closed form, or ``layer_execution`` that of a whole layer where it is no
    attention; without it the cost is unknown. ``compiles`` says that each shape is compiled, which takes seconds and
    hides the work from counters; ``capturable`` that a CUDA graph can hold a call, which must not synchronize then.
    """

    name: str
    summary: str
    attend: Attend | None
    build: Callable[[LayerSpec], nn.Module]
    execution: Callable[[Problem], Execution] | None = None
    layer_execution: Callable[[LayerSpec, Problem], Execution] | None = None
    meaning: Callable[[RelativeTables | None, Geometry, int, int], tuple[RelativeTables | None, Geometry]] = as_given
    borders: tuple[Border, ...] = ("masked", "zero")
    strips: bool = False
    compiles: bool = False
    capturable: bool = True


def refuse_transforms(backend: str) -> None:
    """Raise ``Unsupported`` where a transform of ``torch.func`` is active: jvp, vmap, jacrev and their like."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():  # noqa: SLF001 - no public name
        raise Unsupported(f"{backend} knows no transforms of torch.func")


def check_inputs(
    query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
) -> None:
    """Raise ``ValueError`` where the arguments of ``attend`` do not fit one another; the message names them."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 5:
            raise ValueError(f"{name} must be (batch, heads, height, width, dim), got shape {tuple(tensor.shape)}")
        if tensor.dtype != query.dtype or tensor.device != query.device:
            raise ValueError(
                f"query and {name} must share dtype and device, "
                f"got {query.dtype} on {query.device} and {tensor.dtype} on {tensor.device}"
            )
    batch, heads, height, width, key_dim = key.shape
    down, across = geometry.queries(geometry.own_rows(height)), geometry.queries(geometry.own_columns(width))
    expected = (batch, heads, down, across, key_dim)
    if query.shape != expected:
        beyond = ", ".join(f"{getattr(geometry, side)} {side}" for side in BEYOND if getattr(geometry, side))
        strip = f" with {beyond}" if geometry.strip else ""
        raise ValueError(
            f"query must be {expected} for a key of {tuple(key.shape)} and stride {geometry.stride}{strip}, "
            f"got {tuple(query.shape)}"
        )
    if value.shape[:4] != key.shape[:4]:
        raise ValueError(f"value must match the key's {tuple(key.shape[:4])}, got {tuple(value.shape)}")
    if relative is None:
        return
    table = (2 * geometry.window - 1, key_dim)
    for name, tensor in relative._asdict().items():
        if tensor.shape != table or tensor.dtype != query.dtype or tensor.device != query.device:
            raise ValueError(
                f"relative.{name} must be {table}, {query.dtype} on {query.device}, "
                f"got {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}"
            )

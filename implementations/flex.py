"""FlexAttention: tokens in block-major order, halo as a block mask, relative positions as a score modification.

In block-major order the pixels of a block are neighbours in the sequence, so the keys of a window lie in few tiles
and FlexAttention skips the rest. The bias of a query for every offset is one small product beforehand; the score
modification looks it up, and its gradient flows back to the tables. The kernel is compiled for each shape, whatever
their number; on the CPU too, where PyTorch has one for the forward pass only. Without ``torch.compile`` PyTorch runs an
unfused reference of the same operator, which nobody should measure: ``torch.compiler.set_stance("force_eager")`` has it
run here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from halobench.attention import formula
from halobench.attention.compilation import by_kind, kind
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Execution, Problem, RelativeTables, Unsupported, refuse_transforms

compiles = True
DECODING = 128  # below so many queries PyTorch takes its decoding kernel, unless told: it knows no such tiles


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention through ``flex_attention``.

    Raises:
        Unsupported: what FlexAttention refuses: gradients on the CPU, heads under 16 on the GPU, transforms of
            ``torch.func``, maps whose sizes are symbols.
    """
    refuse(query, key, value)
    order = BlockMajor(geometry, *key.shape[2:4])
    queries = formula.blocks(query, geometry)  # [b n R C i j d]
    tokens = queries.flatten(2, 5)
    score_mod = None
    if relative is not None:
        scale = query.shape[-1] ** -0.5
        score_mod = order.score_mod(tokens @ relative.rows.T * scale, tokens @ relative.columns.T * scale)
    inputs = tokens, order.key_tokens(key), order.key_tokens(value), score_mod
    mask_of = order, tile(query.shape[-1]), str(query.device)
    if torch.compiler.is_compiling() or isinstance(query, FakeTensor):  # a mask made there is of no use elsewhere
        output = scored(*inputs, block_mask.__wrapped__(*mask_of))
    else:
        output = compiled(kind(query, key, value, relative, geometry))(*inputs, block_mask(*mask_of))
    return formula.unblock(output.unflatten(2, queries.shape[2:6]), query.shape[2], query.shape[3])


def scored(
    tokens: Tensor, keys: Tensor, values: Tensor, score_mod: Callable[..., Tensor] | None, mask: BlockMask
) -> Tensor:
    """What is compiled: ``flex_attention`` (b n tokens d)."""
    options = {"FORCE_USE_FLEX_ATTENTION": True} if tokens.shape[2] < DECODING else None
    return flex_attention(tokens, keys, values, score_mod, mask, kernel_options=options)


compiled = by_kind(scored, "inductor")


@dataclass(frozen=True)
class BlockMajor:
    """Where the tokens of a map of ``height`` x ``width`` pixels sit, queries and keys both in block-major order.

    Keys live on a canvas of whole blocks; under border ``"zero"`` it extends beyond the image by the halo.
    """

    geometry: Geometry
    height: int
    width: int

    @property
    def margin(self) -> int:
        """Pixels of the canvas before the image, in whole blocks."""
        geometry = self.geometry
        return -(-geometry.halo // geometry.step) * geometry.step if geometry.border == "zero" else 0

    def key_tokens(self, pixels: Tensor) -> Tensor:
        """The map's pixels in block-major order: (b n H W d) -> (b n tokens d)."""
        step, margin = self.geometry.step, self.margin
        bottom, right = margin + -self.height % step, margin + -self.width % step
        canvas = F.pad(pixels, (0, 0, margin, right, margin, bottom))
        return canvas.unflatten(3, (-1, step)).unflatten(2, (-1, step)).transpose(3, 4).flatten(2, 5)

    def query_pixel(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """The pixel (i, j) that a query token sits on."""
        blocks, side = self.geometry.blocks(self.width), self.geometry.side
        block, inner = token // side**2, token % side**2
        i = block // blocks * self.geometry.step + inner // side * self.geometry.stride
        j = block % blocks * self.geometry.step + inner % side * self.geometry.stride
        return i, j

    def key_pixel(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """The pixel (a, b) that a key token sits on; outside the image on the margin."""
        step, margin = self.geometry.step, self.margin
        blocks = self.geometry.blocks(self.width) + 2 * margin // step
        block, inner = token // step**2, token % step**2
        return block // blocks * step + inner // step - margin, block % blocks * step + inner % step - margin

    def sees(self, query_token: Tensor, key_token: Tensor) -> Tensor:
        """Whether the query sees the key."""
        (i, j), (a, b) = self.query_pixel(query_token), self.key_pixel(key_token)
        return self.sees_along(i, a, self.height) & self.sees_along(j, b, self.width)

    def sees_along(self, query: Tensor, key: Tensor, size: int) -> Tensor:
        """Whether the query's pixel sees the key's along an axis of ``size`` pixels."""
        block, halo = self.geometry.block, self.geometry.halo
        start = query // block * block
        visible = (key >= start - halo) & (key < start + block + halo)
        return visible & (key < size) if self.geometry.border == "masked" else visible

    def score_mod(self, row_bias: Tensor, column_bias: Tensor) -> Callable[..., Tensor]:
        """A score modification that adds a query's bias for the key's offset; biases (b n tokens 2 * window - 1)."""
        last = 2 * self.geometry.window - 2

        def add_positions(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            (i, j), (a, b) = self.query_pixel(query), self.key_pixel(key)
            # Pairs that the mask hides may lie beyond the tables; they are looked up all the same.
            row = (a - i + self.geometry.window - 1).clamp(0, last)
            column = (b - j + self.geometry.window - 1).clamp(0, last)
            return score + row_bias[batch, head, query, row] + column_bias[batch, head, query, column]

        return add_positions

    @property
    def lengths(self) -> tuple[int, int]:
        """Number of query tokens and of key tokens."""
        rows, columns = self.geometry.blocks(self.height), self.geometry.blocks(self.width)
        extra = 2 * self.margin // self.geometry.step
        return (
            rows * columns * self.geometry.side**2,
            (rows + extra) * (columns + extra) * self.geometry.step**2,
        )


def tile(key_dim: int) -> int:
    """Tokens along a side of FlexAttention's sparse tiles: an 8 x 8 block, or what its kernels for wide heads need."""
    return 64 if key_dim < 64 else 128


@lru_cache(maxsize=4)
def block_mask(order: BlockMajor, side: int, device: str) -> BlockMask:
    """The sparse tiles of the score matrix; a model builds them once and keeps them, so this is remembered."""
    queries, keys = order.lengths
    return create_block_mask(
        lambda _batch, _head, query, key: order.sees(query, key),
        None, None, queries, keys, device=device, BLOCK_SIZE=side,
    )  # fmt: skip


def refuse(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise ``Unsupported`` for what FlexAttention refuses, or its mask, which is of one size of map."""
    refuse_transforms("flex")
    if any(isinstance(size, torch.SymInt) for size in key.shape[2:4]):
        raise Unsupported("flex has a block mask for one size of map: height and width cannot be symbols")
    gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    if query.device.type == "cpu" and gradients:
        raise Unsupported("FlexAttention has no backward on the CPU")
    if query.is_cuda and min(query.shape[-1], value.shape[-1]) < 16:
        raise Unsupported(f"FlexAttention needs heads of at least 16, got {query.shape[-1]} and {value.shape[-1]}")
    if query.shape[0] == 0:
        raise Unsupported("FlexAttention takes no empty batch")


def execution(problem: Problem) -> Execution:
    """Every tile that holds a visible pair is scored whole.

    Each query's bias for every offset is stored, and query, key and value in block-major order.
    """
    order = BlockMajor(problem.geometry, problem.height, problem.width)
    images = problem.batch * problem.heads
    queries, keys = (images * length for length in order.lengths)
    offsets = 2 * (2 * problem.geometry.window - 1) if problem.relative else 0
    return Execution.of_pairs(
        problem,
        images * visible_tiles(order, tile(problem.key_dim)) * tile(problem.key_dim) ** 2,
        bias_flops=2 * queries * offsets * problem.key_dim,
        stored=queries * (problem.key_dim + offsets) + keys * (problem.key_dim + problem.value_dim),
        recomputes=True,
    )


@lru_cache(maxsize=4)
def visible_tiles(order: BlockMajor, side: int) -> int:
    """How many tiles of the score matrix hold a visible pair, without the score matrix."""
    seen: dict[int, set[int]] = {}  # by tile of queries, the tiles of keys
    queries, keys = (torch.arange(length) for length in order.lengths)
    (i, j), (a, b) = order.query_pixel(queries), order.key_pixel(keys)
    # All queries of a block see the same keys, so its first query speaks for it.
    for first in range(0, len(queries), order.geometry.side**2):
        rows, columns = order.sees_along(i[first], a, order.height), order.sees_along(j[first], b, order.width)
        tiles = set((keys[rows & columns] // side).tolist())
        for queries_tile in range(first // side, (first + order.geometry.side**2 - 1) // side + 1):
            seen.setdefault(queries_tile, set()).update(tiles)
    return sum(map(len, seen.values()))

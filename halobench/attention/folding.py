"""Positions and border folded into the head dimension, so that a plain attention kernel computes them.

    logit = q . k + r[y] + c[x]   with   r[y] = q . rows[offset of y],  c[x] = q . columns[offset of x]
          = [q, r, c] . [k, onehot(y), onehot(x)]

The query carries its bias for every row and column of the window, the key a one-hot of where it sits. A row outside
the image gets a bias so low that its weight is exactly zero. No mask and no bias matrix is ever needed: the scores
stay inside the kernel, for a head dimension that grows by the two sides of the window.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from halobench.attention.compilation import exporting

ALIGNMENT = 8  # fused kernels want 16-byte rows in half precision
CUDNN_BATCH = 2**16


def fold(
    queries: Tensor,
    keys: Tensor,
    vectors: tuple[Tensor, Tensor] | None,
    visible: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Queries and keys with positions and border in their head dimension.

    Args:
        queries: (b n R C i j d).
        keys: (b n R C y x d).
        vectors: the tables' vectors for each pair along an axis, (i y d) and (j x d), or ``None``.
        visible: whether each row and column of a window is real, as (R 1 1 1 y) and (C 1 1 x), or ``None`` for all.

    Returns:
        (b n R C i j D) and (b n R C y x D), D a multiple of 8 and at least d. Their product is the unscaled logit.
    """
    height, width = keys.shape[4:6]
    query_parts, key_parts = [queries], [keys]
    if vectors is not None or visible is not None:
        row_bias = queries.new_zeros(*queries.shape[:-1], height)
        column_bias = queries.new_zeros(*queries.shape[:-1], width)
        if vectors is not None:
            row_bias = torch.einsum("bnRCijd,iyd->bnRCijy", queries, vectors[0])
            column_bias = torch.einsum("bnRCijd,jxd->bnRCijx", queries, vectors[1])
        if visible is not None:
            hidden = -torch.finfo(queries.dtype).max / 4  # two of them still sum to a finite number
            rows, columns = visible
            row_bias = row_bias.masked_fill(~rows, hidden)
            column_bias = column_bias.masked_fill(~columns, hidden)
        query_parts += [row_bias, column_bias]
        at_row = torch.eye(height, dtype=keys.dtype, device=keys.device)[:, None]  # [y 1 y]
        at_column = torch.eye(width, dtype=keys.dtype, device=keys.device)[None]  # [1 x x]
        key_parts += [part.expand(*keys.shape[:-1], -1) for part in (at_row, at_column)]
    spare = -sum(part.shape[-1] for part in query_parts) % ALIGNMENT
    return F.pad(torch.cat(query_parts, -1), (0, spare)), F.pad(torch.cat(key_parts, -1), (0, spare))


def folded_dim(key_dim: int, height: int, width: int, *, needed: bool) -> int:
    """The head dimension D after folding windows of ``height`` x ``width`` (only padded where not ``needed``)."""
    dim = key_dim + height + width if needed else key_dim
    return dim + -dim % ALIGNMENT


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """PyTorch's fused attention over (..., tokens, dim); any number of leading axes is its batch.

    On the CPU the fused kernel takes equal head dimensions only, so values are padded to the keys' there.
    """
    spare = max(keys.shape[-1] - values.shape[-1], 0) if values.device.type == "cpu" else 0
    query, key, value = (tokens.flatten(0, -3)[:, None] for tokens in (queries, keys, F.pad(values, (0, spare))))
    with kernels_for(query):
        output = F.scaled_dot_product_attention(query, key, value, scale=scale)
    return output[..., : values.shape[-1]].view(*queries.shape[:-1], values.shape[-1])


def kernels_for(query: Tensor) -> AbstractContextManager[None]:
    """Leave the choice of the kernel to PyTorch, but for batches that its choice cannot take.

    None of the fused kernels has a backward for an empty batch, and cuDNN's fails from 65536 entries on. An exported
    program does not know its batch: there the choice is PyTorch's.
    """
    if exporting():
        return nullcontext()
    if query.shape[0] == 0:
        return sdpa_kernel(SDPBackend.MATH)
    if query.shape[0] >= CUDNN_BATCH:
        return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    return nullcontext()

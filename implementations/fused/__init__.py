"""Fused: one Triton kernel forward, two backward; no window, score or bias ever reaches memory.

A tile of queries walks over the tiles of keys that it sees, with an online softmax. Relative positions and visibility
are terms of a query and a row or column of keys, so a pair costs two additions for them. Maps are read where they
lie, whatever their strides. Backward, one kernel owns queries and another owns keys; both compute the weights again
from the log-sum-exp that the forward pass keeps for each query. Nothing is added to memory that another program adds
to, so results are the same from run to run, bit for bit. ``docs/kernels.md`` has the whole story.

Every geometry, border and stride, also where block and stride do not divide one another; bfloat16, float16 and float32
(IEEE, or TF32 where ``torch.backends.cuda.matmul`` says so); heads of up to 256. Under border ``"zero"`` the padded
keys are scored like others. The module compiles kernels for each geometry, pair of head sizes and dtype at first use.
"""

import torch
from halobench.implementations.fused.cost import execution
from halobench.implementations.fused.operator import fused_attend
from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables, refuse_transforms

__all__ = ["attend", "compiles", "execution", "strips"]

compiles = True
strips = True


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention: (b n H/s W/s d), (b n H W d), (b n H W e) -> (b n H/s W/s e), channels-last in memory.

    Under autocast the inputs are cast as for a matrix product. The output has gradients, but no second ones.

    Raises:
        Unsupported: no CUDA device of compute capability 8.0 or more, another dtype, heads above 256, strides in
            the hundreds, images of 2^31 elements or more, or a transform of ``torch.func``.
    """
    refuse_transforms("fused")
    device = query.device.type
    if device != "meta" and torch.is_autocast_enabled(device):  # which asks about real devices only
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        relative = None if relative is None else RelativeTables(relative.rows.to(dtype), relative.columns.to(dtype))
    rows, columns = (None, None) if relative is None else relative
    output, _ = fused_attend(
        query, key, value, rows, columns, geometry.block, geometry.halo, geometry.stride, geometry.border == "zero",
        geometry.above, geometry.below, geometry.left, geometry.right,
    )  # fmt: skip
    return output

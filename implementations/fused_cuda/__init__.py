"""Fused CUDA: our kernels in CUDA C++ for windows of up to 24 pixels (33 with their block), in half precision.

Nothing of the size queries x keys reaches memory: the forward pass stores the output and one log-sum-exp per query and
head. Three kernels (``forward.cu``, ``query_gradient.cu``, ``key_gradient.cu``) share what ``halo.cuh`` explains; NVRTC
compiles them at the first call with a geometry, in seconds, and the machine code is remembered on disk. On Hopper,
those of ``hopper/`` take their places for blocks of 8 x 8. All are deterministic, always. ``docs/kernels.md`` tells why
they look as they do.
"""

import torch
from halobench.implementations.fused_cuda.cost import execution
from halobench.implementations.fused_cuda.operator import forward
from halobench.implementations.fused_cuda.packed import attend_packed
from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables, refuse_transforms

__all__ = ["attend", "attend_packed", "execution"]


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention in one kernel; arguments and result as ``formula.attend``, the result channels-last in memory.

    Raises:
        Unsupported: no GPU of compute capability 8.0, or a call outside the class that ``shapes.shape_of`` describes,
            or one that ``layouts.served`` finds no room for, or a transform of ``torch.func``.
    """
    refuse_transforms("fused_cuda")
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        relative = None if relative is None else RelativeTables(*(table.to(dtype) for table in relative))
    rows, columns = (None, None) if relative is None else relative
    output: Tensor = forward(
        query, key, value, rows, columns, geometry.block, geometry.halo, geometry.stride, geometry.border
    )[0]
    return output

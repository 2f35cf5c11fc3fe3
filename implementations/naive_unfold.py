"""Naive unfold: windows copied out of zero-padded keys and values by ``F.unfold``, as most tutorials do.

``F.unfold`` writes every window of every channel to memory, (window / block)^2 times the map, and the reshape to
block order copies them once more. The idea is easy to read and expensive to run: the baseline of every speed-up.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from halobench.attention import formula
from halobench.attention.geometry import Geometry


def windows(pixels: Tensor, geometry: Geometry) -> Tensor:
    """All windows of the map through ``F.unfold``: (b n H W d) -> (b n R C y x d)."""
    batch, heads, _, _, dim = pixels.shape
    rows = geometry.blocks(geometry.own_rows(pixels.shape[2]))
    columns = geometry.blocks(geometry.own_columns(pixels.shape[3]))
    image = formula.pad_to_windows(pixels, geometry).permute(0, 1, 4, 2, 3).flatten(1, 2)  # [b (n d) H' W']
    columns_of_windows = F.unfold(image, geometry.window, stride=geometry.step)  # [b (n d y x) (R C)]
    shape = (batch, heads, dim, geometry.window, geometry.window, rows, columns)
    return columns_of_windows.view(shape).permute(0, 1, 5, 6, 3, 4, 2)


attend = partial(formula.attend, windows=windows)
strips = True
execution = partial(formula.execution, copies=2)

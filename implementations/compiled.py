"""Compiled: ``torch.compile`` of the readable formula, what PyTorch makes of it unaided.

The compiler fuses bias, mask and softmax around the matrix products, but keeps windows and scores in memory. Each
geometry and shape compiles anew. ``fullgraph=True``: where the compiler gives up, it says so instead of running
eagerly; a process that compiles many shapes calls ``torch.compiler.reset()`` between them.
"""

import torch
from torch import Tensor

from halobench.attention import formula
from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables

compiles = True
compiled_formula = torch.compile(formula.attend, fullgraph=True, dynamic=False)
execution = formula.execution


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention through the compiled formula; arguments and result as ``formula.attend``."""
    formula.check_tiles(geometry)  # outside the compiled region, which cannot raise it
    return compiled_formula(query, key, value, relative, geometry)

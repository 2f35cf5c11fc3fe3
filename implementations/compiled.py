"""Compiled: ``torch.compile`` of the readable formula, what PyTorch makes of it unaided.

The compiler fuses bias, mask and softmax around the matrix products, but keeps windows and scores in memory. Each
geometry and shape compiles anew, whatever their number. ``fullgraph=True``: where the compiler gives up, it says so
instead of running eagerly. Inside somebody else's compiled region, or an export, the formula is traced as it stands.
"""

import torch
from torch import Tensor

from halobench.attention import formula
from halobench.attention.compilation import by_kind, kind
from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables, refuse_transforms

compiles = True
strips = True
compiled_formula = by_kind(formula.attend, "inductor")
execution = formula.execution


def attend(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Tensor:
    """Halo attention through the compiled formula; arguments and result as ``formula.attend``.

    Raises:
        Unsupported: as ``formula.attend``, or a transform of ``torch.func``.
    """
    formula.check_tiles(geometry)  # outside the compiled region, which cannot raise it
    refuse_transforms("compiled")
    if torch.compiler.is_compiling():
        return formula.attend(query, key, value, relative, geometry)
    call = query, key, value, relative, geometry
    return compiled_formula(kind(*call))(*call)

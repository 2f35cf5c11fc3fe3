"""halobench: the reference suite for halo attention."""

from halobench import backends
from halobench.geometry import Geometry
from halobench.layer import HaloAttention
from halobench.problem import Backend, LayerSpec, Problem, RelativeTables, Unsupported

__all__ = [
    "Backend",
    "Geometry",
    "HaloAttention",
    "LayerSpec",
    "Problem",
    "RelativeTables",
    "Unsupported",
    "backends",
]
__version__ = "0.1.0"

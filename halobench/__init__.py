"""halobench: the reference suite for halo attention. What stands here is what other people's backends and code need."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from halobench.attention import backends, formula
from halobench.attention.geometry import Geometry
from halobench.attention.layer import HaloAttention
from halobench.attention.problem import Backend, Execution, LayerSpec, Problem, RelativeTables, Unsupported

__all__ = [
    "Backend",
    "Execution",
    "Geometry",
    "HaloAttention",
    "LayerSpec",
    "Problem",
    "RelativeTables",
    "Unsupported",
    "backends",
    "formula",
]
__version__ = "0.1.0"

if not (Path(__file__).parent / "implementations").is_dir():
    # A checkout: implementations/ lies beside this package, into which an installation puts it (setup.py). It becomes
    # the same subpackage here, before an import looks elsewhere: a checkout sees its own, whatever else is installed.
    _spec = spec_from_file_location(
        "halobench.implementations", Path(__file__).parents[1] / "implementations" / "__init__.py"
    )
    assert _spec is not None
    assert _spec.loader is not None
    implementations = sys.modules[_spec.name] = module_from_spec(_spec)
    _spec.loader.exec_module(implementations)

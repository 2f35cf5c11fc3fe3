"""halobench: the reference suite for halo attention. What stands here is what other people's backends and code need.

It is imported when it is asked for: what reads results needs no PyTorch, and does not wait for it.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_HOMES = {"Geometry": "geometry", "HaloAttention": "layer"}  # the others are of ``attention.problem``


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("backends", "formula"):
        return import_module(f"halobench.attention.{name}")
    return getattr(import_module(f"halobench.attention.{_HOMES.get(name, 'problem')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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

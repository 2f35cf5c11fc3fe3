"""The registry of backends: the package ``halobench.implementations``, and the entry points of other packages.

A backend is a module that defines ``attend`` (a halo attention operator) or, if it mixes pixels in another way,
``build`` (a layer). Beside ``attend``, ``attend_packed`` is the same on one map that holds queries, keys and values
side by side; layers then project all three at once. It may also define ``execution`` (``layer_execution`` where there
is no ``attend``), ``meaning``, ``borders``, ``strips``, ``compiles`` and ``capturable``; see
``attention.problem.Backend``.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from halobench.attention.compilation import exporting
from halobench.attention.geometry import Geometry
from halobench.attention.layer import HaloAttention
from halobench.attention.problem import (
    Attend,
    AttendPacked,
    Backend,
    RelativeTables,
    Unsupported,
    as_given,
    check_inputs,
)

PACKAGE = "halobench.implementations"
ENTRY_POINTS = "halobench.backends"


def names() -> list[str]:
    """The names of all backends, installed packages missing or not, in alphabetical order."""
    package = importlib.import_module(PACKAGE)
    own = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    return sorted(own | set(others()))


def load(name: str) -> Backend:
    """The backend of this name.

    Raises:
        ValueError: there is no such backend; the message lists those there are.
        ModuleNotFoundError: the backend needs a package that is not installed; ``.name`` says which.
        TypeError: the module defines neither ``attend`` nor ``build``.
    """
    if name not in names():
        raise ValueError(f"no backend is called {name!r}; there are {', '.join(names())}")
    extra = others().get(name)
    module: ModuleType = extra.load() if extra else importlib.import_module(f"{PACKAGE}.{name}")
    attend = None
    if hasattr(module, "attend"):
        strips = getattr(module, "strips", False)
        attend = Operator(name, module.attend, getattr(module, "attend_packed", None), strips=strips)
    build = getattr(module, "build", None)
    if build is None:
        if attend is None:
            raise TypeError(f"backend {name!r} ({module.__name__}) defines neither attend nor build")
        build = partial(HaloAttention, attend=attend)
    return Backend(
        name,
        summary=(module.__doc__ or "").strip().partition("\n")[0].replace("``", ""),
        attend=attend,
        build=build,
        execution=getattr(module, "execution", None),
        layer_execution=getattr(module, "layer_execution", None),
        meaning=getattr(module, "meaning", as_given),
        borders=getattr(module, "borders", ("masked", "zero")),
        strips=getattr(module, "strips", False),
        compiles=getattr(module, "compiles", False),
        capturable=getattr(module, "capturable", True),
    )


def others() -> dict[str, EntryPoint]:
    """Backends that other packages add through the entry-point group ``halobench.backends``."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


@dataclass(frozen=True)
class Operator:
    """A backend's ``attend`` with its arguments checked first, so that bad input reads the same from every backend.

    ``packed`` is its ``attend_packed``, or ``None``. What is pickled, or traced by ``torch.fx``, is the backend's name:
    where that is loaded, the backend must be there.
    """

    backend: str
    attend: Attend
    packed: AttendPacked | None = None
    strips: bool = False

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
    ) -> Tensor:
        """As ``attend``.

        Raises:
            ValueError: the arguments do not fit one another.
            Unsupported: the backend refuses them, or they are a strip and it knows none.
        """
        if geometry.strip and not self.strips:
            raise Unsupported(f"{self.backend} knows no strips, whose keys go on beyond the queries' map")
        if not exporting():  # comparing sizes would fix those that are to stay symbols
            check_inputs(query, key, value, relative, geometry)
        return self.attend(query, key, value, relative, geometry)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return operator, (self.backend,)

    def __fx_create_arg__(self, tracer: torch.fx.Tracer) -> torch.fx.Node:
        return tracer.create_node("call_function", operator, (self.backend,), {})


@lru_cache
def operator(name: str) -> Attend:
    """The ``attend`` of the backend of this name.

    Raises:
        ValueError: there is no such backend, or it is no attention.
        ModuleNotFoundError: as ``load``.
    """
    attend = load(name).attend
    if attend is None:
        raise ValueError(f"backend {name!r} is no attention")
    return attend

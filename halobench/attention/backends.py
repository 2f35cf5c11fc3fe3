"""The registry of backends: the package ``halobench.implementations``, and the entry points of other packages.

A backend is a module that defines ``attend`` (a halo attention operator) or, if it mixes pixels in another way,
``build`` (a layer). Beside ``attend``, ``build`` gives a ``HaloAttention`` that suits it better. It may also define
``execution`` (``layer_execution`` where there is no ``attend``), ``meaning``, ``borders``, ``compiles`` and
``capturable``; see ``halobench.attention.problem.Backend``.
"""

import importlib
import pkgutil
from functools import partial, wraps
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.attention.layer import HaloAttention
from halobench.attention.problem import Attend, Backend, RelativeTables, as_given, check_inputs

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
    attend = checked(module.attend) if hasattr(module, "attend") else None
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
        compiles=getattr(module, "compiles", False),
        capturable=getattr(module, "capturable", True),
    )


def others() -> dict[str, EntryPoint]:
    """Backends that other packages add through the entry-point group ``halobench.backends``."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def checked(attend: Attend) -> Attend:
    """``attend`` with its arguments checked first, so that bad input reads the same from every backend."""

    @wraps(attend)
    def checked_attend(
        query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
    ) -> Tensor:
        check_inputs(query, key, value, relative, geometry)
        return attend(query, key, value, relative, geometry)

    return checked_attend

"""What operators ask of PyTorch's compiler: whether they are exported, and a copy of a function for each kind of call.

``torch.compile`` remembers what it made on a function's code, and gives up at the ninth kind of call that one code has
met (``torch._dynamo.config.recompile_limit``). A network with four maps, trained and evaluated, meets eight. So each
kind of call gets a copy of the code, which meets no other.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables

MOST_KINDS = 256  # the one met longest ago is forgotten, and compiled anew if it returns
# Until PyTorch 2.14, vectors that a CPU's threads add to what others add to went astray: gradients of values were wrong
# (pytorch/pytorch#191837). ``torch.__version__`` compares as versions do.
INDUCTOR_OPTIONS: dict[str, Any] = {} if torch.__version__ >= "2.14" else {"cpp.simdlen": 1}


def exporting() -> bool:
    """Whether ``torch.export`` traces this call, whose sizes may be symbols; not whether ``torch.compile`` does.

    ``torch.compiler.is_exporting()`` returns the same, but to PyTorch 2.11's compiler it is true of all it compiles.
    """
    return torch.compiler._is_exporting_flag  # noqa: SLF001


def kind(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry) -> Hashable:
    """All of a call that static code depends on: equal for two calls that the same code serves."""
    tensors = (query, key, value, *(relative or ()))
    fields = ((one.shape, one.stride(), one.dtype, one.device, one.requires_grad) for one in tensors)
    device = query.device.type
    cast = device != "meta" and torch.is_autocast_enabled(device)
    return geometry, torch.is_grad_enabled(), cast, *fields


def by_kind(
    function: Callable[..., Tensor], backend: str | Callable[..., Any]
) -> Callable[[Hashable], Callable[..., Tensor]]:
    """From the kind of a call to a copy of ``function`` that is compiled for it, whole and with static shapes."""
    assert isinstance(function, FunctionType)

    @lru_cache(MOST_KINDS)
    def copy(_: Hashable) -> Any:
        code, names = function.__code__.replace(), function.__globals__
        twin = FunctionType(code, names, function.__name__, function.__defaults__, function.__closure__)
        options = INDUCTOR_OPTIONS if backend == "inductor" else None
        return torch.compile(twin, fullgraph=True, dynamic=False, backend=backend, options=options)

    return copy

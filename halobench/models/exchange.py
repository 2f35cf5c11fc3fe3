"""Modules that become ours and what they were again: the same objects with the same parameters, of another class.

PyTorch's parametrisations do likewise. So nothing is converted, and state dicts, optimisers, averages, hooks and ties
stay what they were.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class Acceleration:
    """What became of a model's layers of a kind: the names of those replaced, and of those kept, with the reason.

    A layer that stands in several places has a name for each.
    """

    replaced: list[str]
    kept: dict[str, str]


class Exchanged:
    """First base of a class whose objects were of another before: ``original``, its last base."""

    original: ClassVar[type[nn.Module]]
    reported: ClassVar[bool] = True  # by its name; else it is part of one that is

    def release(self) -> None:
        """Forget what only an exchanged module has."""


def restore(model: nn.Module) -> list[str]:
    """Make every layer that ``accelerate`` or ``fuse_normalisation`` replaced what it was, and return their names.

    Raises:
        TypeError: a layer has become another class since, which somebody else has to take back first.
    """
    found = [
        (name, module) for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, Exchanged)
    ]
    for name, module in found:
        if not plain(module):
            made = next(kind for kind in type(module).__mro__ if "original" in vars(kind))
            raise TypeError(
                f"{name} can be restored once its {type(module).__name__} is a plain {made.__name__} again, "
                "with no forward put in the place of its own"
            )
    names = [name for name, module in found if module.reported]
    for module in dict.fromkeys(module for _, module in found):
        give_back(module)
    return names


def plain(module: Exchanged) -> bool:
    """Whether an exchanged module is as it was made, and can be given back."""
    return "original" in vars(type(module)) and "forward" not in vars(module)


def give_back(module: Exchanged) -> None:
    """Make a plain exchanged module what it was."""
    module.release()
    module.__class__ = module.original  # type: ignore[assignment]  # declared as the class that it leaves

"""Our models in timm's registry: ``timm.create_model("halobench_halonet_h0", backend="sdpa")``.

Every name has the prefix ``halobench_``, because timm has a ``halonet_h1`` of its own, which is another network.
"""

from collections.abc import Callable
from typing import Any

from timm.models import register_model
from torch import nn

from halobench.models.architecture import Architecture
from halobench.models.catalogue import CATALOGUE, Entry, FromTimm
from halobench.models.factory import create

PREFIX = "halobench_"


def register() -> None:
    """Enter all models that are ours, not timm's own."""
    for entry in CATALOGUE.values():
        if not isinstance(entry.recipe, FromTimm):
            register_model(entrypoint(entry))


def entrypoint(entry: Entry) -> Callable[..., nn.Module]:
    """The function that timm calls to make the model."""

    def make(*, pretrained: bool = False, **arguments: Any) -> nn.Module:
        if pretrained:
            raise ValueError(f"{PREFIX}{entry.name} has no pretrained weights")
        for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm always passes them
            arguments.pop(unused, None)
        if isinstance(entry.recipe, Architecture) and "drop_path_rate" in arguments:  # timm's word for it
            arguments["stochastic_depth"] = arguments.pop("drop_path_rate")
        return create(entry.name, **arguments)

    make.__name__ = make.__qualname__ = PREFIX + entry.name
    make.__doc__ = f"{entry.name} of halobench; see ``halobench.models.create``."
    return make

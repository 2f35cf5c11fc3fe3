"""Our models in timm's registry: ``timm.create_model("halobench_halonet_h0", backend="sdpa")``.

``timm.list_models("halobench_*")`` lists them, and ``timm.list_models(module="timm_names")``, the name of this file.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from halobench.models.architecture import Architecture
from halobench.models.catalogue import CATALOGUE, Accelerated, Entry, FromTimm
from halobench.models.factory import build

OURS = [entry for entry in CATALOGUE.values() if not isinstance(entry.recipe, FromTimm)]


def register() -> None:
    """Enter all models that are ours, not timm's own. Functions of their names stand in this module, as in timm's."""
    for entry in OURS:
        globals()[entry.timm_name] = register_model(entrypoint(entry))


def entrypoint(entry: Entry) -> Callable[..., nn.Module]:
    """The function that timm calls to make the model."""

    def make(*, pretrained: bool = False, backend: str | None = None, **arguments: Any) -> nn.Module:
        return build(entry, backend, pretrained=pretrained, **arguments)

    make.__name__ = make.__qualname__ = entry.timm_name
    make.__doc__ = f"{entry.name} of halobench; see ``halobench.models.create``."
    return make


def configuration(entry: Entry) -> PretrainedCfg:
    """What timm's scripts want to know of a model: image size, normalisation, first and last layer. No weights."""
    if isinstance(entry.recipe, Accelerated):
        theirs = get_pretrained_cfg(entry.recipe.name)
        assert theirs is not None
        return replace(theirs, url=None, file=None, hf_hub_id=None, architecture=None, tag=None)
    first_conv, classifier = "conv1", "fc"
    if isinstance(entry.recipe, Architecture):
        first_conv, classifier = "stem.1" if entry.recipe.stem == "patch" else "stem.0", "classifier"
    map_side = math.ceil(entry.image_size / 32)
    return PretrainedCfg(
        input_size=(3, entry.image_size, entry.image_size),
        pool_size=(map_side, map_side),
        first_conv=first_conv,
        classifier=classifier,
        paper_ids="arXiv:2103.12731",
    )


default_cfgs = generate_default_cfgs({entry.timm_name: configuration(entry) for entry in OURS})

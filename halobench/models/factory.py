"""From a name to a model."""

from dataclasses import fields, replace
from typing import Any

import timm
from timm.models.resnet import Bottleneck
from torch import nn

from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import LayerSpec
from halobench.models.accelerate import accelerate
from halobench.models.architecture import Architecture
from halobench.models.catalogue import Accelerated, HaloResNet, entry
from halobench.models.halonet import HaloNet

DEFAULT_BACKEND = "strided_gather"


def create(name: str, backend: str | None = None, num_classes: int = 1000, **overrides: Any) -> nn.Module:
    """The model of this name with fresh weights: (batch, 3, H, W) -> (batch, num_classes).

    Args:
        name: one of ``names()``.
        backend: fills the attention slots; ``"strided_gather"`` where none is given.
        num_classes: the number of logits.
        overrides: for HaloNets, fields of ``Architecture``, such as ``depths`` or ``stochastic_depth``; for the
            models built on timm's, arguments of ``timm.create_model``.

    Raises:
        ValueError: an unknown name, backend or override, or a backend for a model without attention slots.
        Unsupported: the backend is not what the model's slots need.
    """
    recipe = entry(name).recipe
    if isinstance(recipe, Architecture):
        known = [field.name for field in fields(Architecture)]
        if unknown := sorted(set(overrides) - set(known)):
            raise ValueError(f"{name} has no {', '.join(unknown)} to override; there are {', '.join(known)}")
        recipe = replace(recipe, **overrides)
    if backend is not None and not recipe.has_attention:
        raise ValueError(f"{name} has no attention slots to fill with a backend, got {backend!r}")
    backend = backend or DEFAULT_BACKEND
    if isinstance(recipe, Architecture):
        return HaloNet(recipe, backend, num_classes)
    if isinstance(recipe, HaloResNet):
        return halo_resnet(recipe, backend, num_classes, **overrides)
    network = timm.create_model(recipe.name, num_classes=num_classes, **overrides)
    if isinstance(recipe, Accelerated):
        accelerate(network, backend)
    return network


def halo_resnet(recipe: HaloResNet, backend: str, num_classes: int, **overrides: Any) -> nn.Module:
    """The ResNet of timm, its last three 3x3 convolutions replaced; their blocks lose squeeze-and-excitation."""
    model = timm.create_model(recipe.name, num_classes=num_classes, **overrides)
    build = backends.load(backend).build
    bottlenecks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    for bottleneck in bottlenecks[-3:]:
        replaced = bottleneck.conv2
        layer = LayerSpec(
            channels=replaced.in_channels,
            heads=recipe.heads,
            key_dim=replaced.in_channels // recipe.heads,
            value_dim=replaced.out_channels // recipe.heads,
            geometry=Geometry(recipe.block, recipe.halo, stride=replaced.stride[0]),
        )
        bottleneck.register_module("conv2", build(layer))
        bottleneck.register_module("se", None)  # the paper rescales channels after convolutions only
    return model

"""From a name to a model."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg
from timm.models.resnet import Bottleneck
from torch import nn

from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import LayerSpec
from halobench.models.accelerate import accelerate
from halobench.models.architecture import Architecture
from halobench.models.catalogue import Accelerated, Detector, Entry, FromTimm, HaloResNet, entry
from halobench.models.fusion import fuse_normalisation
from halobench.models.halonet import HaloNet

DEFAULT_BACKEND = "strided_gather"
CLASSES, DETECTOR_CLASSES = 1000, 91  # ImageNet's, and COCO's with the background, as torchvision counts them
HALONET_ARGUMENTS = (
    "num_classes",
    "in_chans",
    "global_pool",
    "drop_rate",
    "drop_path_rate",
    "recompute_projections",
    "device",
    "dtype",
)


def create(name: str, backend: str | None = None, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """The model of this name with fresh weights: (batch, 3, H, W) -> (batch, num_classes).

    A detector takes and gives what torchvision's ``MaskRCNN`` does.

    Args:
        name: one of ``names()``, or ``maskrcnn_`` and one of them.
        backend: fills the attention slots; ``"strided_gather"`` where none is given.
        num_classes: the number of logits (default: 1000; 91 for a detector, the background's included); 0 leaves the
            pooled features.
        overrides: what timm's models take (``in_chans``, ``global_pool``, ``drop_rate``, ``drop_path_rate``,
            ``features_only``, ``device``, ``dtype``, ...); for HaloNets, fields of ``Architecture`` too; for detectors,
            also what ``MaskRCNN`` takes (``min_size``, ``box_detections_per_img``, ...).

    Raises:
        ValueError: an unknown name or backend, a backend for a model without attention slots, or a detector on a model
            without features of strides 4, 8, 16 and 32.
        TypeError: an unknown override.
        Unsupported: the backend is not what the model's slots need.
    """
    model = entry(name)
    if isinstance(model.recipe, Detector):
        check(model, backend)
        return detector(model.recipe, backend, DETECTOR_CLASSES if num_classes is None else num_classes, **overrides)
    num_classes = CLASSES if num_classes is None else num_classes
    if isinstance(model.recipe, FromTimm):
        check(model, backend)
        network: nn.Module = timm.create_model(model.recipe.name, num_classes=num_classes, **overrides)
        if model.recipe.fused:
            fuse_normalisation(network)
        return network
    return build(model, backend, num_classes=num_classes, **overrides)


def build(model: Entry, backend: str | None, *, pretrained: bool = False, **arguments: Any) -> nn.Module:
    """A model of ours, built as timm builds its own, which sees to configurations, features and weights from files."""
    check(model, backend)
    backend, recipe = backend or DEFAULT_BACKEND, model.recipe
    make: Callable[..., nn.Module]
    if isinstance(recipe, HaloResNet):
        make = partial(halo_resnet, recipe, backend)
    elif isinstance(recipe, Accelerated):
        make = partial(accelerated, recipe, backend)
    else:
        make = partial(halonet, model, backend)
    # The features of timm's ResNets are their children, those of the other networks their children's.
    feature_cfg = {"flatten_sequential": not isinstance(recipe, HaloResNet)}
    return build_model_with_cfg(make, model.timm_name, pretrained, feature_cfg=feature_cfg, **arguments)


def check(model: Entry, backend: str | None) -> None:
    """Raise ``ValueError`` for a backend that the model has no place for."""
    if backend is not None and not model.has_attention:
        raise ValueError(f"{model.name} has no attention slots to fill with a backend, got {backend!r}")


def detector(
    recipe: Detector, backend: str | None, num_classes: int, device: torch.device | str | None = None, **overrides: Any
) -> nn.Module:
    """Mask R-CNN on the features of a model; ``overrides`` go to whom they concern."""
    if num_classes < 2:
        raise ValueError(f"a detector needs at least two classes, the background and another, got {num_classes}")
    if "dtype" in overrides:
        raise TypeError("a detector is made in float32, which its boxes need: use autocast, got a dtype")
    from halobench.models import detector as room  # noqa: PLC0415 - who classifies need not wait for it

    theirs = {name: overrides.pop(name) for name in room.ARGUMENTS & set(overrides)}
    with nullcontext() if device is None else torch.device(device):
        backbone = create(recipe.backbone, backend, features_only=True, out_indices=room.INDICES, **overrides)
        made: nn.Module = room.mask_rcnn(backbone, recipe.backbone, num_classes, **theirs)
    return made


def halonet(
    model: Entry,
    backend: str,
    *,
    drop_path_rate: float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **arguments: Any,
) -> HaloNet:
    """The HaloNet of this entry, fields of its architecture overridden by arguments of their names."""
    recipe = model.recipe
    assert isinstance(recipe, Architecture)
    known = [field.name for field in fields(Architecture)]
    if unknown := sorted(set(arguments) - {*known, *HALONET_ARGUMENTS}):
        there = ", ".join((*known, *HALONET_ARGUMENTS))
        raise TypeError(f"{model.name} has no {', '.join(unknown)} to override; there are {there}")
    overrides = {name: arguments.pop(name) for name in known if name in arguments}
    if drop_path_rate is not None:  # timm's word for it
        if "stochastic_depth" in overrides:
            raise TypeError(f"{model.name} takes drop_path_rate or stochastic_depth, which are one, got both")
        overrides["stochastic_depth"] = drop_path_rate
    # A backend's layers know nothing of devices and dtypes, but are made of what knows.
    with nullcontext() if device is None else torch.device(device):
        network = HaloNet(replace(recipe, **overrides), backend, **arguments)
    return network.to(dtype=dtype)


def accelerated(recipe: Accelerated, backend: str, **arguments: Any) -> nn.Module:
    """A model of timm with our layers in place of its ``HaloAttn``."""
    network = timm.create_model(recipe.name, **arguments)
    accelerate(network, backend)
    return network


def halo_resnet(recipe: HaloResNet, backend: str, **arguments: Any) -> nn.Module:
    """The ResNet of timm, its last three 3x3 convolutions replaced; their blocks lose squeeze-and-excitation."""
    network = timm.create_model(recipe.name, **arguments)
    load = backends.load(backend).build
    bottlenecks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    for bottleneck in bottlenecks[-3:]:
        replaced = bottleneck.conv2
        layer = LayerSpec(
            channels=replaced.in_channels,
            heads=recipe.heads,
            key_dim=replaced.in_channels // recipe.heads,
            value_dim=replaced.out_channels // recipe.heads,
            geometry=Geometry(recipe.block, recipe.halo, stride=replaced.stride[0]),
        )
        with torch.device(replaced.weight.device):
            bottleneck.register_module("conv2", load(layer).to(replaced.weight.dtype))
        # The paper rescales channels after convolutions only. timm's blocks without it have no such module either.
        del bottleneck.se
        bottleneck.se = None
    return network

"""Whole networks under their names: HaloNet and its variants, and what the paper compares it with.

    model = models.create("halonet_h0", backend="sdpa")

Ours are also in timm's registry as ``halobench_<name>``. In a model that timm made, ``accelerate`` computes the halo
attention by our backends, and ``fuse_normalisation`` normalisation and activation by our operator; ``restore`` undoes
both.
"""

from halobench.models import timm_names
from halobench.models.accelerate import accelerate
from halobench.models.architecture import Architecture
from halobench.models.catalogue import Entry, entry, names
from halobench.models.exchange import Acceleration, restore
from halobench.models.factory import create
from halobench.models.fusion import fuse_normalisation
from halobench.models.halonet import HaloNet

__all__ = [
    "Acceleration",
    "Architecture",
    "Entry",
    "HaloNet",
    "accelerate",
    "create",
    "entry",
    "fuse_normalisation",
    "names",
    "restore",
]

timm_names.register()

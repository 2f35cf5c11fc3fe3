"""Whole networks under their names: HaloNet and its variants, and what the paper compares it with.

    model = models.create("halonet_h0", backend="sdpa")

Ours are also in timm's registry as ``halobench_<name>``; ``accelerate`` computes the halo attention
of a model that timm made by our backends, ``restore`` undoes it.
"""

from halobench.models import timm_names
from halobench.models.accelerate import Acceleration, accelerate, restore
from halobench.models.architecture import Architecture
from halobench.models.catalogue import Entry, entry, names
from halobench.models.factory import create
from halobench.models.halonet import HaloNet

__all__ = ["Acceleration", "Architecture", "Entry", "HaloNet", "accelerate", "create", "entry", "names", "restore"]

timm_names.register()

"""Whole networks under their names: HaloNet and its variants, and what the paper compares it with.

    model = models.create("halonet_h0", backend="sdpa")

Ours are also in timm's registry as ``halobench_<name>``; ``accelerate`` puts our layers into a model that timm made.
"""

from halobench.models import timm_names
from halobench.models.accelerate import Acceleration, accelerate
from halobench.models.architecture import Architecture
from halobench.models.catalogue import Entry, entry, names
from halobench.models.factory import create
from halobench.models.halonet import HaloNet

__all__ = ["Acceleration", "Architecture", "Entry", "HaloNet", "accelerate", "create", "entry", "names"]

timm_names.register()

"""Whether a backend is right in every attention layer of a network, before the network is timed.

Each distinct layer is held against the float64 oracle on random maps of its size, output and, for training, every
gradient, by the rule that holds for single layers (``halobench.cases.accuracy``). Whole networks would not tell:
normalisation after attention amplifies roundings layer by layer, so that two right networks with fresh weights have
unlike logits.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from halobench import models
from halobench.attention import backends
from halobench.attention.problem import Direction
from halobench.cases import accuracy
from halobench.cases.network import Network
from halobench.cases.workload import Slot
from halobench.measure.engine import Incorrect
from halobench.models.factory import DEFAULT_BACKEND
from halobench.models.work import attention_layers

IMAGES = 2


def verify(network: Network, direction: Direction, device: str) -> dict[str, Any] | None:
    """How many distinct layers were checked, and the largest error as a share of what it may be.

    ``None`` for a network without attention slots.

    Raises:
        Unsupported: the backend refuses a layer.
        Incorrect: the backend is wrong in a layer, which the message names.
    """
    if network.backend is None:
        return None
    return dict(checked(replace(network, compiled=False, captured=False, batch=IMAGES), direction, device))


@lru_cache(maxsize=8)  # eager, captured and compiled networks have the same layers
def checked(network: Network, direction: Direction, device: str) -> dict[str, Any]:
    """``verify``, for a network with attention slots."""
    assert network.backend is not None
    backend = backends.load(network.backend)
    worst, slots = 0.0, distinct_layers(replace(network, backend=DEFAULT_BACKEND))
    for slot in slots:
        outcome = accuracy.check(backend, slot, device, direction)
        if outcome.fault is not None:
            geometry = slot.layer.geometry
            where = f"block {geometry.block}, halo {geometry.halo}, stride {geometry.stride}"
            raise Incorrect(f"layer of {slot.height} x {slot.width} pixels, {where}: {outcome.fault}")
        worst = max(worst, *(outcome.errors[name] / outcome.budgets[name] for name in outcome.errors))
    return {"layers": len(slots), "worst_share_of_budget": worst}


def distinct_layers(network: Network) -> list[Slot]:
    """The attention layers of a network with their maps, each kind once."""
    with torch.device("meta"):
        model = models.create(network.model, network.backend, 1, **dict(network.overrides))
    found = attention_layers(model, network.side, network.side)
    slots = [Slot(spec, height, width, network.batch, network.dtype) for spec, height, width in found]
    return list(dict.fromkeys(slots))

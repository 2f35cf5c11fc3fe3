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
from halobench.attention.problem import Backend, Direction
from halobench.cases import accuracy, asked_again
from halobench.cases.accuracy import Check
from halobench.cases.network import Network
from halobench.cases.workload import Slot, Workload, bind
from halobench.measure.engine import Incorrect
from halobench.models.catalogue import Detector
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
    checks = checked(layers_of(network), direction, device)
    shares = [each.errors[name] / each.budgets[name] for each in checks.values() for name in each.errors]
    return {"layers": len(checks), "worst_share_of_budget": max(shares, default=0.0)}


def ask_again(network: Network, direction: Direction, device: str) -> None:
    """Ask for each distinct layer once more, after the network was timed.

    Not where a backend compiles each layer for seconds, which it may have to do again.

    Raises:
        Incorrect: the backend is wrong in a layer now, which the message names.
    """
    if network.backend is None or (backend := backends.load(network.backend)).compiles:
        return
    for slot, outcome in checked(layers_of(network), direction, device).items():
        demand_right(backend, slot, direction, bind(backend, slot, device), outcome)


def layers_of(network: Network) -> Network:
    """What decides its layers: eager, captured and compiled networks have the same."""
    return replace(network, compiled=False, compile_mode=None, captured=False, proposals=None, batch=IMAGES)


@lru_cache(maxsize=8)
def checked(network: Network, direction: Direction, device: str) -> dict[Slot, Check]:
    """Each distinct layer's first answer, held against the oracle; then it is asked again."""
    assert network.backend is not None
    backend, checks = backends.load(network.backend), {}
    for slot in distinct_layers(replace(network, backend=DEFAULT_BACKEND)):
        workload = bind(backend, slot, device)
        workload.relocate()
        checks[slot] = accuracy.judge(accuracy.ask(workload, direction), backend, slot, workload, device)
        demand_right(backend, slot, direction, workload, checks[slot])
    return checks


def demand_right(backend: Backend, slot: Slot, direction: Direction, workload: Workload, first: Check) -> None:
    """Raise ``Incorrect`` where the first answer of a layer is wrong, or its next one, to other values."""
    call, fault = workload.call(direction), first.fault
    fault = fault or asked_again.fault(backend, slot, direction, workload, call, first.budgets)
    if fault is not None:
        geometry = slot.layer.geometry
        where = f"block {geometry.block}, halo {geometry.halo}, stride {geometry.stride}"
        raise Incorrect(f"layer of {slot.height} x {slot.width} pixels, {where}: {fault}")


def distinct_layers(network: Network) -> list[Slot]:
    """The attention layers of a network, or of a detector's backbone, with their maps, each kind once."""
    recipe = models.entry(network.model).recipe
    name = recipe.backbone if isinstance(recipe, Detector) else network.model
    with torch.device("meta"):
        model = models.create(name, network.backend, 1, **dict(network.overrides))
    found = attention_layers(model, network.side, network.side)
    slots = [Slot(spec, height, width, network.batch, network.dtype) for spec, height, width in found]
    return list(dict.fromkeys(slots))

"""Whether a network computes the same with a backend as with the readable formula, before it is timed.

The rule is like that of single operators: with the same weights and images, a backend may err three times as much as
the formula does in the same dtype, held against the formula in float64. Three, not two, because many layers amplify
what is chance in a single draw. What is compared are the logits and, for training, the gradient of the first layer's
weights, through which the gradients of all layers above have gone.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from halobench.measure.engine import Incorrect
from halobench.models.factory import DEFAULT_BACKEND
from halobench.network import Network
from halobench.problem import Direction
from halobench.train.workload import CLASSES, network_model

IMAGES = 2
ALLOWED = 3.0
SURE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-3}
"""Relative errors that are always allowed: below them, chance decides which of two right answers is closer."""

Answer = dict[str, Tensor]


def verify(network: Network, direction: Direction, device: str) -> dict[str, Any] | None:
    """The backend's relative errors and what they may be; ``None`` for a network without attention slots.

    Raises:
        Incorrect: an error is larger than that, or no number.
    """
    if network.backend is None:
        return None
    truth, budgets = yardstick(replace(network, backend=DEFAULT_BACKEND, compiled=False, batch=IMAGES), device)
    answer = ask(replace(network, batch=IMAGES), network.dtype, device)
    errors = {name: relative_error(answer[name], truth[name]) for name in truth}
    if direction == "forward":
        errors = {"logits": errors["logits"]}
    for name, error in errors.items():
        if not error <= budgets[name]:
            raise Incorrect(f"{name} of the network are off by {error:.2g}, allowed {budgets[name]:.2g}")
    return {"errors": errors, "budgets": {name: budgets[name] for name in errors}}


@lru_cache(maxsize=1)
def yardstick(network: Network, device: str) -> tuple[Answer, dict[str, float]]:
    """The formula's answer in float64, and the errors that its answer in the network's dtype gives a right to."""
    truth = ask(network, "float64", device)
    own = ask(network, network.dtype, device)
    sure = SURE[network.dtype]
    return truth, {name: max(ALLOWED * relative_error(own[name], truth[name]), sure) for name in truth}


def ask(network: Network, dtype: str, device: str) -> Answer:
    """The logits of two images and the gradient of the first weights, computed in a dtype, in training mode."""
    exact = dtype == "float64"
    model = network_model(network, device, torch.float64 if exact else None).train()
    generator = torch.Generator(device).manual_seed(2)
    images = torch.randn((IMAGES, 3, network.side, network.side), generator=generator, device=device)
    cotangent = torch.randn((IMAGES, CLASSES), generator=generator, device=device, dtype=torch.float64)
    autocast = not exact and dtype != "float32"
    with torch.autocast(torch.device(device).type, getattr(torch, dtype) if autocast else None, enabled=autocast):
        logits = model(images.double() if exact else images)
    first = next(model.parameters())
    (gradient,) = torch.autograd.grad(logits, first, cotangent.to(logits.dtype))
    return {"logits": logits.detach().double(), "gradients": gradient.double()}


def relative_error(answer: Tensor, truth: Tensor) -> float:
    """The root mean square of the error over that of the truth."""
    return float((answer - truth).norm() / truth.norm())

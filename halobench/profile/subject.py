"""What is profiled: a backend on a problem, or a whole model on images, as a call with its costs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from halobench import models
from halobench.attention import backends
from halobench.attention.problem import Direction, Problem
from halobench.cases import cost
from halobench.cases.cost import Cost
from halobench.cases.workload import bind
from halobench.wording import counted


@dataclass(frozen=True)
class Subject:
    """A call to profile. ``executed`` and ``passes`` are its work in closed form; ``None`` where there is none."""

    name: str
    call: Callable[[], object]
    described: str
    executed: Cost | None = None
    passes: list[Cost] | None = None


def subject(name: str, problem: Problem, direction: Direction, device: str, side: int) -> Subject:
    """The backend of this name on the problem, or the model of this name on ``problem.batch`` images of ``side``.

    Raises:
        ValueError: neither a backend nor a model has this name.
        Unsupported: the backend refuses the problem.
        ModuleNotFoundError: the backend needs a package that is not installed.
    """
    if name in backends.names():
        return of_backend(name, problem, direction, device)
    if name in models.names():
        return of_model(name, problem, direction, device, side)
    known = f"backends {', '.join(backends.names())}; models {', '.join(models.names())}"
    raise ValueError(f"no backend or model is called {name!r}; there are {known}")


def of_backend(name: str, problem: Problem, direction: Direction, device: str) -> Subject:
    """A backend's ``attend``; one that is no attention stands in as a layer."""
    backend = backends.load(name)
    geometry = problem.geometry
    described = (
        f"{direction} on {device}: block {geometry.block}, halo {geometry.halo}, "
        f"map {problem.height} x {problem.width}, batch {problem.batch}, "
        f"{counted(problem.heads, 'head')} of {problem.key_dim}, border {geometry.border}, {problem.dtype}"
    )
    call = bind(backend, problem, device).call(direction)
    executed = cost.executed(backend, problem, direction)
    return Subject(name, call, described, executed, cost.passes(backend, problem, direction))


def of_model(name: str, problem: Problem, direction: Direction, device: str, side: int) -> Subject:
    """A model with fresh weights; training is forward, a sum as the loss, and backward."""
    model = models.create(name).to(device, problem.torch_dtype).train(direction == "training")
    images = torch.randn(problem.batch, 3, side, side, device=device).to(problem.torch_dtype)

    def forward() -> object:
        with torch.no_grad():
            return model(images)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        model(images).float().sum().backward()

    described = f"{direction} on {device}: {counted(problem.batch, 'image')} of {side} x {side}, {problem.dtype}"
    return Subject(name, train if direction == "training" else forward, described)

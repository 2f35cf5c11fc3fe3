"""A backend bound to inputs on a device: the call that is first checked, then measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from halobench.attention.problem import Backend, Direction, LayerSpec, Problem, RelativeTables, Unsupported
from halobench.cases.bands import surrounded

PIXELS = "pixels"


@dataclass(frozen=True)
class Slot:
    """One layer workload: a layer slot of a network, on a map of given size."""

    layer: LayerSpec
    height: int
    width: int
    batch: int = 1
    dtype: str = "float32"

    @property
    def problem(self) -> Problem:
        """The operator workload inside the slot."""
        return self.layer.problem(self.batch, self.height, self.width, self.dtype)

    def pixels(self, device: torch.device | str, seed: int) -> Tensor:
        """A standard normal map of (batch, channels, height, width), channels-last in memory."""
        generator = torch.Generator(device).manual_seed(seed)
        shape = (self.batch, self.height, self.width, self.layer.channels)
        pixels = torch.randn(shape, generator=generator, device=device)
        return pixels.to(self.problem.torch_dtype).permute(0, 3, 1, 2)

    def module(self, build: Callable[[LayerSpec], nn.Module], device: torch.device | str, seed: int) -> nn.Module:
        """The slot filled by ``build``, with the same weights for the same seed, channels-last."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = build(self.layer)
        return module.to(device, self.problem.torch_dtype).to(memory_format=torch.channels_last)


Task = Problem | Slot


@dataclass
class Workload:
    """The call of a backend on one task.

    ``forward`` computes the output from ``tensors``, every one of which takes part in the backward pass; ``apply``
    computes it from other tensors of the same names. ``shared`` names those without a batch axis. ``cotangent`` is
    the gradient of the output that a training call starts from. ``module`` is the layer, where there is one.
    """

    forward: Callable[[], Tensor]
    apply: Callable[[dict[str, Tensor]], Tensor]
    tensors: dict[str, Tensor]
    shared: frozenset[str]
    cotangent: Tensor
    module: nn.Module | None = None

    def relocate(self) -> None:
        """Move everything to memory that is allocated now, between guard bands; the tensors stay the same objects."""
        for tensor in (*self.tensors.values(), self.cotangent):
            tensor.data = surrounded(tensor)

    def call(self, direction: Direction) -> Callable[[], object]:
        """The call to measure: the forward pass without gradients, or forward and the gradient of every tensor."""
        leaves = list(self.tensors.values())
        for leaf in leaves:
            leaf.requires_grad_(direction == "training")

        def forward() -> Tensor:
            with torch.no_grad():
                return self.forward()

        def train() -> tuple[Tensor, ...]:
            return torch.autograd.grad(self.forward(), leaves, self.cotangent)

        return train if direction == "training" else forward


def bind(backend: Backend, task: Task, device: torch.device | str, seed: int = 0) -> Workload:
    """The backend on fresh random inputs of the task; the same seed gives every backend the same inputs."""
    if isinstance(task, Slot):
        return bind_layer(backend, task, device, seed)
    if backend.attend is None:
        return bind_layer(backend, stand_in(task), device, seed)
    attend, geometry = backend.attend, task.geometry
    inputs = task.inputs(device, seed=seed)

    def apply(tensors: dict[str, Tensor]) -> Tensor:
        relative = RelativeTables(tensors["rows"], tensors["columns"]) if task.relative else None
        return attend(tensors["query"], tensors["key"], tensors["value"], relative, geometry)

    return Workload(
        forward=lambda: attend(*inputs, geometry),
        apply=apply,
        tensors=inputs.tensors,
        shared=frozenset({"rows", "columns"}),
        cotangent=cotangent(task, device, seed),
    )


def bind_layer(backend: Backend, slot: Slot, device: torch.device | str, seed: int) -> Workload:
    """The slot filled by the backend, on a fresh random map."""
    module, pixels = slot.module(backend.build, device, seed), slot.pixels(device, seed)
    weights = dict(module.named_parameters())

    def apply(tensors: dict[str, Tensor]) -> Tensor:
        given = {name: tensors[name] for name in weights}
        output: Tensor = functional_call(module, given, (tensors[PIXELS],))
        return output

    return Workload(
        forward=lambda: module(pixels),
        apply=apply,
        tensors={PIXELS: pixels, **weights},
        shared=frozenset(weights),
        cotangent=cotangent(slot.problem, device, seed).permute(0, 1, 4, 2, 3).flatten(1, 2),
        module=module,
    )


def stand_in(problem: Problem) -> Slot:
    """The layer slot that a backend without ``attend`` fills where an operator is asked for.

    It maps as many channels as the keys have to as many as the values have, on the same map.

    Raises:
        Unsupported: a strip: a layer's map is whole.
    """
    if problem.geometry.strip:
        raise Unsupported("what is no attention knows no strips, whose keys go on beyond the queries' map")
    channels = problem.heads * problem.key_dim
    layer = LayerSpec(channels, problem.heads, problem.key_dim, problem.value_dim, problem.geometry, positions=None)
    return Slot(layer, problem.height, problem.width, problem.batch, problem.dtype)


def cotangent(problem: Problem, device: torch.device | str, seed: int) -> Tensor:
    """A random gradient of an operator's output: (batch, heads, H / stride, W / stride, value_dim)."""
    # A query as wide as the values has the output's shape and layout.
    shaped = replace(problem, key_dim=problem.value_dim, relative=False)
    return shaped.inputs(device, seed=seed + 1).query

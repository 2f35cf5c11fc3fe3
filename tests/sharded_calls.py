"""What ranks are asked: calls on shards of a map, and calls that some rank does not join; and what is right."""

import copy
import os
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as disable_current_modes
from torch.utils._pytree import tree_leaves

from halobench import Geometry, LayerSpec, Problem, RelativeTables, backends, distributed, models
from halobench.attention import oracle
from halobench.attention.layer import HaloAttention
from halobench.cases import accuracy, workload
from halobench.cases.operator_call import Call, yardstick
from halobench.distributed import Shards, shard_map
from halobench.distributed.layout import Layout
from halobench.distributed.messages import recorded
from halobench.distributed.normalisation import normalised
from halobench.distributed.shards import unit
from tests import ranks

BACKENDS = {"gloo": ("strided_gather", "sdpa", "naive_unfold"), "nccl": ("fused", "fused", "sdpa", "strided_gather")}
LONGEST_LAG_S = 40  # below ranks.LONGEST_S


@dataclass(frozen=True)
class Drawn:
    """A problem, who holds which of its pixels, and what computes it; ``told``: whether ranks are told the shards."""

    problem: Problem
    shards: Shards
    backend: str
    told: bool


def drawn(seed: int, count: int, kind: str = "gloo") -> Drawn:
    """Any problem on any grid of ranks: some hold nothing, some less than the halo."""
    draw = Random(seed)
    block, halo = draw.randint(1, 5), draw.randint(0, 9)
    stride = draw.choice([stride for stride in (1, 1, 2, 3, 4) if block % stride == 0 or stride % block == 0])
    geometry = Geometry(block, halo, stride, draw.choice(["masked", "zero"]))
    down = draw.choice([number for number in range(1, count + 1) if count % number == 0])
    across = count // down
    heights = sizes(draw, down, geometry)
    widths = sizes(draw, across, geometry) if across > 1 else (stride * draw.randint(3, 5),)
    shards = Shards(heights, widths if across > 1 else None)
    if seed % 4 == 0:
        shards = shard_map(sum(heights), (down, across), geometry, sum(widths))
    problem = Problem(
        geometry,
        sum(heights),
        sum(widths),
        batch=draw.randint(1, 2),
        heads=draw.randint(1, 2),
        key_dim=draw.choice([4, 8]),
        value_dim=draw.choice([4, 8, 12]),
        relative=draw.random() < 0.8,
        dtype=draw.choice(["float32", "float32", "bfloat16"]),
    )
    return Drawn(problem, shards, draw.choice(BACKENDS[kind]), across > 1 or draw.random() < 0.5)


def sizes(draw: Random, count: int, geometry: Geometry) -> tuple[int, ...]:
    """Those of ``count`` shards of an axis, of three queries at least (``test_conformance``)."""
    whole, least = unit(geometry), 3 * geometry.stride
    units = [draw.choice([0, 1, 1, 2, 4]) for _ in range(count)]
    units[draw.randrange(count)] += -(-least // whole)
    found = [whole * number for number in units]
    last = max(number for number in range(count) if found[number])
    found[last] -= draw.randrange(whole) if sum(found) - whole >= least else 0
    return tuple(found)


def call(group: ProcessGroup, one: Drawn, seed: int, *, exchanged: bool = True) -> dict[str, np.ndarray]:
    """This rank's pixels of the output and the gradients, and its gradients of the tables, as float64."""
    problem, shards, rank, device = one.problem, one.shards, group.rank(), ranks.device_of(group)
    inputs = problem.inputs(seed=seed)
    of_queries = shards.strided(problem.geometry.stride)
    leaves = {
        "query": of_queries.local(inputs.query, rank),
        "key": shards.local(inputs.key, rank),
        "value": shards.local(inputs.value, rank),
        **({} if inputs.relative is None else inputs.relative._asdict()),
    }
    leaves = {name: tensor.to(device, copy=True).requires_grad_() for name, tensor in leaves.items()}
    relative = RelativeTables(leaves["rows"], leaves["columns"]) if problem.relative else None
    output = distributed.attend(
        leaves["query"], leaves["key"], leaves["value"], relative, problem.geometry, group,
        backend=one.backend, shards=shards if one.told else None, exchanged=exchanged,
    )  # fmt: skip
    cotangent = of_queries.local(workload.cotangent(problem, "cpu", seed), rank).to(device)
    gradients = torch.autograd.grad(output, list(leaves.values()), cotangent)
    return numbers({"output": output, **dict(zip(leaves, gradients, strict=True))})


def numbers(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().cpu().numpy() for name, tensor in tensors.items()}


def together(
    parts: list[dict[str, np.ndarray]], shards: Shards, whole: set[str], device: str = "cpu"
) -> dict[str, Tensor]:
    """The maps of which ranks hold parts, axes 2 and 3; what they hold whole must be the same on all of them."""
    _, across = shards.grid

    def block(name: str) -> np.ndarray:
        rows = [parts[first : first + across] for first in range(0, len(parts), across)]
        return np.concatenate([np.concatenate([part[name] for part in row], 3) for row in rows], 2)

    for name in whole & set(parts[0]):
        for part in parts:
            np.testing.assert_array_equal(part[name], parts[0][name])
    return {name: torch.from_numpy(parts[0][name] if name in whole else block(name)).to(device) for name in parts[0]}


def fault(one: Drawn, seed: int, parts: list[dict[str, np.ndarray]], device: str = "cpu") -> str | None:
    """What is wrong, by the accuracy rule, with what the ranks found; formula and truth are computed on ``device``."""
    found = together(parts, one.shards, {"rows", "columns"}, device)
    inputs = {name: tensor.to(device) for name, tensor in one.problem.inputs(seed=seed).tensors.items()}
    whole = Call(inputs, workload.cotangent(one.problem, "cpu", seed).to(device), one.problem.geometry)
    truth, plain = whole.to(torch.float64).results(oracle.attend), whole.results(yardstick)
    return accuracy.compare_attention(found, truth, plain, backends.load(one.backend), whole).fault


def corner(group: ProcessGroup, geometry: Geometry, shards: Shards) -> np.ndarray:
    """Which of this rank's pixels (H W) the last query of the first rank sees: those whose values have a gradient."""
    rank = group.rank()
    shape = 1, 1, *shards.size(rank), 4
    query, key, value = (torch.ones(shape, requires_grad=True) for _ in range(3))
    output = distributed.attend(query, key, value, None, geometry, group, backend="strided_gather", shards=shards)
    cotangent = torch.zeros_like(output)
    if rank == 0:
        cotangent[:, :, -1, -1] = 1
    (gradient,) = torch.autograd.grad(output, [value], cotangent)
    return (gradient != 0)[0, 0, :, :, 0].numpy()


def unexchanged(group: ProcessGroup, one: Drawn, seed: int) -> dict[str, np.ndarray]:
    return call(group, one, seed, exchanged=False)


class Written(TorchDispatchMode):
    """How many numbers PyTorch's own operators write, and how many do: those that return no view of what they got."""

    numbers = operators = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operator(*args, **(kwargs or {}))
        returned = [one.alias_info for one in operator._schema.returns]
        if operator.namespace == "aten" and not any(alias and not alias.is_write for alias in returned):
            written = [tensor.numel() for tensor in tree_leaves(found) if isinstance(tensor, Tensor)]
            self.numbers += sum(written)
            self.operators += bool(written)
        return found


class Unwritten(torch.autograd.Function):
    """A backend that leaves its output and its gradients to chance, which costs nothing."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        with disable_current_modes():
            return torch.empty_like(inputs[0])

    @staticmethod
    def backward(ctx: Any, _gradient: Tensor) -> tuple[Tensor, ...]:
        with disable_current_modes():
            return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


def copied(group: ProcessGroup, shards: Shards) -> tuple[float, float]:
    """What a call writes besides the backend, forward and backward, in maps of this rank."""
    shape = 1, 1, *shards.of_width(128).size(group.rank()), 8
    leaves = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    unwritten = patch.object(backends, "operator", lambda _name: lambda *inputs: Unwritten.apply(*inputs[:3]))
    with unwritten, Written() as forward:
        output = distributed.attend(*leaves, None, Geometry(8, 3), group, backend="unwritten", shards=shards)
    cotangent = torch.randn_like(output)
    with Written() as backward:
        torch.autograd.grad(output, leaves, cotangent)
    return forward.numbers / output.numel(), backward.numbers / output.numel()


def refused(group: ProcessGroup, geometry: Geometry, shards: Shards, backend: str) -> None:
    """A call on eight rows and columns a rank."""
    rows = geometry.own_rows(8)
    query, key = torch.randn(1, 1, rows, 8, 4), torch.randn(1, 1, 8, 8, 4)
    distributed.attend(query, key, key, None, geometry, group, backend=backend, shards=shards)


def sent(group: ProcessGroup, geometry: Geometry, shards: Shards) -> list[tuple[tuple[int, int], ...]]:
    """What this rank sends in a forward pass and its backward pass: ranks and bytes, message by message."""
    pixels = torch.ones(1, 1, *shards.size(group.rank()), 4, requires_grad=True)
    with recorded() as messages:
        distributed.attend(
            pixels, pixels, pixels, None, geometry, group, backend="sdpa", shards=shards
        ).sum().backward()
    return [message.sent for message in messages]


def sent_in_training(group: ProcessGroup, shards: Shards) -> tuple[list[bool], list[bool]]:
    """Which messages of a network's forward and backward pass are sums; the others are of pixels."""
    model = models.create("halonet_mini", "sdpa", 10).train()
    distributed.shard_network(model, group, backend="sdpa", shards=shards)
    with recorded() as forward:
        loss = model(torch.randn(1, 3, *shards.of_width(40).size(group.rank()))).sum()
    with recorded() as backward:
        loss.backward()
    return [message.summed > 0 for message in forward], [message.summed > 0 for message in backward]


def written_by_normalisation(group: ProcessGroup, shards: Shards) -> list[tuple[int, int]]:
    """How many operators write in a normalisation's forward and backward pass, with messages and without."""
    found = []
    for travels in (True, False):
        layout = Layout(group, travels=travels, image=shards.of_width(8))
        pixels = torch.randn(1, 3, *layout.image.size(group.rank()), requires_grad=True)
        layout.shares(pixels)  # kept from the first call on
        with Written() as forward:
            output = normalised(layout, torch.nn.BatchNorm2d(3), pixels)
        with Written() as backward:
            output.sum().backward()
        found.append((forward.operators, backward.operators))
    return found


def untold(group: ProcessGroup, geometry: Geometry, shards: Shards) -> None:
    """A call of ranks that are to ask one another."""
    pixels = torch.randn(1, 1, *shards.size(group.rank()), 4)
    distributed.attend(pixels, pixels, pixels, None, geometry, group, backend="sdpa")


def calls(group: ProcessGroup, seeds: range) -> list[dict[str, np.ndarray]]:
    """One after another, so that a message of one would be found in the next."""
    kind = torch.distributed.get_backend(group)
    return [call(group, drawn(seed, group.size(), kind), seed) for seed in seeds]


def layer(
    group: ProcessGroup, spec: LayerSpec, shards: Shards, pixels: Tensor, cotangent: Tensor, state: dict[str, Any]
) -> dict[str, np.ndarray]:
    """This rank's pixels of a layer's output and of the map's gradient, and the gradients of all weights."""
    module = distributed.HaloAttention(spec, group, backend="sdpa", shards=shards).to(pixels.dtype)
    module.load_state_dict(state)
    mine = shards.local(pixels, group.rank()).clone().requires_grad_()
    output = module(mine)
    output.backward(shards.strided(spec.geometry.stride).local(cotangent, group.rank()))
    assert mine.grad is not None
    weights = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return numbers({"output": output, "map": mine.grad, **weights})


class Adapted(nn.Module):
    """A projection with a low rank beside it, as adapters put one."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.projection, channels = projection, (projection.in_channels, projection.out_channels)
        self.down = nn.Conv2d(channels[0], 2, 1, projection.stride, bias=False)
        self.up = nn.Conv2d(2, channels[1], 1, bias=False)
        self.to(projection.weight.dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.projection(pixels) + self.up(self.down(pixels))
        return found


def dressed(module: HaloAttention) -> HaloAttention:
    """The layer with projections that are more than a weight: an adapter, a hook, a bias."""
    module.query = Adapted(module.query)  # type: ignore[assignment]
    module.key.register_forward_hook(lambda _module, _inputs, output: output * 2)
    module.value.bias = nn.Parameter(torch.zeros(module.value.out_channels, dtype=module.value.weight.dtype))
    return module


def dressed_layer(
    group: ProcessGroup, spec: LayerSpec, shards: Shards, pixels: Tensor, state: dict[str, Any]
) -> dict[str, np.ndarray]:
    """This rank's pixels of the output of such a layer's copy, and the gradients of its weights."""
    module = distributed.HaloAttention(spec, group, backend="sdpa", shards=shards).to(pixels.dtype)
    module = copy.deepcopy(dressed(module))  # of the same group
    module.load_state_dict(state)
    output = module(shards.local(pixels, group.rank()))
    output.square().sum().backward()
    return numbers({"output": output, **{name: weight.grad for name, weight in module.named_parameters()}})


def network(
    group: ProcessGroup, name: str, overrides: dict[str, Any], image: Tensor, state: dict[str, Any], shards: Shards
) -> Any:
    """The logits of an image of which this rank has its part; ranks ask one another for these if they are rows."""
    device = ranks.device_of(group)
    model = models.create(name, "sdpa", 10, **overrides).to(device, image.dtype).eval()
    model.load_state_dict(state)
    distributed.shard_network(model, group, backend="sdpa", shards=shards if shards.widths else None)
    with torch.no_grad():
        return model(shards.local(image, group.rank()).to(device)).cpu().numpy()


def training(
    group: ProcessGroup, overrides: dict[str, Any], images: Tensor, targets: Tensor, state: dict[str, Any],
    shards: Shards, again: bool = False, autocast: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Two steps of a network on images of which this rank has its part; what they leave, and the images' gradient.

    ``again``: blocks are computed again in the backward pass; ``autocast``: to bfloat16.
    """
    device = ranks.device_of(group)
    model = models.create("halonet_mini", "sdpa", 10, **overrides).to(device, images.dtype)
    model.load_state_dict(state)
    distributed.shard_network(model, group, backend="sdpa", shards=shards)
    model.set_grad_checkpointing(again)
    return stepped(model, shards.local(images, group.rank()).to(device), targets.to(device), autocast=autocast)


def before_any_backward(
    group: ProcessGroup, images: tuple[Tensor, Tensor], state: dict[str, Any], again: bool
) -> dict[str, np.ndarray]:
    """The gradients of a loss of two images of which this rank has its rows: the ranks ask one another for these.

    ``again`` as in ``training``.
    """
    model = models.create("halonet_mini", "sdpa", 10).to(images[0].dtype)
    model.load_state_dict(state)
    distributed.shard_network(model, group, backend="sdpa")
    model.set_grad_checkpointing(again)
    shards = [Shards((128, image.shape[2] - 128)) for image in images]
    return gradients_of(model, [each.local(image, group.rank()) for each, image in zip(shards, images, strict=True)])


def changed_network(
    group: ProcessGroup, images: Tensor, state: dict[str, Any], shards: Shards
) -> dict[str, np.ndarray]:
    """Features, logits and gradients of a network that was changed after it was sharded: all it had is replaced."""
    model = models.create("halonet_mini", "sdpa", 1000).to(images.dtype)
    distributed.shard_network(model, group, backend="sdpa", shards=shards)
    model.reset_classifier(10)
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return by_parts(copy.deepcopy(model), shards.local(images, group.rank()))


def by_parts(model: torch.nn.Module, images: Tensor) -> dict[str, np.ndarray]:
    """What a network's methods make of images, one after the other, and the gradients."""
    features, _ = model.forward_intermediates(images)
    logits = model.forward_head(features) + model.forward_head(model.forward_features(images))
    logits.square().sum().backward()
    return numbers({"logits": logits, **{name: weight.grad for name, weight in model.named_parameters()}})


def gradients_of(model: torch.nn.Module, images: list[Tensor]) -> dict[str, np.ndarray]:
    """Those of all parameters, of the sum of the images' losses."""
    losses = [torch.nn.functional.cross_entropy(model.train()(image), torch.tensor([1])) for image in images]
    torch.stack(losses).sum().backward()
    return numbers({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})


def stepped(
    model: torch.nn.Module, images: Tensor, targets: Tensor, *, autocast: bool = False
) -> dict[str, np.ndarray]:
    """Loss, logits, images' gradient, running statistics and all gradients of the second of two steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(2):
        images = images.detach().clone().requires_grad_()
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            logits = model(images)
            loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
    assert images.grad is not None
    found = {"loss": loss, "logits": logits, "images": images.grad, **dict(model.named_buffers())}
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    return numbers({**found, **gradients})


def assert_alike(parts: list[Any], whole: dict[str, np.ndarray], shards: Shards) -> None:
    """What ranks found in ``training`` is what the whole network did, to rounding in float64."""
    assert not [part for part in parts if isinstance(part, Exception)]
    found = together(parts, shards, set(whole) - {"images"})
    assert set(found) == set(whole)
    for name, wanted in whole.items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max(), err_msg=name)


def unlike_itself(model: torch.nn.Module) -> torch.nn.Module:
    """The model with statistics that do not leave maps as they are, and blocks that do not begin as their shortcuts."""
    torch.manual_seed(0)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    for name, parameter in model.named_parameters():
        if name.endswith("expand.1.weight"):
            torch.nn.init.ones_(parameter)
    return model


def whole_layer(spec: LayerSpec, pixels: Tensor, attend: Any) -> HaloAttention:
    torch.manual_seed(0)
    return HaloAttention(spec, attend).to(pixels.dtype)


def lagging(group: ProcessGroup, timeout_s: float, late: int, gave_up: Path, way: str) -> None:
    """A call that rank ``late`` joins when all others have given up, or its way back.

    They say so by a file in the folder ``gave_up``.
    """
    broken = ranks.short_lived(group, timeout_s)
    problem = Problem(Geometry(2, 3), 4 * group.size(), 4, dtype="float64")
    inputs = problem.inputs(requires_grad=True)
    shards = shard_map(problem.height, group.size(), problem.geometry)
    mine = [shards.local(tensor, group.rank()) for tensor in inputs[:3]]

    def lag(here: str) -> None:
        end = time.monotonic() + LONGEST_LAG_S
        while (group.rank(), way) == (late, here) and len(list(gave_up.iterdir())) < group.size() - 1:
            assert time.monotonic() < end
            time.sleep(0.02)

    try:
        lag("forward")
        output = distributed.attend(
            *mine, inputs.relative, problem.geometry, broken, backend="strided_gather", shards=shards
        )
        lag("backward")
        output.sum().backward()
    except distributed.RankLost:
        (gave_up / str(group.rank())).touch()
        raise


def dying(group: ProcessGroup, victim: int) -> None:
    """A call before which one rank ends."""
    problem = Problem(Geometry(2, 3), 4 * group.size(), 4)
    inputs = problem.inputs()
    shards = shard_map(problem.height, group.size(), problem.geometry)
    if group.rank() == victim:
        os._exit(3)
    mine = [shards.local(tensor, group.rank()) for tensor in inputs[:3]]
    distributed.attend(*mine, inputs.relative, problem.geometry, group, backend="strided_gather", shards=shards)

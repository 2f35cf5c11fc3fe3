"""What ranks are asked: calls on shards of a map, and calls that some rank does not join; and what is right."""

import os
import time
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from halobench import Geometry, LayerSpec, Problem, RelativeTables, backends, distributed, models
from halobench.attention import oracle
from halobench.attention.layer import HaloAttention
from halobench.cases import accuracy, workload
from halobench.cases.operator_call import Call, yardstick
from halobench.distributed import Shards, shard_map
from halobench.distributed.shards import unit
from tests import ranks

BACKENDS = {"gloo": ("strided_gather", "sdpa", "naive_unfold"), "nccl": ("fused", "fused", "sdpa", "strided_gather")}


@dataclass(frozen=True)
class Drawn:
    """A problem, who holds which of its rows, and what computes it; ``told``: whether ranks are told the shards."""

    problem: Problem
    shards: Shards
    backend: str
    told: bool


def drawn(seed: int, count: int, kind: str = "gloo") -> Drawn:
    """Any problem on any shards: some without rows, some smaller than the halo."""
    draw = Random(seed)
    block, halo = draw.randint(1, 5), draw.randint(0, 9)
    stride = draw.choice([stride for stride in (1, 1, 2, 3, 4) if block % stride == 0 or stride % block == 0])
    geometry = Geometry(block, halo, stride, draw.choice(["masked", "zero"]))
    whole = unit(geometry)
    units = [draw.choice([0, 1, 1, 2, 4]) for _ in range(count)]
    units[draw.randrange(count)] += -(-3 * stride // whole)  # three rows of queries at least (``test_conformance``)
    heights = [whole * number for number in units]
    last = max(rank for rank in range(count) if heights[rank])
    heights[last] -= draw.randrange(whole) if sum(heights) - whole >= 3 * stride else 0
    shards = shard_map(sum(heights), count, geometry) if seed % 4 == 0 else Shards(tuple(heights))
    problem = Problem(
        geometry,
        sum(heights),
        width=stride * draw.randint(3, 5),
        batch=draw.randint(1, 2),
        heads=draw.randint(1, 2),
        key_dim=draw.choice([4, 8]),
        value_dim=draw.choice([4, 8, 12]),
        relative=draw.random() < 0.8,
        dtype=draw.choice(["float32", "float32", "bfloat16"]),
    )
    return Drawn(problem, shards, draw.choice(BACKENDS[kind]), draw.random() < 0.5)


def call(group: ProcessGroup, one: Drawn, seed: int, *, exchanged: bool = True) -> dict[str, np.ndarray]:
    """This rank's rows of the output and the gradients, and its gradients of the tables, as float64."""
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


def together(parts: list[dict[str, np.ndarray]], axis: int, whole: set[str], device: str = "cpu") -> dict[str, Tensor]:
    """Rows of all ranks above one another; what ranks hold whole must be the same on all of them."""
    for name in whole & set(parts[0]):
        for part in parts:
            np.testing.assert_array_equal(part[name], parts[0][name])
    return {
        name: torch.from_numpy(
            parts[0][name] if name in whole else np.concatenate([part[name] for part in parts], axis)
        ).to(device)
        for name in parts[0]
    }


def fault(one: Drawn, seed: int, parts: list[dict[str, np.ndarray]], device: str = "cpu") -> str | None:
    """What is wrong, by the accuracy rule, with what the ranks found; formula and truth are computed on ``device``."""
    found = together(parts, 2, {"rows", "columns"}, device)
    inputs = {name: tensor.to(device) for name, tensor in one.problem.inputs(seed=seed).tensors.items()}
    whole = Call(inputs, workload.cotangent(one.problem, "cpu", seed).to(device), one.problem.geometry)
    truth, plain = whole.to(torch.float64).results(oracle.attend), whole.results(yardstick)
    return accuracy.compare_attention(found, truth, plain, backends.load(one.backend), whole).fault


def unexchanged(group: ProcessGroup, one: Drawn, seed: int) -> dict[str, np.ndarray]:
    return call(group, one, seed, exchanged=False)


def refused(group: ProcessGroup, geometry: Geometry, shards: Shards, backend: str) -> None:
    """A call on eight rows a rank."""
    rows = geometry.own_rows(8)
    query, key = torch.randn(1, 1, rows, 8, 4), torch.randn(1, 1, 8, 8, 4)
    distributed.attend(query, key, key, None, geometry, group, backend=backend, shards=shards)


def calls(group: ProcessGroup, seeds: range) -> list[dict[str, np.ndarray]]:
    """One after another, so that a message of one would be found in the next."""
    kind = torch.distributed.get_backend(group)
    return [call(group, drawn(seed, group.size(), kind), seed) for seed in seeds]


def layer(
    group: ProcessGroup, spec: LayerSpec, pixels: Tensor, cotangent: Tensor, state: dict[str, Any]
) -> dict[str, np.ndarray]:
    """This rank's rows of a layer's output and of the map's gradient, and the gradients of all weights."""
    shards = shard_map(pixels.shape[2], group.size(), spec.geometry)
    module = distributed.HaloAttention(spec, group, backend="sdpa", shards=shards).to(pixels.dtype)
    module.load_state_dict(state)
    mine = shards.local(pixels, group.rank()).clone().requires_grad_()
    output = module(mine)
    output.backward(shards.strided(spec.geometry.stride).local(cotangent, group.rank()))
    assert mine.grad is not None
    weights = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return numbers({"output": output, "map": mine.grad, **weights})


def network(group: ProcessGroup, name: str, overrides: dict[str, Any], image: Tensor, state: dict[str, Any]) -> Any:
    """The logits of an image of which this rank has its part."""
    device = ranks.device_of(group)
    model = models.create(name, "sdpa", 10, **overrides).to(device, image.dtype).eval()
    model.load_state_dict(state)
    distributed.shard_network(model, group, backend="sdpa")
    heights = [128] * (group.size() - 1)
    shards = Shards((*heights, image.shape[2] - sum(heights)))
    with torch.no_grad():
        return model(shards.local(image, group.rank()).to(device)).cpu().numpy()


def training(
    group: ProcessGroup, overrides: dict[str, Any], images: Tensor, targets: Tensor, state: dict[str, Any],
    heights: tuple[int, ...], again: bool = False, autocast: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Two steps of a network on images of which this rank has its rows; what they leave, and the images' gradient.

    ``again``: blocks are computed again in the backward pass; ``autocast``: to bfloat16.
    """
    device, shards = ranks.device_of(group), Shards(heights)
    model = models.create("halonet_mini", "sdpa", 10, **overrides).to(device, images.dtype)
    model.load_state_dict(state)
    distributed.shard_network(model, group, backend="sdpa", shards=shards)
    model.set_grad_checkpointing(again)
    return stepped(model, shards.local(images, group.rank()).to(device), targets.to(device), autocast=autocast)


def before_any_backward(
    group: ProcessGroup, images: tuple[Tensor, Tensor], state: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The gradients of a loss of two images of which this rank has its rows: the ranks ask one another for these."""
    model = models.create("halonet_mini", "sdpa", 10).to(images[0].dtype)
    model.load_state_dict(state)
    distributed.shard_network(model, group, backend="sdpa")
    shards = [Shards((128, image.shape[2] - 128)) for image in images]
    return gradients_of(model, [each.local(image, group.rank()) for each, image in zip(shards, images, strict=True)])


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


def assert_alike(parts: list[Any], whole: dict[str, np.ndarray]) -> None:
    """What ranks found in ``training`` is what the whole network did, to rounding in float64."""
    assert not [part for part in parts if isinstance(part, Exception)]
    found = together(parts, 2, set(whole) - {"images"})
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


def lagging(group: ProcessGroup, timeout_s: float, late: int, late_s: float, way: str) -> None:
    """A call that rank ``late`` joins too late, or its way back."""
    broken = ranks.short_lived(group, timeout_s)
    problem = Problem(Geometry(2, 3), 4 * group.size(), 4, dtype="float64")
    inputs = problem.inputs(requires_grad=True)
    shards = shard_map(problem.height, group.size(), problem.geometry)
    mine = [shards.local(tensor, group.rank()) for tensor in inputs[:3]]
    if (group.rank(), way) == (late, "forward"):
        time.sleep(late_s)
    output = distributed.attend(
        *mine, inputs.relative, problem.geometry, broken, backend="strided_gather", shards=shards
    )
    if (group.rank(), way) == (late, "backward"):
        time.sleep(late_s)
    output.sum().backward()


def dying(group: ProcessGroup, victim: int) -> None:
    """A call before which one rank ends."""
    problem = Problem(Geometry(2, 3), 4 * group.size(), 4)
    inputs = problem.inputs()
    shards = shard_map(problem.height, group.size(), problem.geometry)
    if group.rank() == victim:
        os._exit(3)
    mine = [shards.local(tensor, group.rank()) for tensor in inputs[:3]]
    distributed.attend(*mine, inputs.relative, problem.geometry, group, backend="strided_gather", shards=shards)

"""One image on several ranks: the points of the sharded operator, and of a sharded network's inference and training."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from halobench import models
from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Attend, Direction, Problem
from halobench.cases.case import Case
from halobench.cases.network import Network, NetworkCase
from halobench.cases.workload import cotangent
from halobench.distributed import Shards, attend, shard_map, shard_network
from halobench.distributed.messages import Message, recorded
from halobench.models.halonet import HaloNet
from halobench.models.work import attention_layers
from halobench.scale.collective import bus_bytes, sending, sent_bytes
from halobench.scale.point import Calls, Fields, Point
from halobench.scale.replay import warm
from halobench.scale.settings import MAP_DIVISOR, Settings
from halobench.train.step import Step
from halobench.train.workload import CLASSES, autocast_dtype, network_model, optimizer_of, settle

SUITE = "sharded"
DIRECTIONS: tuple[Direction, ...] = ("forward", "training")
Groups = Mapping[int, ProcessGroup | None]
Call = Callable[[], object]


def operators(model: str, settings: Settings, groups: Groups, device: torch.device) -> Iterator[list[Point]]:
    """The attention layers of a model at each side of the image: forward, then training, on 1, 2, ... ranks."""
    shapes = models.create(model, "strided_gather")
    for side in settings.sides:
        found = attention_layers(shapes, side, side)
        for problem in dict.fromkeys(spec.problem(1, height, width, settings.dtype) for spec, height, width in found):
            for direction in DIRECTIONS:
                case = Case(SUITE, settings.backend, problem, direction, settings.device, (SUITE,), f"{model}, {side}")
                make = partial(operator_calls, problem, direction, settings, device)
                yield points(case.row(), (problem.height, problem.width), problem.geometry, settings, groups, make)


def networks(model: str, settings: Settings, groups: Groups, device: torch.device) -> Iterator[list[Point]]:
    """A HaloNet on one image of each side, inference or a training step, on 1, 2, ... ranks."""
    direction: Direction = "training" if settings.what == "training" else "forward"
    shapes = models.create(model, "strided_gather")
    assert isinstance(shapes, HaloNet)
    cuts = Geometry(MAP_DIVISOR * shapes.architecture.block, 0)  # where each map is cut between blocks, on the image
    for side in settings.sides:
        network = Network(model, side, 1, settings.dtype, settings.backend, captured=settings.captured)
        row = NetworkCase(SUITE, network, direction, settings.device, (SUITE,)).row()
        make = partial(network_calls, network, direction, settings, device)
        yield points(row, (side, side), cuts, settings, groups, make)


def points(
    row: Fields, size: tuple[int, int], geometry: Geometry, settings: Settings, groups: Groups,
    make: Callable[[ProcessGroup | None, Shards], Calls],
) -> list[Point]:  # fmt: skip
    """The points of one subject, a map or an image of this height and width; a fault where ranks would hold nothing."""
    height, width = size
    found = []
    for count, group in groups.items():
        grid = (count, 1) if settings.grid is None or count == 1 else settings.grid
        shards = shard_map(height, grid, geometry, width)
        number = count if grid[1] == 1 else f"{grid[0]}x{grid[1]}"
        named = row | {"case": f"{row['case']}-x{number}"}
        one = Point(count, "strong", 1, group, partial(make, group, shards), named, grid=grid)
        if 0 in (*shards.heights, *(shards.widths or ())):
            blocks = " x ".join(str(-(-along // geometry.block)) for along in size)
            reason = f"{blocks} blocks of {geometry.block} are too few for {grid[0]} x {grid[1]} ranks"
            one.fault = "UNSUPPORTED", reason
        found.append(one)
    return found


def operator_calls(
    problem: Problem, direction: Direction, settings: Settings, device: torch.device, group: ProcessGroup | None,
    shards: Shards,
) -> Calls:  # fmt: skip
    """The operator on this rank's pixels."""
    height, width = shards.size(group.rank() if group else 0)
    own = replace(problem, height=height, width=width)
    inputs, gradient = own.inputs(device), cotangent(own, device, 0)
    leaves = list(inputs.tensors.values())

    def bound(compute: Attend) -> Call:
        def forward() -> Tensor:
            with torch.no_grad():
                return compute(*inputs, problem.geometry)

        def train() -> tuple[Tensor, ...]:
            return torch.autograd.grad(compute(*inputs, problem.geometry), leaves, gradient)

        return train if direction == "training" else forward

    for leaf in leaves:
        leaf.requires_grad_(direction == "training")
    resident = sum(tensor.nbytes for tensor in (*leaves, gradient))
    if group is None:
        return calls(bound(backends.operator(settings.backend)), None, resident, settings, device, None)
    step, silent = (
        bound(partial(attend, group=group, backend=settings.backend, shards=shards, exchanged=exchanged))
        for exchanged in (True, False)
    )
    return calls(step, silent, resident, settings, device, group)


def network_calls(
    network: Network, direction: Direction, settings: Settings, device: torch.device, group: ProcessGroup | None,
    shards: Shards,
) -> Calls:  # fmt: skip
    """The network on this rank's pixels of an image."""
    height, width = shards.size(group.rank() if group else 0)
    generator = torch.Generator(device).manual_seed(1)
    images = torch.randn((1, height, width, 3), generator=generator, device=device).permute(0, 3, 1, 2)
    targets = torch.randint(CLASSES, (1,), generator=torch.Generator().manual_seed(1)).to(device)  # all ranks' the same
    found = []
    for exchanged in (True,) if group is None else (True, False):
        model = network_model(network, device)
        if direction == "forward":
            settle(model, network, device)
        if group is not None:
            assert isinstance(model, HaloNet)
            assert network.backend is not None
            shard_network(model, group, backend=network.backend, shards=shards, exchanged=exchanged)
        bound = training if direction == "training" else inference
        found.append(bound(model, network, images, targets))
    resident = sum(tensor.nbytes for tensor in (images, *model.parameters(), *model.buffers()))
    resident += sum(parameter.nbytes for parameter in model.parameters()) * 2 * (direction == "training")
    made = calls(found[0], found[-1] if group else None, resident, settings, device, group)
    made.parameters = sum(parameter.numel() for parameter in model.parameters())
    return made


def training(model: nn.Module, network: Network, images: Tensor, targets: Tensor) -> Call:
    """A step as the training suite's, on these pixels."""
    step = Step(model.train(), nn.CrossEntropyLoss(), optimizer_of(model), autocast_dtype(network))
    return partial(step, images, targets)


def inference(model: nn.Module, network: Network, images: Tensor, _targets: Tensor) -> Call:
    """A forward pass as the training suite's, on these pixels."""
    dtype: torch.dtype = getattr(torch, network.dtype)
    model.to(dtype).eval()
    images = images.to(dtype)

    def call() -> Tensor:
        with torch.no_grad():
            output: Tensor = model(images)
        return output

    return call


def calls(
    step: Call, silent: Call | None, resident_bytes: int, settings: Settings, device: torch.device,
    group: ProcessGroup | None,
) -> Calls:  # fmt: skip
    """The calls, warm, and what of communication they have; ``silent`` is ``None`` on a single rank."""
    warm(step, settings)
    messages: list[Message] = []
    if silent is not None:
        warm(silent, settings)
        with recorded() as messages:
            step()
    made = Calls(step, silent or step, resident_bytes, launched=step)
    if group is not None:
        made.alone = sending(messages, device, group)
        made.sent_bytes, made.bus_bytes = sent_bytes(messages), bus_bytes(messages, group.size())
    if settings.captured:
        made.capture()
    return made

"""What ranks are asked to measure, and to replay."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import ProcessGroup

from halobench.scale import replay, sharded
from halobench.scale.campaign import Campaign
from halobench.scale.flat import Flat
from halobench.scale.settings import Settings
from tests import ranks


def campaign(group: ProcessGroup, settings: Settings) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """The rows of every network, not settled yet, and the ceilings."""
    made = Campaign(settings, torch.device("cpu"), group.rank())
    rows = [row for model in settings.models for row in made.rows(model)]
    return rows, made.ceilings


def averaged(group: ProcessGroup) -> list[bool]:
    """Whether gradients are the mean of all ranks', whatever their layout, and this rank's own where they are to be."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(16, 5))
    model = model.to(memory_format=torch.channels_last)
    flat = Flat(model, group)
    found = []
    for alone in (False, True, False):
        images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(group.rank()))
        model.zero_grad()
        model(images).square().sum().backward()
        contiguous = model[0].weight.grad.contiguous()
        model[0].weight.grad = None
        model[0].weight.grad = contiguous  # not as its parameter lies
        own = [parameter.grad.clone() for parameter in model.parameters()]
        wanted = [gradient.clone() for gradient in own]
        if not alone:
            for gradient in wanted:
                distributed.all_reduce(gradient, group=group)
                gradient.div_(group.size())
        with flat.no_sync() if alone else nullcontext():
            flat.average()
        pairs = zip(wanted, own, model.parameters(), strict=True)
        found += [
            torch.equal(one, parameter.grad) and alone == torch.equal(mine, parameter.grad)
            for one, mine, parameter in pairs
        ]
    return found


def replays(group: ProcessGroup, settings: Settings) -> None:
    """Each point on all ranks: what its replay returns is what the call does."""
    device = ranks.device_of(group)
    made = sharded.operators if settings.what == "operator" else sharded.networks
    with replay.prepared(settings, device):
        for points in made(settings.models[0], settings, {1: None, group.size(): group}, device):
            if points[-1].fault is not None:
                continue
            calls = points[-1].make()
            assert calls.replayed == settings.captured
            launched = tensors(calls.launched())
            wanted = [tensor.clone() for tensor in launched]
            for tensor in tensors(calls.step()):
                tensor.fill_(float("nan"))
            torch.testing.assert_close(tensors(calls.step()), wanted)


def tensors(answer: Any) -> list[torch.Tensor]:
    return [answer] if isinstance(answer, torch.Tensor) else list(answer)

"""What ranks are asked to measure, and to replay."""

from typing import Any

import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.distributed import ProcessGroup

from halobench.scale import replay, replica, sharded
from halobench.scale.campaign import Campaign
from halobench.scale.settings import Settings
from tests import ranks


def campaign(group: ProcessGroup, settings: Settings) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """The rows of every network, not settled yet, and the ceilings."""
    made = Campaign(settings, torch.device("cpu"), group.rank())
    rows = [row for model in settings.models for row in made.rows(model)]
    return rows, made.ceilings


class Two(nn.Module):
    """A network of two layers, not of a class of PyTorch's own, which Dynamo passes over."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(600, 600), nn.Linear(600, 600)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.one(x)
        return hidden + self.other(hidden)


def graphs(group: ProcessGroup, settings: Settings) -> int:
    """How many graphs a network of two layers is compiled as, whose buckets are smaller than a layer."""
    together = replica.spread(Two(), settings, group, torch.device("cpu"))
    compiled = CompileCounter()
    with replica.compiling(settings):
        torch.compile(together, backend=compiled)(torch.ones(1, 600)).sum().backward()
    return compiled.frame_count


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

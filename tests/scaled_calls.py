"""What ``test_scale.py`` has ranks do."""

from typing import Any

import torch
from torch.distributed import ProcessGroup

from halobench.scale.campaign import Campaign
from halobench.scale.settings import Settings


def campaign(group: ProcessGroup, settings: Settings) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """The rows of every network, not settled yet, and the ceilings."""
    made = Campaign(settings, torch.device("cpu"), group.rank())
    rows = [row for model in settings.models for row in made.rows(model)]
    return rows, made.ceilings

"""What a run trains, and by which rule: the model, the optimizer and the schedule of its rate."""

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]  # timm marks no exports
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from halobench import models
from halobench.train.settings import Settings


def build(settings: Settings, classes: int) -> nn.Module:
    """The model with fresh weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        overrides = {"drop_path_rate": settings.stochastic_depth} if settings.stochastic_depth else {}
        return models.create(settings.model, settings.backend, classes, **overrides)


def optimizer(settings: Settings, model: nn.Module) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW; norms and biases do not decay, relative tables do, as timm's do."""
    groups = param_groups_weight_decay(model, settings.weight_decay)
    if settings.optimizer == "adamw":
        return AdamW(groups, lr=settings.learning_rate)
    return SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)


def schedule(settings: Settings, optimizer: Optimizer, steps: int) -> CosineLRScheduler:
    """Linear warm-up, then a cosine down to 1/128 of the highest rate, step by step."""
    total = settings.epochs * steps
    warm_up = min(round(settings.warm_up_epochs * steps), total - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(total - warm_up, 2),  # timm warns of a cosine of one step, which is the first one of any cosine
        lr_min=settings.learning_rate / 128,
        warmup_t=warm_up,
        warmup_lr_init=settings.learning_rate / 128,
        warmup_prefix=True,  # the cosine begins where the warm-up ends
        t_in_epochs=False,
    )

"""One training step: what a training run repeats and the training suite measures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


@dataclass
class Step:
    """Forward pass, loss, backward pass and optimizer of one batch; called with images and targets.

    ``dtype`` is that of autocast, ``None`` computes in the parameters' own. ``forward`` is the model as it is called,
    possibly compiled; ``None`` calls ``model`` itself. ``clip`` is the largest norm that the gradient of all parameters
    may have, ``None`` allows any. ``scaler`` keeps float16's gradients from vanishing and leaves out a step where they
    overflow; by default it does nothing. ``average`` is what ranks do with their gradients when all are there.
    """

    model: nn.Module
    criterion: Callable[[Any, Any], Tensor]
    optimizer: Optimizer
    dtype: torch.dtype | None = None
    forward: Callable[..., Any] | None = None
    clip: float | None = None
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    average: Callable[[], None] | None = None

    def __call__(self, images: Tensor, targets: Any) -> Tensor:
        """Train on (batch, 3, H, W) images with their (batch,) classes; the mean loss, still on the device."""
        loss = self.loss(images, targets)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.average is not None:
            self.average()
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        """The mean loss of a batch."""
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            # A compiled model has no truth value: asking for one asks for its length.
            forward = self.model if self.forward is None else self.forward
            return self.criterion(self.outputs(forward, images, targets), targets)

    def outputs(self, forward: Callable[..., Any], images: Tensor, _targets: Any) -> Any:
        """What the criterion is to judge."""
        return forward(images)


class DetectorStep(Step):
    """A step of a detector, whose targets are dictionaries of boxes, labels and masks, one an image."""

    def outputs(self, forward: Callable[..., Any], images: Tensor, targets: list[dict[str, Tensor]]) -> Any:
        """The losses by their names."""
        return forward(list(images), targets)


def total_loss(losses: dict[str, Tensor], _targets: object) -> Tensor:
    """The criterion of detectors: the sum of all losses."""
    return torch.stack(list(losses.values())).sum()

"""One training step: what a training run repeats and the training suite measures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class Step:
    """Forward pass, loss, backward pass and optimizer of one batch; called with images and targets.

    ``dtype`` is that of autocast, ``None`` computes in the parameters' own. ``forward`` is the model as it is called,
    possibly compiled; ``None`` calls ``model`` itself.
    """

    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer
    dtype: torch.dtype | None = None
    forward: Callable[[Tensor], Tensor] | None = None

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Train on (batch, 3, H, W) images with their (batch,) classes; the mean loss, still on the device."""
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            # A compiled model has no truth value: asking for one asks for its length.
            forward = self.model if self.forward is None else self.forward
            loss = self.criterion(forward(images), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

"""How well a model classifies a batch."""

import torch
from torch import Tensor, nn

from halobench.train.reading import IGNORED


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Three sums over a batch, in float64: losses, right answers and images; those of target ``IGNORED`` are none.

    ``images`` are (batch, 3, H, W), ``targets`` (batch,); ``dtype`` is that of autocast, ``None`` for none.
    """
    model.eval()
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        logits = model(images).float()
    right = (logits.argmax(1) == targets).sum()
    loss = nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    return torch.stack([loss.double(), right.double(), (targets != IGNORED).sum().double()])

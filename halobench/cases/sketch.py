"""A tensor in few numbers: how far two tensors are apart, image by image, without having both.

The sketch of an image is the sums of its elements, each with a random sign, in 127 groups (Alon, Matias, Szegedy 1996,
in the form of Charikar et al. 2002). It is linear, so the sketch of a difference is the difference of the sketches, and
its norm estimates the norm of the difference: without bias in its square, with a standard deviation of about 6 %.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPS = 127


def sketch(images: Tensor) -> Tensor:
    """(images, ...) -> (images, groups), in float64."""
    flat = images.detach().flatten(1)
    signed = F.pad(flat * signs(flat.shape[1], flat.device), (0, -flat.shape[1] % GROUPS))
    grouped: Tensor = signed.unflatten(1, (-1, GROUPS)).sum(1, dtype=torch.float64)
    return grouped


@lru_cache(maxsize=8)
def signs(count: int, device: torch.device) -> Tensor:
    """Random signs, the same at every call."""
    generator = torch.Generator(device).manual_seed(count)
    return torch.randint(0, 2, (count,), generator=generator, device=device, dtype=torch.int8) * 2 - 1

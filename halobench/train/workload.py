"""A network bound to random images on a device: the call that the training suite measures."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from halobench import models
from halobench.cases.network import Network
from halobench.train.step import Step

CLASSES = 1000
Bound = tuple[Callable[[], Tensor], Callable[[], Iterator[Tensor]]]
"""A call, and all tensors that it leaves in memory."""


def network_model(network: Network, device: torch.device | str) -> nn.Module:
    """The network's model, channels-last, with the same weights whatever its backend."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.create(network.model, network.backend, CLASSES, **dict(network.overrides))
    return model.to(device).to(memory_format=torch.channels_last)


def random_images(network: Network, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Standard normal images (batch, 3, side, side), channels-last in memory, and their classes."""
    generator = torch.Generator(device).manual_seed(1)
    images = torch.randn((network.batch, network.side, network.side, 3), generator=generator, device=device)
    targets = torch.randint(CLASSES, (network.batch,), generator=generator, device=device)
    return images.permute(0, 3, 1, 2), targets


def training_step(model: nn.Module, network: Network, device: torch.device | str) -> Bound:
    """One step of Nesterov SGD, which returns the loss; and all tensors that it leaves in memory.

    Parameters are float32 and autocast computes in the network's dtype.
    """
    model.train()
    images, targets = random_images(network, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=2e-5)
    dtype = None if network.dtype == "float32" else getattr(torch, network.dtype)
    forward = torch.compile(model, dynamic=False) if network.compiled else None
    step = Step(model, nn.CrossEntropyLoss(label_smoothing=network.label_smoothing), optimizer, dtype, forward)
    call = partial(step, images, targets)
    if network.magnitude is not None:
        images = v2.functional.to_dtype(images.sigmoid(), torch.uint8, scale=True)
        call = partial(augmented, step, v2.RandAugment(2, network.magnitude), images, targets)

    def tensors() -> Iterator[Tensor]:
        yield from (images, targets, *model.buffers())
        for parameter in model.parameters():
            yield from (parameter, parameter)  # itself and its gradient
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    return call, tensors


def augmented(step: Step, augment: v2.RandAugment, images: Tensor, targets: Tensor) -> Tensor:
    """A step on bytes that are augmented and scaled first, all images of the batch alike."""
    pixels = v2.functional.to_dtype(augment(images), torch.float32, scale=True)
    return step(pixels.contiguous(memory_format=torch.channels_last), targets)


def inference(model: nn.Module, network: Network, device: torch.device | str) -> Bound:
    """A forward pass in the network's dtype, parameters included; and all tensors that it leaves in memory."""
    dtype: torch.dtype = getattr(torch, network.dtype)
    model.to(dtype).eval()
    images = random_images(network, device)[0].to(dtype)
    forward = torch.compile(model, dynamic=False) if network.compiled else model

    def call() -> Tensor:
        with torch.no_grad():
            output: Tensor = forward(images)
            return output

    def tensors() -> Iterator[Tensor]:
        yield from (images, *model.parameters(), *model.buffers())

    return call, tensors

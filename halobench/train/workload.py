"""A network bound to random images on a device: the call that the training suite measures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch._inductor
from torch import Tensor, nn
from torchvision.transforms import v2

from halobench import models
from halobench.attention.compilation import INDUCTOR_OPTIONS
from halobench.attention.problem import Direction
from halobench.cases.network import Network
from halobench.train.step import Step

CLASSES = 1000
SEEN = 16  # images, at least, that a network for inference has seen: two are too few to know what a third is like
SEEN_SIDE = 256  # of these, at most
BRANCH = 0.25  # the weight of a block's branch in such a network, where a fresh one has zero
SEARCHING = torch._inductor.list_mode_options("max-autotune-no-cudagraphs")  # noqa: SLF001 - documented, but private
NCHW = {"layout_optimization": False}  # the compiler itself would go back to channels-last
Bound = tuple[Callable[[], Tensor], Callable[[], Iterator[Tensor]]]
"""A call, and all tensors that it leaves in memory."""


@dataclass(frozen=True)
class CompileMode:
    """A way to compile a network: options of the compiler, and how maps lie in memory.

    ``folds``: parameters become constants, so that batch normalisation is folded into convolutions; for inference.
    """

    options: dict[str, Any] | None = None
    layout: torch.memory_format = torch.channels_last
    folds: bool = False


# PyTorch's other modes add CUDA graphs, which compiled networks are replayed as in any case.
COMPILE_MODES = {
    None: CompileMode(),
    "autotuned": CompileMode(SEARCHING),
    "contiguous": CompileMode(NCHW, torch.contiguous_format),
    "contiguous-autotuned": CompileMode(SEARCHING | NCHW, torch.contiguous_format),
    "folded": CompileMode(folds=True),
}


def compile_mode(network: Network, direction: Direction) -> CompileMode:
    """How the network is compiled.

    Raises:
        ValueError: there is no such mode, or it does not serve what is called.
    """
    name = network.compile_mode
    if name not in COMPILE_MODES:
        there = ", ".join(mode for mode in COMPILE_MODES if mode)
        raise ValueError(f"compile_mode must be one of {there}, or None, got {name!r}")
    if name is not None and not network.compiled:
        raise ValueError(f"compile_mode is for compiled networks, got {name!r} of {network.name}")
    mode = COMPILE_MODES[name]
    if mode.folds and direction == "training":
        raise ValueError(f"parameters that are trained are no constants: {name!r} is for inference")
    return mode


def network_model(network: Network, device: torch.device | str) -> nn.Module:
    """The network's model, laid out as its compile mode says, with the same weights whatever its backend."""
    overrides: dict[str, Any] = dict(network.overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.create(network.model, network.backend, **overrides)
    return model.to(device).to(memory_format=COMPILE_MODES[network.compile_mode].layout)


def random_images(network: Network, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Standard normal images (batch, 3, side, side), laid out as the network's maps, and their classes."""
    generator = torch.Generator(device).manual_seed(1)
    images = torch.randn((network.batch, network.side, network.side, 3), generator=generator, device=device)
    targets = torch.randint(CLASSES, (network.batch,), generator=generator, device=device)
    layout = COMPILE_MODES[network.compile_mode].layout
    return images.permute(0, 3, 1, 2).contiguous(memory_format=layout), targets


def autocast_dtype(network: Network) -> torch.dtype | None:
    """In which dtype autocast computes beside float32 parameters; none where the network's own is that."""
    return None if network.dtype == "float32" else getattr(torch, network.dtype)


def called(model: nn.Module, network: Network, mode: CompileMode) -> Callable[[Tensor], Tensor]:
    """The model as it is called: compiled, or itself."""
    if not network.compiled:
        return model
    return torch.compile(model, dynamic=False, options=INDUCTOR_OPTIONS | (mode.options or {}))


def training_step(
    model: nn.Module, network: Network, device: torch.device | str, average: Callable[[], None] | None = None
) -> Bound:
    """One step of Nesterov SGD, which returns the loss; and all tensors that it leaves in memory.

    Parameters are float32 and autocast computes in the network's dtype. ``average`` is that of ``Step``.
    """
    mode = compile_mode(network, "training")
    model.train()
    images, targets = random_images(network, device)
    optimizer = optimizer_of(model)
    dtype = autocast_dtype(network)
    forward = called(model, network, mode)
    criterion = nn.CrossEntropyLoss(label_smoothing=network.label_smoothing)
    step = Step(model, criterion, optimizer, dtype, forward, average=average)
    call = partial(step, images, targets)
    if network.magnitude is not None:
        images = v2.functional.to_dtype(images.sigmoid(), torch.uint8, scale=True)
        call = partial(augmented, step, v2.RandAugment(2, network.magnitude), images, targets)
    return call, partial(lasting, model, optimizer, [images, targets])


def optimizer_of(model: nn.Module, learning_rate: float = 1e-3) -> torch.optim.SGD:
    """Nesterov SGD."""
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=2e-5)


def lasting(model: nn.Module, optimizer: torch.optim.Optimizer, given: Sequence[Tensor]) -> Iterator[Tensor]:
    """All tensors that a step leaves in memory, with those that it was given."""
    yield from (*given, *model.buffers())
    for parameter in model.parameters():
        yield from (parameter, parameter)  # itself and its gradient
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def constants(mode: CompileMode) -> AbstractContextManager[None]:
    """Where what is compiled takes parameters for constants, if the mode says so. As an option Dynamo would miss it."""
    return torch._inductor.config.patch(freezing=True) if mode.folds else nullcontext()  # noqa: SLF001 - as above


def settle(model: nn.Module, network: Network, device: torch.device | str) -> None:
    """Leave what training leaves: running statistics of its own maps, and blocks that are more than their shortcuts.

    They are those of ``SEEN`` random images, or of as many as the network's batch has. A fresh network's statistics are
    those of standard normal maps, which its maps are not: from layer to layer they shrink, until logits in bfloat16 are
    the classifier's bias, whatever the image. And a GPU takes less power to multiply the zeros that blocks begin with.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches: of one, that batch
        if norm.weight is not None and not norm.weight.any():
            nn.init.constant_(norm.weight, BRANCH)
    seen = replace(network, batch=max(network.batch, SEEN), side=min(network.side, SEEN_SIDE))
    dtype = autocast_dtype(network)
    with torch.no_grad(), torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
        model.train()(random_images(seen, device)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def augmented(step: Step, augment: v2.RandAugment, images: Tensor, targets: Tensor) -> Tensor:
    """A step on bytes that are augmented and scaled first, all images of the batch alike."""
    pixels = v2.functional.to_dtype(augment(images), torch.float32, scale=True)
    return step(pixels.contiguous(memory_format=torch.channels_last), targets)


def inference(model: nn.Module, network: Network, device: torch.device | str) -> Bound:
    """A forward pass in the network's dtype, parameters included; and all tensors that it leaves in memory.

    The network is one that has seen images (``settle``). Of one that gives features it returns the last map. Where its
    compile mode folds, the compiler keeps folded weights of its own beside them.
    """
    mode = compile_mode(network, "forward")
    dtype: torch.dtype = getattr(torch, network.dtype)
    settle(model, network, device)
    model.to(dtype).eval()
    images = random_images(network, device)[0].to(dtype)
    forward = called(model, network, mode)

    def call() -> Tensor:
        with torch.no_grad(), constants(mode):
            output: Tensor | list[Tensor] = forward(images)
            return output if isinstance(output, Tensor) else output[-1]

    def tensors() -> Iterator[Tensor]:
        yield from (images, *model.parameters(), *model.buffers())

    return call, tensors

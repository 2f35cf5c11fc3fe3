"""Checks of the kernels of ``halobench.models.norm``, in Triton's interpreter and on a GPU.

``tests/interpreter.py`` runs them for ``tests/test_norm.py``, which itself runs them on a GPU.
"""

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halobench.models.norm.module import NormActivation, Parts, fused
from halobench.models.norm.operator import norm_activation, norm_activation_backward

# Batch, channels, height and width; pooled, with a shortcut; activation; dtype. Rows and channels fill tiles or do not.
CASES: dict[str, tuple[tuple[int, int, int, int], bool, bool, type[nn.Module], torch.dtype]] = {
    "plain": ((2, 24, 5, 7), False, False, nn.SiLU, torch.float32),
    "many_channels": ((3, 130, 4, 4), False, False, nn.ReLU, torch.float32),
    "many_pixels": ((3, 8, 17, 19), False, False, nn.SiLU, torch.float32),
    "shortcut": ((2, 72, 9, 6), False, True, nn.SiLU, torch.float32),
    "shortcut_relu": ((2, 64, 8, 8), False, True, nn.ReLU, torch.float32),
    "pooled": ((2, 64, 9, 8), True, False, nn.SiLU, torch.float32),
    "pooled_relu": ((2, 16, 8, 7), True, False, nn.ReLU, torch.float32),
    "pooled_row": ((1, 16, 1, 6), True, False, nn.SiLU, torch.float32),
    "pooled_column": ((1, 16, 6, 1), True, False, nn.ReLU, torch.float32),
    "pooled_channel": ((3, 1, 7, 4), True, False, nn.SiLU, torch.float32),
    "channel": ((3, 1, 4, 5), False, True, nn.SiLU, torch.float32),
    "row": ((2, 9, 1, 5), False, False, nn.SiLU, torch.float32),
    "half": ((2, 24, 7, 5), False, True, nn.SiLU, torch.float16),
    "pooled_half": ((2, 24, 7, 5), True, False, nn.SiLU, torch.float16),
}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}  # of the largest entry


def check(name: str, device: str, dtype: torch.dtype | None = None) -> None:
    """Output, gradients and running statistics against float64."""
    (batch, channels, height, width), pooled, joined, activation, usual = CASES[name]
    dtype = dtype or usual
    generator = torch.Generator().manual_seed(0)

    def numbers(*size: int, spread: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(size, generator=generator) * spread + mean

    module = sequence(channels, activation, pooled=pooled).to(device)
    norm = module[0]
    with torch.no_grad():
        norm.weight.copy_(numbers(channels))
        norm.bias.copy_(numbers(channels))
    size = batch, channels, height, width
    pixels = numbers(*size, spread=3.0, mean=5.0).to(device, dtype, memory_format=torch.channels_last)
    leaves = [pixels, norm.weight, norm.bias, *([numbers(*size).to(device, dtype)] if joined else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    output = fused(module.parts(), pixels, leaves[3] if joined else None)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = reference(module.parts(), *exact)
    cotangent = numbers(*output.shape).to(device, dtype)
    found = (output, *torch.autograd.grad(output, leaves, cotangent))
    truth = (wanted, *torch.autograd.grad(wanted, exact, cotangent.double()))
    for one, other in zip(found, truth, strict=True):
        error = (one.double() - other).abs().max() / other.abs().max()
        assert error <= TOLERANCE[dtype], (name, error)
    usual_norm = nn.BatchNorm2d(channels).to(device)
    usual_norm(pixels.detach().float())
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(norm.get_buffer(buffer), usual_norm.get_buffer(buffer), rtol=1e-5, atol=1e-5)


def sequence(channels: int, activation: type[nn.Module], *, pooled: bool = False) -> NormActivation:
    """Normalisation and what follows it."""
    pooling = [nn.MaxPool2d(3, stride=2, padding=1)] if pooled else []
    return NormActivation(nn.BatchNorm2d(channels), activation(inplace=True), *pooling)


def reference(parts: Parts, pixels: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """The same with PyTorch's functions."""
    output = F.batch_norm(pixels, None, None, weight, bias, training=True, eps=parts.norm.eps)
    output = output if shortcut is None else output + shortcut
    output = F.relu(output) if isinstance(parts.activation, nn.ReLU) else F.silu(output)
    return output if parts.pooling is None else parts.pooling(output)


def what_is_no_number_shows(device: str) -> None:
    """A NaN or an infinity of the map is in all of its channel and its variance; one of the shortcut in its pixel."""
    channel = torch.arange(8, device=device) == 3
    for wrong, activation, pooled in product((torch.nan, torch.inf, -torch.inf), (nn.ReLU, nn.SiLU), (False, True)):
        module = sequence(8, activation, pooled=pooled).to(device)
        pixels = torch.randn(2, 8, 5, 4, device=device)
        pixels[1, 3, 2, 2] = wrong
        output = fused(module.parts(), pixels, None)
        assert torch.equal(output.isnan(), channel[:, None, None].expand_as(output)), (wrong, activation, pooled)
        assert torch.equal(module[0].get_buffer("running_var").isnan(), channel)
    shortcut = torch.zeros_like(pixels)
    shortcut[1, 3, 2, 2] = torch.nan
    output = fused(sequence(8, nn.ReLU).to(device).parts(), torch.randn_like(pixels), shortcut)
    assert torch.equal(output.isnan(), shortcut.isnan())


def tensors_have_any_strides(device: str) -> None:
    """The numbers of a weight need not lie side by side, nor do a map's channels."""
    pixels, parameters = torch.randn(2, 6, 5, 4, device=device), torch.randn(6, 2, device=device)
    usual = pixels.contiguous(memory_format=torch.channels_last)
    found = norm_activation(pixels, *parameters.unbind(1), None, 1e-5, True, True)
    wanted = norm_activation(usual, *parameters.T.contiguous(), None, 1e-5, True, True)
    gradient, winners, *statistics = wanted
    given = pixels, *parameters.unbind(1), None, winners.contiguous(), *statistics, 1e-5, True, True
    found += norm_activation_backward(gradient.contiguous(), *given)
    given = usual, *parameters.T.contiguous(), None, winners, *statistics, 1e-5, True, True
    wanted += norm_activation_backward(gradient, *given)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def what_does_not_fit_is_refused(device: str) -> None:
    """The kernels would read beside it."""
    pixels, eight = torch.randn(2, 8, 5, 4, device=device), torch.ones(8, device=device)
    for shortcut, weight, pooled, named in (
        (pixels[:, :, :1, :1], eight, False, "shortcut"),
        (pixels.double(), eight, False, "shortcut"),
        (pixels, eight, True, "shortcut"),
        (None, eight[:7], False, "weight"),
    ):
        try:
            norm_activation(pixels, weight, eight, shortcut, 1e-5, True, pooled)
        except ValueError as error:
            assert named in str(error)  # noqa: PT017 - no test that pytest collects
        else:
            raise AssertionError((named, pooled))


def a_second_derivative_is_refused(device: str) -> None:
    """Rather than wrong."""
    pixels = torch.randn(2, 8, 5, 4, device=device, requires_grad=True)
    output = fused(sequence(8, nn.SiLU).to(device).parts(), pixels, None)
    (first,) = torch.autograd.grad(output.square().sum(), pixels, create_graph=True)
    try:
        first.sum().backward()
    except RuntimeError as error:
        assert "norm_activation_backward" in str(error)  # noqa: PT017
    else:
        raise AssertionError


def running_statistics_are_those_of_pytorch(device: str) -> None:
    """At any momentum, and in half precision."""
    for dtype, momentum in ((torch.float32, 1.0), (torch.float32, 0.01), (torch.float16, 0.1)):
        pixels = (torch.randn(2, 8, 5, 4, device=device) + 2).to(dtype)
        parts = sequence(8, nn.SiLU).to(device, dtype).parts()
        usual = nn.BatchNorm2d(8, momentum=momentum).to(device)
        parts.norm.momentum = momentum
        fused(parts, pixels, None)
        usual(pixels.float())
        for buffer in ("running_mean", "running_var"):
            found = parts.norm.get_buffer(buffer)
            assert found.dtype == dtype
            torch.testing.assert_close(found, usual.get_buffer(buffer).to(dtype))


PROPERTIES: dict[str, Callable[[str], None]] = {
    function.__name__: function
    for function in (
        what_is_no_number_shows,
        tensors_have_any_strides,
        what_does_not_fit_is_refused,
        a_second_derivative_is_refused,
        running_statistics_are_those_of_pytorch,
    )
}

CHECKS: dict[str, Callable[[], None]] = {
    **{name: partial(check, name, "cpu") for name in CASES},
    **{name: partial(holds, "cpu") for name, holds in PROPERTIES.items()},
}

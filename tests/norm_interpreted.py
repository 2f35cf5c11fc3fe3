"""The kernels of ``halobench.models.norm`` in Triton's interpreter, which TRITON_INTERPRET=1 asks for at import.

``python -m tests.norm_interpreted`` prints a line of JSON for each case: its name and what is wrong, or ``null``.
``tests/test_norm.py`` runs it, and on a GPU checks the same cases there. Memory that a kernel does not fill holds NaN.
"""

import json
import traceback

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halobench.models.norm.module import NormActivation

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

    module = NormActivation(channels, activation, pooled=pooled).to(device)
    with torch.no_grad():
        module.weight.copy_(numbers(channels))
        module.bias.copy_(numbers(channels))
    size = batch, channels, height, width
    pixels = numbers(*size, spread=3.0, mean=5.0).to(device, dtype, memory_format=torch.channels_last)
    leaves = [pixels, module.weight, module.bias, *([numbers(*size).to(device, dtype)] if joined else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    output = module.fused(pixels, leaves[3] if joined else None)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = reference(module, *exact)
    cotangent = numbers(*output.shape).to(device, dtype)
    found = (output, *torch.autograd.grad(output, leaves, cotangent))
    truth = (wanted, *torch.autograd.grad(wanted, exact, cotangent.double()))
    for one, other in zip(found, truth, strict=True):
        error = (one.double() - other).abs().max() / other.abs().max()
        assert error <= TOLERANCE[dtype], (name, error)
    usual_norm = nn.BatchNorm2d(channels).to(device)
    usual_norm(pixels.detach().float())
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(module.get_buffer(buffer), usual_norm.get_buffer(buffer), rtol=1e-5, atol=1e-5)


def reference(
    module: NormActivation,
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None = None,
) -> Tensor:
    """The same with PyTorch's functions."""
    output = F.batch_norm(pixels, None, None, weight, bias, training=True, eps=module.eps)
    output = output if shortcut is None else output + shortcut
    output = F.relu(output) if isinstance(module.activation, nn.ReLU) else F.silu(output)
    return F.max_pool2d(output, 3, stride=2, padding=1) if module.pooled else output


def main() -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    for name in CASES:
        fault = None
        try:
            check(name, "cpu")
        except Exception:  # noqa: BLE001 - the test that reads it shows it
            fault = traceback.format_exc()
        print(json.dumps({"name": name, "fault": fault}), flush=True)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main()

"""Batch normalisation, an activation and what else belongs to them, as a module."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from halobench.models.norm.operator import norm_activation
except ModuleNotFoundError:  # PyTorch is there where Triton is not; nothing is compiled for a GPU then
    norm_activation = None

MOMENTUM = 0.1  # of the running statistics, as is PyTorch's default
FUSED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class NormActivation(nn.BatchNorm2d):
    """``activation(batch_norm(pixels) + shortcut)``, pooled where the stem asks for it: (b c H W) -> (b c H' W').

    Parameters and buffers are those of ``nn.BatchNorm2d``; ``pooled`` appends a maximum over 3 x 3 pixels, stride 2.
    In a compiled training step on a GPU all of it is one operator: the compiler alone writes the normalised map in
    float32 before it differentiates the activation, more than twice the traffic. Elsewhere it is PyTorch's functions.
    """

    def __init__(self, channels: int, activation: type[nn.Module], *, pooled: bool = False) -> None:
        super().__init__(channels, momentum=MOMENTUM)
        self.activation = activation(inplace=True)
        self.pooled = pooled

    def forward(self, pixels: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Normalise with the statistics of the batch in training, with the running ones else."""
        if self.training and self.fuses(pixels):
            return self.fused(pixels, shortcut)
        output: Tensor = super().forward(pixels)
        output = self.activation(output if shortcut is None else output + shortcut)
        return F.max_pool2d(output, 3, stride=2, padding=1) if self.pooled else output

    def fused(self, pixels: Tensor, shortcut: Tensor | None) -> Tensor:
        """The same in one operator, whatever the device: Triton must serve it."""
        relu = isinstance(self.activation, nn.ReLU)
        output: Tensor
        output, _, mean, variance = norm_activation(
            pixels, self.weight, self.bias, shortcut, self.eps, relu, self.pooled
        )
        count = pixels.numel() // pixels.shape[1]
        with torch.no_grad():
            self.get_buffer("num_batches_tracked").add_(1)
            self.get_buffer("running_mean").lerp_(mean, MOMENTUM)
            self.get_buffer("running_var").lerp_(variance * (count / (count - 1)), MOMENTUM)
        return output

    def fuses(self, pixels: Tensor) -> bool:
        """Whether the operator serves this call. Uncompiled, launching it would cost what it saves."""
        return (
            torch.compiler.is_compiling()
            and pixels.is_cuda
            and pixels.dtype in FUSED_DTYPES
            and isinstance(self.activation, nn.SiLU | nn.ReLU)
            and pixels.numel() > pixels.shape[1]  # one pixel has no variance: PyTorch says so
        )

"""What a whole network costs, found without computing anything: FLOPs, and what a training step keeps.

Networks are walked on PyTorch's meta device, which knows shapes and no numbers, so that the largest take a second.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from halobench.attention import formula
from halobench.attention.layer import AttentionLayer
from halobench.attention.problem import LayerSpec
from halobench.cases import cost

DTYPE = "bfloat16"


@dataclass(frozen=True)
class Work:
    """FLOPs of the matrix products and convolutions of a forward pass, a multiply-add counted as two.

    ``executed_flops`` are those of the readable formula: full windows, padding included. ``useful_flops`` count
    visible pairs only (``halobench.cases.cost``); outside the attention both are the same.
    """

    useful_flops: int
    executed_flops: int


def count(network: nn.Module, height: int, width: int | None = None) -> Work:
    """The work of a forward pass on one image of ``height`` x ``width`` pixels (a square one without ``width``).

    The network's attention must run on the meta device, as that of backend ``strided_gather`` does.
    """
    shapes = on_meta(network).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes(image(height, width or height))
    total = int(counter.get_total_flops())
    layers = attention_layers(network, height, width or height)
    problems = [spec.problem(1, rows, columns, DTYPE) for spec, rows, columns in layers]
    attention = sum(formula.execution(problem).forward_flops for problem in problems)
    useful = sum(cost.forward(problem).flops for problem in problems)
    return Work(total - attention + useful, total)


def attention_layers(network: nn.Module, height: int, width: int) -> list[tuple[LayerSpec, int, int]]:
    """The attention layers that an image of this size meets, in their order, with height and width of their maps."""
    shapes = on_meta(network).eval()
    found: list[tuple[LayerSpec, int, int]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(layer, AttentionLayer)
        found.append((layer.spec, inputs[0].shape[2], inputs[0].shape[3]))

    for module in shapes.modules():
        if isinstance(module, AttentionLayer):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        shapes(image(height, width))
    return found


def activation_bytes(network: nn.Module, side: int) -> int:
    """Bytes that a forward pass in training keeps for the backward pass, for one image of ``side`` x ``side`` pixels.

    Tensors that PyTorch saves for its backward formulas in eager mode, each memory counted once, parameters not,
    with everything in bfloat16. Temporary tensors come on top in a real step, and the gradients of the parameters.
    """
    shapes = on_meta(network).train()
    parameters = {parameter.untyped_storage()._cdata for parameter in shapes.parameters()}  # noqa: SLF001 - their identity
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # noqa: SLF001 - holding the storage keeps its identity from being reused
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        shapes(image(side, side))
    return sum(storage.nbytes() for identity, storage in kept.items() if identity not in parameters)


def on_meta(network: nn.Module) -> nn.Module:
    """A copy of the network with shapes and no numbers."""
    return copy.deepcopy(network).to("meta", getattr(torch, DTYPE))


def image(height: int, width: int) -> Tensor:
    """The shape of one image."""
    return torch.empty(1, 3, height, width, dtype=getattr(torch, DTYPE), device="meta")

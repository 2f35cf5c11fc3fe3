"""The cost table of every model, as Markdown: parameters, FLOPs by three counts, and what a training step keeps."""

from collections.abc import Iterator, Sequence

import torch
from timm.layers.halo_attn import HaloAttn
from torch import nn

from halobench.attention.layer import AttentionLayer
from halobench.cases.counters import quiet
from halobench.models import work
from halobench.models.catalogue import Entry, entry
from halobench.models.factory import DEFAULT_BACKEND, create

HEADER = f"""\
# What the models cost

Made by `python -m halobench.models > docs/costs.md`; do not edit.

- **Parameters** are counted on the model that `models.create` builds; the published column is the paper's, in millions.
- **GFLOPs** are those of the matrix products and convolutions of one forward pass on one image of the given side, a
  multiply-add counted as two. *Executed*: by the readable formula (backend `{DEFAULT_BACKEND}`), with full windows,
  padded keys at the border and partial blocks included. *Useful*: real keys only, where attention is ours. A training
  step takes about three times as many.
- **fvcore** counts multiply-adds once, of the same pass: about half the executed GFLOPs. It adds normalisations, and
  does not see the attention of ViT.
- **Kept** is the memory of a training step that grows with the batch: what PyTorch keeps for the backward pass of one
  image, in eager mode and bfloat16, with the same backend. Fused attention keeps no scores and no windows.
"""
HEAD = (
    "model",
    "image side",
    "parameters (M)",
    "published (M)",
    "difference",
    "useful GFLOPs",
    "executed GFLOPs",
    "fvcore GMACs",
    "kept (MiB)",
)


def table(chosen: Sequence[str]) -> Iterator[str]:
    """The lines of the table for the models of these names, each as soon as it is known."""
    yield HEADER
    yield f"| {' | '.join(HEAD)} |"
    yield f"|---|{'--:|' * (len(HEAD) - 1)}"
    for name in chosen:
        yield row(entry(name))


def row(model: Entry) -> str:
    """The line of one model."""
    network = create(model.name).eval()
    multiply_adds = count_multiply_adds(network, model.image_size)
    millions = parameters(network) / 1e6
    published = difference = "-"
    if model.published_millions is not None:
        published = f"{model.published_millions:g}"
        difference = f"{100 * (millions / model.published_millions - 1):+.1f} %"
    counted = work.count(network, model.image_size)
    cells = [
        model.name,
        str(model.image_size),
        f"{millions:.2f}",
        published,
        difference,
        "-" if has_foreign_attention(network) else f"{counted.useful_flops / 1e9:.2f}",
        f"{counted.executed_flops / 1e9:.2f}",
        f"{multiply_adds / 1e9:.2f}",
        f"{work.activation_bytes(network, model.image_size) / 2**20:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def has_foreign_attention(network: nn.Module) -> bool:
    """Whether a layer's attention is timm's own code, of which the useful part is not known."""
    return any(isinstance(one, HaloAttn) and not isinstance(one, AttentionLayer) for one in network.modules())


def parameters(network: nn.Module) -> int:
    """The number of parameters; buffers such as running means do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(network: nn.Module, side: int) -> int:
    """The count of fvcore for one forward pass on an image of ``side`` x ``side`` pixels."""
    with quiet(), torch.no_grad():  # fvcore warns when imported, and lists each operator that it counts as zero
        from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415 - only those who count should import it

        return int(FlopCountAnalysis(network, torch.zeros(1, 3, side, side)).total())

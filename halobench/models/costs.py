"""Parameters and fvcore's multiply-adds of every model, as a Markdown table."""

import logging
from collections.abc import Iterator

import torch
from torch import nn

from halobench.models.catalogue import Entry, entry, names
from halobench.models.factory import DEFAULT_BACKEND, create

HEADER = f"""\
# Parameters and multiply-adds

Made by `python -m halobench.models > docs/costs.md`; do not edit.

- Parameters are counted on the model that `models.create` builds; the published column is the paper's, in millions.
- GMACs are fvcore's count of one forward pass on one image of the given side, with backend `{DEFAULT_BACKEND}`. fvcore
  counts a multiply-add once (other tools count two) and no softmax. It counts what is executed: full windows,
  padded keys at the border and partial blocks included.

| model | image side | parameters (M) | published (M) | difference | GMACs |
|---|--:|--:|--:|--:|--:|"""


def table(chosen: list[str] | None = None) -> Iterator[str]:
    """The lines of the table for the models of these names (all, where none are given), each as soon as it is known."""
    yield HEADER
    for name in names() if chosen is None else chosen:
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
    cells = [model.name, str(model.image_size), f"{millions:.2f}", published, difference, f"{multiply_adds / 1e9:.2f}"]
    return f"| {' | '.join(cells)} |"


def parameters(network: nn.Module) -> int:
    """The number of parameters; buffers such as running means do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(network: nn.Module, side: int) -> int:
    """The count of fvcore for one forward pass on an image of ``side`` x ``side`` pixels."""
    from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415 - importing it warns: only those who count should see it

    for noisy in ("fvcore", "fvcore.nn.jit_analysis"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # it lists each operator that it counts as zero
    with torch.no_grad():
        return int(FlopCountAnalysis(network, torch.zeros(1, 3, side, side)).total())

"""What a compiled training step keeps for its backward pass, by the compiler's own partition, without a GPU.

    .venv/bin/python -m tests.kept_tensors halonet_h0 --backend fused_cuda

The compiler traces the step with tensors that have no numbers, and is ended once it has cut the graph in two. A CPU
counts as a GPU, so that the operator of normalisation is at work; on a GPU the stem's images are folded before they are
kept, in about as many bytes.
"""

import argparse
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import triton
from torch._inductor import compile_fx
from triton.backends.compiler import GPUTarget

from halobench import models
from halobench.figures.summary import markdown
from halobench.models.norm import module as norm_module

MIB = 2**20


class Cut(Exception):
    """The graph is cut: what would be compiled now is the forward half."""


def forward_half(model, images):
    """The forward half of a step in bfloat16; its outputs are what the backward half takes."""
    found = []

    def cut(graph, *_, **__):
        found.append(graph)
        raise Cut

    driver = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norm_module, "FUSED_DEVICE", "cpu")
        patch.setattr(triton.runtime.driver, "_active", driver)  # kernels are parsed for what they write
        compiled = torch.compile(
            model, backend=lambda graph, inputs: compile_fx.compile_fx(graph, inputs, inner_compile=cut), dynamic=False
        )
        torch._dynamo.reset()
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="Cut"):
            compiled(images)
    return found[0]


def kept(model, images):
    """MiB an image that a step keeps, by what is kept: maps alone, whose number the batch decides."""
    batch = len(images)
    *_, output = forward_half(model, images).graph.nodes
    found = Counter()
    for node in output.args[0]:
        value = node.meta.get("val") if isinstance(node, torch.fx.Node) and node.op != "placeholder" else None
        if isinstance(value, torch.Tensor) and (value.shape[:1] == (batch,) or kind(node) == "log-sum-exps"):
            found[kind(node)] += value.numel() * value.element_size() / batch / MIB
    return found


def kind(node):
    """What a kept tensor is, by what computed it and where."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {"": ("", None)}).values()]
    inside, target = stack[-1].rpartition("'self'].")[2].split("."), str(node.target)
    if "layer" in inside:
        if "getitem" not in target:
            return "queries, keys and values"
        return "log-sum-exps" if node.meta["val"].dim() == 1 else "outputs of attention"
    if "convolution" in target:
        return "maps to be normalised"
    if "getitem" in target and node.meta["val"].dtype != torch.uint8:
        return "normalised and activated maps"
    return "others"


def main(words=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--backend")
    parser.add_argument("--recompute", action="store_true", help="queries, keys and values are not to be kept")
    options = parser.parse_args(words)
    arguments = {"backend": options.backend} | ({"recompute_projections": True} if options.recompute else {})
    model = models.create(options.model, **arguments).to(memory_format=torch.channels_last).train()
    side = models.entry(options.model).image_size
    found = kept(model, torch.randn(8, side, side, 3).permute(0, 3, 1, 2))
    lines = [[name, f"{value:.2f}"] for name, value in [*found.most_common(), ("all", found.total())]]
    sys.stdout.write(markdown([options.model, "MiB an image"], lines) + "\n")


if __name__ == "__main__":
    main()

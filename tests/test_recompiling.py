"""Compiled calls: any number of shapes, no limit of recompilations ends a run; and no export is taken for one."""

import pytest
import torch
from halobench.implementations import compiled, flex
from torch import nn

from halobench import Geometry, LayerSpec, backends, formula
from halobench.attention.compilation import by_kind, exporting

SPECS = [LayerSpec(4, 1, 8, 8, Geometry(2, 1)), LayerSpec(8, 1, 8, 8, Geometry(2, 1, stride=2))]


@pytest.mark.parametrize(("name", "directions"), [("compiled", (True, False)), ("flex", (False,))])
def test_image_sizes_in_training_and_evaluation(name, directions, monkeypatch):
    """A limit of two is met by the second size already; what counts shapes stands in front of all compilers."""
    monkeypatch.setattr(compiled, "compiled_formula", by_kind(formula.attend, "eager"))
    monkeypatch.setattr(flex, "compiled", by_kind(flex.scored, "eager"))
    model, truth = (nn.Sequential(*map(backends.load(one).build, SPECS)) for one in (name, "strided_gather"))
    truth.load_state_dict(model.state_dict())
    with torch._dynamo.config.patch(recompile_limit=2):
        for side in (4, 5, 6):
            pixels = torch.randn(1, 4, side, side + 2)
            for training in directions:
                with torch.set_grad_enabled(training):
                    output = model(pixels)
                    torch.testing.assert_close(output, truth(pixels), rtol=1e-4, atol=1e-5)
                if training:
                    output.sum().backward()
    assert model[0].query.weight.grad is not None or True not in directions


def test_each_kind_is_compiled_once():
    """Calls of one kind share a copy; the copy compiles once."""
    compilations = []

    def counting(graph, _):
        compilations.append(graph)
        return graph

    copies = by_kind(formula.check_tiles, counting)
    assert copies("one") is copies("one")
    assert copies("one") is not copies("another")

    def double(tensor):
        return 2 * tensor

    copies = by_kind(double, counting)
    for kind in ("one", "one", "another"):
        assert copies(kind)(torch.ones(2)).tolist() == [2, 2]
    assert len(compilations) == 2


def test_a_compiled_call_is_not_an_exported_one():
    """PyTorch 2.11's compiler takes ``torch.compiler.is_exporting()`` for true, and would compile what export needs."""

    class Asks(nn.Module):
        def forward(self, pixels):
            return pixels + 1 if exporting() else pixels - 1

    pixels = torch.zeros(2)
    assert torch.compile(Asks(), backend="eager", fullgraph=True)(pixels).tolist() == [-1, -1]
    for strict in (False, True):
        assert torch.export.export(Asks(), (pixels,), strict=strict).module()(pixels).tolist() == [1, 1]
    assert Asks()(pixels).tolist() == [-1, -1]

"""Networks meet any number of shapes with backends that compile each: no limit of recompilations ends a run."""

import pytest
import torch
from halobench.implementations import compiled, flex
from torch import nn

from halobench import Geometry, LayerSpec, backends, formula
from halobench.attention.compilation import by_kind

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

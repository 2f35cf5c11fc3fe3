"""Models are copied, saved and sent to other processes, whichever backend computes them."""

import copy
import io
import pickle

import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from torch import nn

from halobench import Geometry, LayerSpec, backends, models
from halobench.attention.backends import Operator, operator
from halobench.models import accelerate

PIXELS = (1, 8, 8, 4)


def layer(name):
    """A layer of the backend."""
    backend = backends.load(name)
    return backend.build(LayerSpec(8, 2, 16, 16, Geometry(4, 1, border=backend.borders[0]), positions="sum"))


def sent(model, path, queue):
    """In another process: the outputs of a model that was sent, and of one that was saved."""
    pixels = torch.load(path.with_suffix(".pixels"))
    saved = torch.load(path, weights_only=False)
    with torch.no_grad():
        queue.put([one(pixels).tolist() for one in (model, saved)])


@pytest.mark.parametrize("name", backends.names())
@pytest.mark.parametrize("way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_layers_of_every_backend(name, way):
    """The copy has the same weights, and calls the same backend."""
    one = layer(name)
    other = way(one)
    assert other.state_dict().keys() == one.state_dict().keys()
    assert all(map(torch.equal, other.state_dict().values(), one.state_dict().values()))
    if isinstance(getattr(one, "attend", None), Operator):
        assert other.attend == one.attend
        assert other.attend is not one.attend.attend


def test_models_reach_another_process(tmp_path):
    """A model of ours and an accelerated one, sent to a spawned process and loaded there from a file."""
    torch.manual_seed(0)
    theirs = HaloAttn(8, num_heads=2, block_size=4, halo_size=1)
    accelerate(theirs, "sdpa")
    model, pixels = nn.Sequential(theirs, layer("strided_gather"), nn.Flatten()).eval(), torch.randn(PIXELS)
    path = tmp_path / "model.pt"
    torch.save(model, path)
    torch.save(pixels, path.with_suffix(".pixels"))
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=sent, args=(model, path, queue))
    process.start()
    outputs = queue.get(timeout=120)
    process.join()
    for output in outputs:
        torch.testing.assert_close(torch.tensor(output), model(pixels))


@pytest.mark.parametrize("name", ["halonet_mini", "seresnet50_halo_b8"])
def test_whole_networks_are_pickled(name):
    with torch.device("meta"):
        model = models.create(name, "sdpa")
    other = pickle.loads(pickle.dumps(model))
    assert str(other) == str(model)


def test_a_backend_that_is_missing_where_a_model_is_loaded(monkeypatch):
    """The error names the backend, and those there are; or the package that the backend lacks."""
    file = io.BytesIO()
    torch.save(layer("lucidrains"), file)
    operator.cache_clear()
    file.seek(0)
    monkeypatch.setattr(backends, "names", lambda: ["sdpa", "strided_gather"])
    with pytest.raises(ValueError, match="no backend is called 'lucidrains'; there are sdpa, strided_gather"):
        torch.load(file, weights_only=False)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="'conv' is no attention"):
        operator("conv")

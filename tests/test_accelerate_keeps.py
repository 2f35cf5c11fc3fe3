"""What was there before ``models.accelerate`` is there after it: parameters, training, hooks, ties; and ``restore``."""

import copy
import functools
from dataclasses import replace

import pytest
import timm
import torch
from timm.layers.halo_attn import HaloAttn
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm

from halobench import backends, formula
from halobench.models import accelerate, restore
from halobench.models.accelerate import AcceleratedHaloAttn
from tests.small_timm import network

HALO_MODELS = sorted(timm.list_models("*halo*", module="byoanet"))


def layer(**arguments):
    """A HaloAttn layer of two heads."""
    torch.manual_seed(0)
    return HaloAttn(**{"dim": 16, "num_heads": 2, "block_size": 4, "halo_size": 1, **arguments}).double()


def packing(monkeypatch):
    """Let ``strided_gather`` take queries, keys and values in one map, as a backend with ``attend_packed`` does."""

    def attend_packed(packed, relative, heads, key_dim, geometry):
        parts = packed.split([heads * key_dim, heads * key_dim, packed.shape[1] - 2 * heads * key_dim], 1)
        query, key, value = (part.unflatten(1, (heads, -1)).movedim(2, -1) for part in parts)
        calls.append(packed.shape)
        return formula.attend(query, key, value, relative, geometry)

    calls = []
    plain = backends.load("strided_gather")
    packed = replace(plain, attend=replace(plain.attend, packed=attend_packed))
    monkeypatch.setattr(backends, "load", lambda name: packed if name == "strided_gather" else plain)
    return calls


@pytest.mark.parametrize("name", HALO_MODELS)
def test_restore_gives_back_what_timm_made(name):
    """For every halo model of timm: the same objects under the same names, of the same classes, in the same state."""
    with torch.device("meta"):
        model = timm.create_model(name).bfloat16()
    model.eval().requires_grad_(False)
    model.head.requires_grad_(True).train()
    ran = next(module for module in model.modules() if isinstance(module, HaloAttn)).register_forward_hook(print)

    def state():
        return [
            (path, type(module), module, set(vars(module)), module.training, str(module), list(module._forward_hooks))
            for path, module in model.named_modules()
        ]

    before, tensors = state(), dict(model.state_dict(keep_vars=True))
    replaced = accelerate(model, "sdpa").replaced
    assert replaced
    between = dict(model.state_dict(keep_vars=True))
    assert list(between) == list(tensors)
    assert all(between[key] is tensors[key] for key in tensors)
    assert restore(model) == replaced
    assert state() == before
    assert ran.id in next(module for module in model.modules() if isinstance(module, HaloAttn))._forward_hooks


def test_a_lone_layer_and_a_second_call():
    """A layer by itself; another backend on the second call; timm's code after ``restore``."""
    attention, pixels = layer(), torch.randn(2, 16, 8, 12, dtype=torch.float64)
    wanted = attention(pixels)
    for backend in ("sdpa", "naive_unfold"):
        assert accelerate(attention, backend).replaced == [""]
        assert attention.attend.backend == backend
        assert f"backend='{backend}'" in str(attention)
        torch.testing.assert_close(attention(pixels), wanted)
    assert restore(attention) == [""]
    assert type(attention) is HaloAttn
    assert torch.equal(attention(pixels), wanted)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "optimiser",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.05),
        lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.05),
    ],
    ids=["SGD", "AdamW"],
)
@pytest.mark.parametrize(
    "make", [lambda: network().double(), lambda: nn.Sequential(nn.Conv2d(3, 16, 3), layer(qkv_bias=True)).double()]
)
def test_ten_steps_are_those_of_timm(make, optimiser, packed, monkeypatch):
    """The optimiser was made before, and trains timm's model in the same steps."""
    theirs = make()
    ours = copy.deepcopy(theirs)
    optimisers = [optimiser(model.parameters()) for model in (theirs, ours)]
    calls = packing(monkeypatch) if packed else []
    assert not accelerate(ours, "strided_gather").kept
    side = 18 if isinstance(ours, nn.Sequential) else 16  # a convolution without padding leaves 16
    for step in range(10):
        pixels = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        for model, one in zip((theirs, ours), optimisers, strict=True):
            one.zero_grad()
            model(pixels).square().mean().backward()
            one.step()
    assert bool(calls) == packed
    before = make().state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-9, atol=1e-11)
        assert not torch.equal(tensor, before[name])


def test_a_layer_in_two_places_stays_one():
    attention = layer()
    model, pixels = nn.Sequential(attention, nn.ReLU(), attention), torch.randn(1, 16, 8, 8, dtype=torch.float64)
    wanted = model(pixels)
    assert accelerate(model, "sdpa").replaced == ["0", "2"]
    assert model[0] is model[2] is attention
    torch.testing.assert_close(model(pixels), wanted)
    assert restore(model) == ["0", "2"]


def test_chance_is_left_as_it_was():
    model = nn.Sequential(layer(), layer(qkv_bias=True))
    before = torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())
    accelerate(model)
    restore(model)
    after = torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())
    assert all(map(torch.equal, before, after))


class Doubled(HaloAttn):
    """A layer of somebody else's."""

    def forward(self, x):
        """Twice timm's."""
        return 2 * super().forward(x)


def derived(attention):
    attention.__class__ = Doubled


def replaced_forward(attention):
    attention.forward = lambda pixels: 3 * HaloAttn.forward(attention, pixels)


def parametrized_itself(attention):
    attention.gain = nn.Parameter(torch.ones(1))
    parametrize.register_parametrization(attention, "gain", nn.Identity())


def other_projection(attention):
    attention.kv = nn.Sequential(attention.kv, nn.Tanh())


def sharpened(attention):
    attention.scale *= 2


class NoPositions(nn.Module):
    """In place of timm's relative positions: none."""

    def forward(self, q):
        """A logit of zero for each pair."""
        return q.new_zeros(*q.shape[:3], 36)


def other_positions(attention):
    attention.pos_embed = NoPositions()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (derived, "Doubled"),
        (replaced_forward, "forward"),
        (parametrized_itself, "ParametrizedHaloAttn"),
        (other_projection, "Sequential"),
        (other_positions, "NoPositions"),
        (sharpened, "its scale is 0.707107"),
        (lambda attention: parametrizations.orthogonal(attention.pos_embed, "width_rel"), "ParametrizedPosEmbedRel"),
        (lambda attention: prune.random_unstructured(attention.pos_embed, "height_rel", 0.5), "pruning"),
        (lambda attention: attention.pos_embed.register_forward_hook(lambda *_: None), "hooks"),
        (lambda attention: attention.pos_embed.register_full_backward_hook(lambda *_: None), "hooks"),
    ],
    ids=[
        "derived class",
        "other forward",
        "parametrized layer",
        "other projection",
        "other positions",
        "other scale",
        "parametrized positions",
        "pruned",
        "hook",
        "backward hook",
    ],
)
def test_what_would_be_lost_is_kept_and_named(change, reason):
    attention, pixels = layer(), torch.randn(1, 16, 8, 8, dtype=torch.float64)
    change(attention)
    kind, wanted = type(attention), attention(pixels)
    found = accelerate(nn.Sequential(attention))
    assert found.replaced == []
    assert reason in found.kept["0"]
    assert type(attention) is kind
    assert torch.equal(attention(pixels), wanted)


def projected_by_neighbourhoods(attention):
    """Both projections see 3 x 3 pixels."""
    for name in ("q", "kv"):
        channels = getattr(attention, name).out_channels
        setattr(attention, name, nn.Conv2d(16, channels, 3, padding=1, bias=False, dtype=torch.float64))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        projected_by_neighbourhoods,
        lambda attention: prune.l1_unstructured(attention.kv, "weight", 0.4),
        lambda attention: parametrizations.weight_norm(attention.q),
        lambda attention: spectral_norm(attention.q),
        lambda attention: attention.kv.register_forward_hook(lambda *call: call[-1].tanh()),
        lambda attention: attention.q.register_forward_pre_hook(lambda _, inputs: (inputs[0] - 1,)),
        lambda attention: attention.register_forward_hook(lambda *call: -call[-1]),
    ],
    ids=["3x3", "pruned", "weight norm", "spectral norm", "hook", "pre-hook", "layer's hook"],
)
def test_what_can_be_carried_over_is(change, packed, monkeypatch):
    """Before or after acceleration, by one projection or by two: outputs and gradients are those of timm's layer."""
    pixels = torch.randn(1, 16, 8, 8, dtype=torch.float64)
    if packed:
        packing(monkeypatch)

    def results(*steps):
        attention = layer()
        for step in steps:
            torch.manual_seed(1)
            step(attention)
        outputs = []
        for _ in range(2):  # the second pass shows what the first one left
            outputs.append(attention(pixels))
            outputs[-1].square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in attention.named_parameters()}
        return isinstance(attention, AcceleratedHaloAttn), outputs, gradients

    _, *wanted = results(change)
    for steps in ((change, accelerate), (accelerate, change)):
        ours, *found = results(*steps)
        assert ours
        torch.testing.assert_close(found, wanted)


def test_tables_are_pruned_and_parametrised_after():
    """What comes onto ``pos_embed`` of an accelerated layer acts as on timm's; ``restore`` says what is in its way."""
    theirs, ours, pixels = layer(), layer(), torch.randn(1, 16, 8, 8, dtype=torch.float64)
    accelerate(ours)
    for attention in (theirs, ours):
        torch.manual_seed(1)
        prune.l1_unstructured(attention.pos_embed, "height_rel", 0.5)
        parametrizations.orthogonal(attention.pos_embed, "width_rel")
        for _ in range(2):
            attention(pixels).square().sum().backward()
    torch.testing.assert_close(ours(pixels), theirs(pixels))
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad)
    assert accelerate(ours, "sdpa").replaced == [""]
    with pytest.raises(TypeError, match="ParametrizedAcceleratedPosEmbedRel is a plain AcceleratedPosEmbedRel"):
        restore(ours)


def test_restore_names_what_others_changed():
    model = nn.Sequential(layer())
    accelerate(model)
    model[0].__class__ = type("Sharded", (AcceleratedHaloAttn,), {})
    assert accelerate(model, "sdpa").replaced == ["0"]
    with pytest.raises(TypeError, match="0 can be restored once its Sharded"):
        restore(model)


def test_tables_shared_with_a_layer_that_is_kept():
    """timm's layer goes on to get logits from the module that an accelerated one asks for tables."""
    model = nn.Sequential(layer(), Doubled(dim=16, num_heads=2, block_size=4, halo_size=1).double())
    model[1].pos_embed = model[0].pos_embed
    pixels = torch.randn(1, 16, 8, 8, dtype=torch.float64)
    wanted = model(pixels)
    assert list(accelerate(model).kept) == ["1"]
    torch.testing.assert_close(model(pixels), wanted)


def test_a_forward_that_others_wrapped_is_theirs_to_unwrap():
    """As Hugging Face's accelerate wraps it: the backend changes below, and restore says what is in the way."""
    attention, pixels = layer(), torch.randn(1, 16, 8, 8, dtype=torch.float64)
    wanted = attention(pixels)
    accelerate(attention)
    attention.forward = functools.partial(lambda forward, x: 2 * forward(x), attention.forward)
    assert accelerate(attention, "sdpa").replaced == [""]
    torch.testing.assert_close(attention(pixels), 2 * wanted)
    with pytest.raises(TypeError, match="with no forward put"):
        restore(attention)
    del attention.forward
    restore(attention)
    torch.testing.assert_close(attention(pixels), wanted)


def test_a_model_that_was_compiled_before():
    """torch.compile notices the exchange, both ways."""
    model, pixels = nn.Sequential(layer()), torch.randn(1, 16, 8, 12, dtype=torch.float64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    wanted = compiled(pixels)
    assert accelerate(compiled).replaced == ["_orig_mod.0"]
    torch.testing.assert_close(compiled(pixels), wanted)
    assert compiled(pixels[..., :7]).shape == (1, 16, 8, 7)  # which timm refuses
    restore(compiled)
    torch.testing.assert_close(compiled(pixels), wanted)

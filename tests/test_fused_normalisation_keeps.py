"""What a block was before ``models.fuse_normalisation`` it is after it: what would be lost is kept and named.

And what others change afterwards acts as ever.
"""

import types

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.utils import parametrizations, prune

from halobench.models import fuse_normalisation, restore
from halobench.models.norm import module as norm_module
from tests.served_normalisation import alike, compare, images, prepared, state, step


class Residual(nn.Module):
    """A block whose normalisation has a shortcut, or none, and what comes behind it."""

    def __init__(self, behind=None, activation=None, *, joined=True):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.behind, self.activation = behind or nn.Identity(), activation or nn.ReLU(inplace=True)
        self.branch = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)) if joined else None

    def forward(self, pixels):
        """A map of as many pixels."""
        output = self.behind(self.norm(self.convolution(pixels)))
        if self.branch is not None:
            output += self.branch(pixels)
        return self.activation(output)


def test_a_block_with_and_without_a_shortcut(served):
    for joined in (False, True):
        for activation in (nn.ReLU(), nn.SiLU()):
            block = prepared(Residual(activation=activation, joined=joined))
            assert fuse_normalisation(block).replaced == ["norm"]
            assert compare(block, served) == 1
            assert served == [joined]


class Derived(nn.BatchNorm2d):
    """A normalisation of somebody else's."""


class ShiftedReLU(nn.ReLU):
    """An activation of somebody else's."""

    def forward(self, pixels):
        """ReLU, plus one."""
        return super().forward(pixels) + 1


class Functional(Residual):
    """Without a module for its activation."""

    def forward(self, pixels):
        """A map of as many pixels."""
        return torch.relu(self.norm(self.convolution(pixels)))


class Twice(Residual):
    """A normalisation that is called twice."""

    def forward(self, pixels):
        """A map of as many pixels."""
        return self.activation(self.norm(super().forward(pixels)))


class Watched(Residual):
    """Whose normalised map, or the map before, is returned, too."""

    def forward(self, pixels):
        """A map of as many pixels."""
        before = self.convolution(pixels)
        after = self.norm(before)
        return self.activation(after) + (before if self.branch is None else after)


class Changed(Residual):
    """Which changes the shortcut after it was added."""

    def forward(self, pixels):
        """A map of as many pixels."""
        shortcut = self.branch(pixels)
        output = self.norm(self.convolution(pixels)) + shortcut
        shortcut.zero_()
        return self.activation(output)


class Blurred(Residual):
    """With something of a block that has no name of its own in between."""

    def forward(self, pixels):
        """A map of as many pixels."""
        return self.activation(self.norm(self.convolution(pixels)) * 2 + self.branch(pixels))


def hooked(path):
    def change(block):
        block.get_submodule(path).register_forward_hook(lambda _module, _inputs, output: output * 2)
        return block

    return change


def forwarded(path):
    def change(block):
        module = block.get_submodule(path)
        module.forward = types.MethodType(lambda self, pixels: 3 * type(self).forward(self, pixels), module)
        return block

    return change


def with_norm(norm, **arguments):
    block = Residual(**arguments)
    block.norm = norm
    return block


KEPT = {
    "dropped": (lambda: Residual(behind=nn.Dropout2d(0.5)), "a Dropout2d reads"),
    "hook": (lambda: hooked("norm")(Residual()), "it has hooks"),
    "hook behind": (lambda: hooked("behind")(Residual()), "Identity behind it has hooks"),
    "hook on the activation": (lambda: hooked("activation")(Residual(joined=False)), "ReLU behind it has hooks"),
    "forward": (lambda: forwarded("norm")(Residual()), "forward of its own"),
    "forward of the activation": (
        lambda: forwarded("activation")(Residual()),
        "ReLU behind it has hooks, or a forward",
    ),
    "derived": (lambda: with_norm(Derived(8)), "Derived"),
    "derived activation": (lambda: Residual(activation=ShiftedReLU()), "a ShiftedReLU reads"),
    "another activation": (lambda: Residual(activation=nn.GELU()), "a GELU reads"),
    "parametrised": (lambda: with_norm(parametrizations.weight_norm(nn.BatchNorm2d(8))), "ParametrizedBatchNorm2d"),
    "pruned": (lambda: with_norm(prune.l1_unstructured(nn.BatchNorm2d(8), "weight", 0.5)), "it has hooks"),
    "no parameters": (lambda: with_norm(nn.BatchNorm2d(8, affine=False)), "no weight"),
    "no statistics": (lambda: with_norm(nn.BatchNorm2d(8, track_running_stats=False)), "running statistics"),
    "cumulative": (lambda: with_norm(nn.BatchNorm2d(8, momentum=None)), "momentum"),
    "function": (Functional, "no module of an activation"),
    "called twice": (lambda: Twice(joined=False), "several places"),
    "map read": (lambda: Watched(joined=False), "read by others"),
    "output read": (Watched, "no activation alone"),
    "shortcut changed": (Changed, "something else happens"),
    "calculation": (Blurred, "no module of an activation"),
    "own activation": (lambda: with_norm(BatchNormAct2d(8, act_layer=nn.GELU), joined=False), "its GELU"),
    "own drop": (
        lambda: with_norm(
            BatchNormAct2d(8, act_layer=nn.SiLU, drop_layer=nn.Dropout2d), joined=False, activation=nn.Tanh()
        ),
        "its Dropout2d",
    ),
    "hook inside": (lambda: hooked("norm.act")(with_norm(BatchNormAct2d(8))), "its ReLU has hooks"),
}


@pytest.mark.parametrize("change", KEPT)
def test_what_would_be_lost_is_kept_and_named(change, served):
    make, reason = KEPT[change]
    torch.manual_seed(0)
    theirs = prepared(make())
    torch.manual_seed(0)
    block = prepared(make())
    before = state(block)
    found = fuse_normalisation(block)
    assert "norm" not in found.replaced
    assert reason in found.kept["norm"]
    assert state(block) == before
    outcomes = []
    for one in (block, theirs):
        torch.manual_seed(1)
        outcomes.append(step(one, images(8)))
    alike(*outcomes)
    assert not served


class Both(nn.Module):
    """Which reads a map twice."""

    def forward(self, pixels):
        """A map of as many pixels."""
        return torch.tanh(pixels) + torch.sigmoid(pixels)


LATER = {
    "hook": hooked("norm"),
    "hook behind": hooked("behind"),
    "hook on the activation": hooked("activation"),
    "forward of the activation": forwarded("activation"),
    "frozen": lambda block: block.norm.eval(),
    "cumulative": lambda block: setattr(block.norm, "momentum", None),
    "untracked": lambda block: setattr(block.norm, "track_running_stats", False),
    "another activation": lambda block: setattr(block, "activation", nn.GELU()),
    "something between": lambda block: setattr(block, "behind", Both()),
    "another layout": lambda block: block.to(memory_format=torch.contiguous_format),
    "another dtype": lambda block: block.register_buffer("unused", None),
}


@pytest.mark.parametrize("change", LATER)
def test_what_others_change_afterwards_acts_as_ever(change, served, monkeypatch):
    """A module, a hook, a setting: the operator is asked no more, and nothing is lost."""
    torch.manual_seed(0)
    block = prepared(Residual())
    fuse_normalisation(block)
    assert compare(block, served) == 1
    pixels = images(8)
    if change == "another layout":
        pixels = pixels.contiguous()
    if change == "another dtype":
        monkeypatch.setattr(norm_module, "FUSED_DTYPES", (torch.float32,))
    LATER[change](block)
    if change == "forward of the activation":  # whoever put it there has to take it back first
        with pytest.raises(TypeError, match="activation can be restored once"):
            restore(block)
        calls = len(served)
        block(pixels)
        assert len(served) == calls
    else:
        assert compare(block, served, pixels) == 0


class Remembering(Residual):
    """Which keeps its last map, and has a constant."""

    last = None

    def forward(self, pixels):
        """A map of as many pixels."""
        self.last = super().forward(pixels) + torch.ones(8, 1, 1, dtype=pixels.dtype)
        return self.last


def test_looking_at_the_code_leaves_nothing_behind(served):
    block = prepared(Remembering())
    before = set(vars(block))
    assert fuse_normalisation(block).replaced == ["norm"]
    assert set(vars(block)) == before
    assert compare(block, served) == 1
    assert isinstance(block.last, torch.Tensor)


INSIDE = {
    "hook": hooked("norm.act"),
    "forward": forwarded("norm.act"),
    "another activation": lambda block: setattr(block.norm, "act", ShiftedReLU()),
    "drop": lambda block: setattr(block.norm, "drop", nn.Dropout2d(0.5)),
    "hook on the drop": hooked("norm.drop"),
}


@pytest.mark.parametrize("change", INSIDE)
def test_what_others_change_inside_of_timms_acts_as_ever(change, served):
    torch.manual_seed(0)
    block = prepared(with_norm(BatchNormAct2d(8, inplace=False), activation=nn.Tanh(), joined=False))
    assert fuse_normalisation(block).replaced == ["norm"]
    assert compare(block, served) == 1
    INSIDE[change](block)
    assert compare(block, served) == 0


def test_shortcuts_that_pytorch_broadcasts_or_converts(served):
    class Scaled(Residual):
        def forward(self, pixels):
            return self.activation(self.norm(self.convolution(pixels)) + self.shortcut(pixels))

    for shortcut in (lambda pixels: pixels.mean((1, 2, 3), keepdim=True), lambda pixels: pixels.float()[:, :1]):
        block = prepared(Scaled())
        block.shortcut = shortcut
        assert "norm" in fuse_normalisation(block).replaced
        assert compare(block, served) == 0

"""The modules of other people's networks that normalise and activate, exchanged for ones that ask the operator.

timm's ``BatchNormAct2d`` does both, and is one operator by itself. Elsewhere two modules do it, and the block between
them may add its shortcut. There the normalisation hands on a ``DeferredNorm``, to which the shortcut is added, and the
activation computes it, all of it while the compiler traces: what is compiled is the operator's call.

They do so in compiled training steps on a GPU, on maps that lie channels-last in memory. Everywhere else they are what
they were.
"""

import operator
from typing import Any, ClassVar

import torch
import torch.fx
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from halobench.attention.compilation import exporting
from halobench.attention.layer import untouched
from halobench.models.exchange import Exchanged
from halobench.models.norm.module import Parts, fused, joins, serves

ACTIVATIONS = (nn.ReLU, nn.SiLU)  # that the operator knows
SUMS = (torch.Tensor.add, torch.Tensor.add_, torch.add, operator.add, operator.iadd)


class FusedBatchNormAct2d(Exchanged, BatchNormAct2d):
    """timm's ``BatchNormAct2d`` with an activation that the operator knows. ``fuse_normalisation`` makes them."""

    original = BatchNormAct2d

    def forward(self, x: Tensor) -> Tensor:
        """(b c H W) -> (b c H W)."""
        if type(self) is FusedBatchNormAct2d and takes(self, self.act, x) and self.is_timms():
            return fused(Parts([], self, self.act, None), x, None)
        output: Tensor = super().forward(x)
        return output

    def is_timms(self) -> bool:
        """Whether the modules inside are still those that it was made with."""
        inside = type(self.drop) is nn.Identity and type(self.act) in ACTIVATIONS
        return inside and untouched(self.drop) and untouched(self.act)


class DeferringBatchNorm2d(Exchanged, nn.BatchNorm2d):
    """PyTorch's ``BatchNorm2d`` that leaves its work to the activation behind it, where the operator serves both.

    ``followers`` are the modules from behind it to the activation: identities, and it. They are no children of it.
    ``fuse_normalisation`` makes them.
    """

    original: ClassVar[type[nn.Module]] = nn.BatchNorm2d
    followers: tuple[nn.Module, ...]

    def forward(self, x: Tensor) -> Any:
        """(b c H W) -> (b c H W), or what its activation makes that of."""
        if isinstance(x, torch.fx.Proxy):
            return leaf(self, x)
        return DeferredNorm(self, x) if self.defers(x) else self.plain(x)

    def defers(self, pixels: Tensor) -> bool:
        """Whether the activation computes this call. A hook, or a forward put in its place, would not see a map."""
        return (
            type(self) in (DeferringBatchNorm2d, DeferringBatchNormAct2d)
            and takes(self, self.followers[-1], pixels)
            and all(map(untouched, (self, *self.children(), *self.followers)))
        )

    def plain(self, pixels: Tensor) -> Tensor:
        """The normalised map, as the original computes it."""
        return super().forward(pixels)

    def release(self) -> None:
        """Forget what follows."""
        del self.followers


class DeferringBatchNormAct2d(DeferringBatchNorm2d, BatchNormAct2d):
    """The same of timm's ``BatchNormAct2d`` without an activation of its own."""

    original = BatchNormAct2d


class Completing(Exchanged, nn.Module):
    """An activation that may be given a ``DeferredNorm``."""

    reported = False

    def forward(self, x: "Tensor | DeferredNorm") -> Tensor:
        """The activated map."""
        if isinstance(x, torch.fx.Proxy):
            node: Tensor = leaf(self, x)
            return node
        if isinstance(x, DeferredNorm) and x.known is None:
            return x.activated(self)
        output: Tensor = super().forward(x.normalised() if isinstance(x, DeferredNorm) else x)
        return output


class CompletingReLU(Completing, nn.ReLU):
    """PyTorch's ``ReLU`` behind a normalisation. ``fuse_normalisation`` makes them."""

    original = nn.ReLU


class CompletingSiLU(Completing, nn.SiLU):
    """PyTorch's ``SiLU`` behind a normalisation. ``fuse_normalisation`` makes them."""

    original = nn.SiLU


class DeferredNorm:
    """A map that is still to be normalised, and the shortcut to be added then.

    Whatever else a function of PyTorch is called for in between sees the map that this stands for.
    """

    def __init__(self, norm: DeferringBatchNorm2d, pixels: Tensor, shortcut: Tensor | None = None) -> None:
        self.norm, self.pixels, self.shortcut = norm, pixels, shortcut
        self.known: Tensor | None = None  # once somebody has looked at the map

    @classmethod
    def __torch_function__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Add a shortcut, for later; call any other function on the map. The compiler hands on sums, in any order."""
        if function in SUMS and len(args) == 2:
            deferred, other = args if isinstance(args[0], cls) else reversed(args)
            lone = deferred.shortcut is None and deferred.known is None
            if lone and isinstance(other, Tensor) and joins(other, deferred.pixels):
                return cls(deferred.norm, deferred.pixels, other)
        return function(*(one.normalised() if isinstance(one, cls) else one for one in args), **(kwargs or {}))

    def __add__(self, other: Any) -> Any:
        """With a shortcut; as with a map where it is none."""
        return self.__torch_function__(torch.Tensor.add, (), (self, other))

    def __iadd__(self, other: Any) -> Any:
        """As ``__add__``, in place where it is none."""
        return self.__torch_function__(torch.Tensor.add_, (), (self, other))

    def normalised(self) -> Tensor:
        """The map, as the modules compute it one by one; once, for the running statistics."""
        if self.known is None:
            output = self.norm.plain(self.pixels)
            self.known = output if self.shortcut is None else output + self.shortcut
        return self.known

    def activated(self, activation: nn.Module) -> Tensor:
        """The map behind its activation, in one operator."""
        return fused(Parts([], self.norm, activation, None), self.pixels, self.shortcut)


def takes(norm: nn.Module, activation: nn.Module, pixels: Tensor) -> bool:
    """Whether the operator serves a call of other people's modules.

    What is exported is theirs, for tools that look for what they know. A map of another layout would be copied, and
    what follows might not expect the operator's.
    """
    return (
        serves(Parts([], norm, activation, None), pixels, None)
        and not exporting()
        and pixels.dim() == 4
        and pixels.is_contiguous(memory_format=torch.channels_last)
    )


def leaf(module: nn.Module, proxy: torch.fx.Proxy) -> Any:
    """The node of a symbolic trace that calls the module, which is what PyTorch's own modules become there."""
    tracer = proxy.tracer
    assert isinstance(tracer, torch.fx.Tracer)
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (proxy,), {})

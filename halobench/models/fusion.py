"""The operator of our normalisation inside other people's networks, such as timm's."""

from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops.misc import FrozenBatchNorm2d

from halobench.attention.layer import hooked, untouched
from halobench.models.exchange import Acceleration, give_back, plain
from halobench.models.norm.deferred import (
    ACTIVATIONS,
    Completing,
    CompletingReLU,
    CompletingSiLU,
    DeferringBatchNorm2d,
    DeferringBatchNormAct2d,
    FusedBatchNormAct2d,
)
from halobench.models.norm.pairs import NORMS, Followers, behind

KINDS = (_BatchNorm, FrozenBatchNorm2d, FrozenBatchNormAct2d)  # of batch normalisation
OURS = (FusedBatchNormAct2d, DeferringBatchNorm2d, Completing)
DEFERRING = {nn.BatchNorm2d: DeferringBatchNorm2d, BatchNormAct2d: DeferringBatchNormAct2d}
COMPLETING = {nn.ReLU: CompletingReLU, nn.SiLU: CompletingSiLU}


def fuse_normalisation(model: nn.Module) -> Acceleration:
    """Compute batch normalisation and the activation behind it by one operator, in compiled training steps on a GPU.

    Replaced are timm's ``BatchNormAct2d``, and pairs of ``BatchNorm2d`` and ``ReLU`` or ``SiLU``, with the shortcut
    that the block adds in between, wherever the code of ``model`` calls them so. In place: parameters, buffers and the
    state dict are the model's before and after, and outputs, gradients and running statistics are the same to rounding.
    Uncompiled, in evaluation, frozen, on a CPU, exported, and on maps that do not lie channels-last in memory
    (``model.to(memory_format=torch.channels_last)``), they are computed as they were.

    Every batch normalisation is named: those replaced, and those kept with the reason. A hook that would not see
    what it saw, a class of somebody else's and a forward put in the place of its own keep what they are on.
    Called again, it looks at the model anew; ``restore`` undoes it.
    """
    for module in model.modules():
        if isinstance(module, OURS) and plain(module):
            give_back(module)
    pairs = behind(model)
    replaced: list[str] = []
    kept: dict[str, str] = {}
    named = [
        (name, module) for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, KINDS)
    ]
    outcomes = {norm: fuse(norm, pairs) for norm in dict.fromkeys(norm for _, norm in named)}
    for name, norm in named:
        reason = outcomes[norm]
        if reason is None:
            replaced.append(name)
        else:
            kept[name] = reason
    return Acceleration(replaced, kept)


def fuse(norm: nn.Module, pairs: dict[nn.Module, Followers | str]) -> str | None:
    """Exchange a normalisation, and the activation behind it, or say why not."""
    reason = obstacle(norm)
    if reason is not None:
        return reason
    if not bare(norm):
        norm.__class__ = FusedBatchNormAct2d
        return None
    behind_it = pairs.get(norm, "its part of the network cannot be traced, or does not call it")
    if isinstance(behind_it, str):
        return behind_it
    norm.__class__ = DEFERRING[type(norm)]
    assert isinstance(norm, DeferringBatchNorm2d)
    norm.followers = behind_it
    if not isinstance(behind_it[-1], Completing):  # it may be behind several
        behind_it[-1].__class__ = COMPLETING[type(behind_it[-1])]
    return None


def bare(norm: nn.Module) -> bool:
    """Whether a normalisation has no activation of its own."""
    return not isinstance(norm, BatchNormAct2d) or type(norm.act) is nn.Identity


def obstacle(norm: nn.Module) -> str | None:
    """Why this normalisation has to stay as it is whatever is behind it, or ``None``."""
    if type(norm) not in NORMS:
        return f"it is a {type(norm).__name__}, which may compute something else"
    assert isinstance(norm, nn.BatchNorm2d)
    if any(part is None for part in (norm.weight, norm.bias, norm.running_mean, norm.momentum)):
        return "it has no weight and bias, running statistics or momentum"
    if "forward" in vars(norm):
        return "a forward of its own was put in the place of its class's"
    if bare(norm) and hooked(norm):
        return "it has hooks, which would see no map"
    return next((reason for part in norm.children() if (reason := obstacle_inside(part)) is not None), None)


def obstacle_inside(part: nn.Module) -> str | None:
    """Why a module inside ``BatchNormAct2d`` keeps it as it is, or ``None``."""
    if type(part) not in (nn.Identity, *ACTIVATIONS):
        return f"its {type(part).__name__} is no ReLU or SiLU"
    return None if untouched(part) else f"its {type(part).__name__} has hooks, or a forward of its own"

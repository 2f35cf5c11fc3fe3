"""Detection: Mask R-CNN on the six backbones of the paper's table, in turn with the one on ResNet-50.

- ``backbone``: the forward pass of the backbone alone, without a feature pyramid, as the paper states its speed, at
  batch 1 and at the published 32;
- ``inference``: detection at batch 1 with all of its post-processing, on fixed proposals, and on those it finds;
- ``steps``: a training step of the whole detector at batch 2 and at batch 16, on fixed images, targets and proposals.

Images have 1024 x 1024 pixels. On a GPU the backbone alone is replayed as a CUDA graph; a detector cannot be, and has
its backbone compiled where it is compiled. A batch that the user did not choose is halved until it fits.

Tiers: ``smoke`` has two reduced networks, ``default`` the six, eager, by the fused backends and on fixed proposals;
``full`` everything.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from slots import filled, unnamed

from halobench.attention.problem import Direction
from halobench.cases.network import Network, NetworkCase
from halobench.cases.options import Options
from halobench.models.catalogue import DETECTOR

BACKBONES = {
    "resnet50": "R50",
    "seresnet50": "R50 + SE",
    "seresnet50_halo_b8": "R50 + SE + LA (8)",
    "seresnet50_halo_b32": "R50 + SE + LA (32)",
    "seresnet101": "R101 + SE",
    "seresnet101_halo_b8": "R101 + SE + LA (8)",
}
SMOKE_BACKBONES = {"resnet_mini": "reduced R50", "halonet_mini": "reduced HaloNet"}
SIDE, SMOKE_SIDE = 1024, 64
PROPOSALS, SMOKE_PROPOSALS = 1024, 16
BACKBONE_BATCHES, STEP_BATCHES, SMOKE_BATCHES = (1, 32), (2, 16), (1,)
FUSED = ("fused", "fused_cuda")  # all that take part in the default tier, unless the user names backends
FEATURES = (("features_only", True), ("out_indices", (1, 2, 3, 4)))


def cases(options: Options) -> Iterator[NetworkCase]:
    """The tier's cases; those that are compared follow one another, and no case stands twice."""
    seen = set()
    for case in all_cases(options):
        if case.name not in seen:
            seen.add(case.name)
            yield case


def all_cases(options: Options) -> Iterator[NetworkCase]:
    """The cases of all groups; where the user chose the batch, some of them several times."""
    smoke = options.tier == "smoke"
    proposals = SMOKE_PROPOSALS if smoke else PROPOSALS
    for compiled in (False, True) if options.tier == "full" else (False,):
        for batch in SMOKE_BATCHES if smoke else BACKBONE_BATCHES:
            alone = network(options, "", batch, compiled=compiled, overrides=FEATURES)
            captured = options.device == "cuda" and not compiled
            yield from compared(options, replace(alone, captured=captured), "forward", "backbone")
        for count in (proposals, None) if options.tier == "full" else (proposals,):
            whole = network(options, DETECTOR, 1, compiled=compiled)
            yield from compared(options, replace(whole, proposals=count), "forward", "inference")
        for batch in SMOKE_BATCHES if smoke else STEP_BATCHES:
            whole = network(options, DETECTOR, batch, compiled=compiled)
            yield from compared(options, replace(whole, proposals=proposals), "training", "steps")


def network(
    options: Options, start: str, batch: int, *, compiled: bool, overrides: tuple[tuple[str, object], ...] = ()
) -> Network:
    """What the networks of a group have in common; their names begin with ``start``."""
    side = SMOKE_SIDE if options.tier == "smoke" else SIDE
    batch = options.batch or batch
    return Network(start, side, batch, options.dtype, compiled=compiled, overrides=overrides)


def compared(options: Options, common: Network, direction: Direction, group: str) -> Iterator[NetworkCase]:
    """The network on ResNet-50, and on each other backbone in turn with it, with each backend."""
    backbones = SMOKE_BACKBONES if options.tier == "smoke" else BACKBONES
    rival = None
    for backbone, label in backbones.items():
        for own in taking_part(options, replace(common, model=common.model + backbone)):
            yield NetworkCase(
                "detection", own, direction, options.device, (group,), label, rival,
                shrink=options.batch is None, energy=options.tier != "smoke",
            )  # fmt: skip
            rival = rival or own


def taking_part(options: Options, empty: Network) -> list[Network]:
    """The network with each backend that the tier measures."""
    found = filled(options, empty)
    if not unnamed(options) or options.tier == "full":
        return found
    if options.tier == "smoke":
        return found[:1]
    return [one for one in found if one.backend is None or one.backend in FUSED]


def bench_detection(case: NetworkCase, measure: Callable[[NetworkCase], None]) -> None:
    """A backbone's forward pass, a detector's inference, or its training step."""
    measure(case)

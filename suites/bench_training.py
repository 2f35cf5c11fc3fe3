"""Whole networks: training steps and inference of HaloNet in turn with EfficientNet's, and what explains the ratio.

- ``pairs``: H0 to H7 against B0 to B7, at the published image sizes and one batch for both, eager and compiled; in
  compiled steps on a GPU the rival is at its best, with our normalisation fused into it, as HaloNet's is;
- ``accelerate``: timm's halonet50ts and halonet_h1 with our layers, and its EfficientNets with our normalisation, in
  turn with timm's own;
- ``hybrids``: H7 with convolution in stages -, 1, 1-2, 1-2-3, against B7 (the paper's table 4);
- ``transfer``: the three H4 of base width 128 against ViT-L/16 (the paper's table 6);
- ``components``: squeeze-and-excitation, SiLU, label smoothing and RandAugment, one after the other;
- ``side``, ``grid``: the step over the image side, and over block and halo;
- ``inference``: the pairs' forward passes at batch 1 and at the training batch, eager, and as people deploy them:
  compiled, with batch normalisation folded into convolutions;
- ``memory``: compiled steps of H0 and H1 that keep no queries, keys and values, in turn with those that keep them;
- ``modes``: compiled steps of B0 and B1, as timm wrote them and fused, in the compiler's other modes.

On a GPU the compiled ones are replayed as CUDA graphs, and so are, uncompiled, those of ``inference``, ``side``,
``grid`` and ``components`` but for RandAugment: their times are the device's.

Tiers: ``smoke`` has reduced networks, ``default`` the pairs up to H2 and, eager, what is accelerated; ``full``
everything.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from slots import chosen, filled, unnamed

from halobench import models
from halobench.attention.problem import Direction
from halobench.cases.network import Network, NetworkCase
from halobench.cases.options import Options

SPARED = ("strided_gather",)  # in the default tier compiled in H1 only, unless the user names backends
BATCH, TRANSFER_BATCH, SMOKE_BATCH = 128, 32, 2
PAIRS = {"smoke": (), "default": (0, 1, 2), "full": tuple(range(8))}
SMOKE_SIDE = 64
HYBRIDS = {"halonet_h7": "-", "halonet_h7_conv1": "1", "halonet_h7_conv12": "1-2", "halonet_h7_conv123": "1-2-3"}
TRANSFER = ("halonet_h4_128", "halonet_h4_128_patch", "halonet_h4_128_conv12")
# The image sides of H4 and of ViT.
TRANSFER_SIDES: dict[Direction, tuple[tuple[int, int], ...]] = {
    "training": ((256, 224),),
    "forward": ((384, 384), (512, 512)),
}
ACCELERATED = ("halonet50ts", "halonet_h1")
SIDES = (128, 192, 256, 320, 384, 512)
BLOCKS, HALOS = (4, 8, 16), (1, 2, 3, 4)
HUNGRY = ("halonet_h0", "halonet_h1")  # take more memory than EfficientNet as timm wrote it
SEARCHED = ("efficientnet_b0", "efficientnet_b1")  # for the mode that is fastest for them
MODES = ("autotuned", "contiguous", "contiguous-autotuned")  # of the compiler, beside its defaults
BEST_MODE: str | None = (
    None  # of the compiler, for fused rivals: docs/halonet-against-efficientnet.md has what was tried
)


@dataclass(frozen=True)
class Component:
    """A line of the published table of training components: what it changes in HaloNet-50, in ResNet-50, in a step."""

    label: str
    halonet: tuple[tuple[str, object], ...] = ()
    resnet: str = "resnet50"
    resnet_overrides: tuple[tuple[str, object], ...] = ()
    label_smoothing: float = 0.0
    magnitude: int | None = None

    def of_halonet(self, base: Network) -> Network:
        """The baseline with this line's changes."""
        return replace(base, overrides=self.halonet, label_smoothing=self.label_smoothing, magnitude=self.magnitude)

    def of_resnet(self, base: Network) -> Network:
        """The baseline with this line's changes."""
        changed = replace(base, model=self.resnet, overrides=self.resnet_overrides)
        return replace(changed, label_smoothing=self.label_smoothing, magnitude=self.magnitude)


SE = ("squeeze_excitation", "all")
SILU = ("activation", "silu")
RESNET_SILU = (("act_layer", "silu"),)
COMPONENTS = (
    Component("baseline"),
    Component("LS", label_smoothing=0.1),
    Component("LS, RA", label_smoothing=0.1, magnitude=10),
    Component("SE", (SE,), "seresnet50"),
    Component("SE, SiLU", (SE, SILU), "seresnet50", RESNET_SILU),
    Component("LS, SE", (SE,), "seresnet50", label_smoothing=0.1),
    Component("LS, SE, SiLU", (SE, SILU), "seresnet50", RESNET_SILU, label_smoothing=0.1),
    Component("LS, SE, SiLU, RA", (SE, SILU), "seresnet50", RESNET_SILU, label_smoothing=0.1, magnitude=10),
)


def cases(options: Options) -> Iterator[NetworkCase]:
    """The tier's cases; those that are compared follow one another, and no case stands twice."""
    seen: dict[str, NetworkCase] = {}
    for case in smoke(options) if options.tier == "smoke" else real(options):
        known = seen.get(case.name)
        groups = case.groups if known is None else (*known.groups, *case.groups)
        first = known or case
        seen[case.name] = replace(first, groups=tuple(dict.fromkeys(groups)), label=first.label or case.label)
    yield from seen.values()


def real(options: Options) -> Iterator[NetworkCase]:
    """The cases on published networks."""
    for number in PAIRS[options.tier]:
        for compiled in (False, True):
            yield from pair(options, number, "training", compiled=compiled)
    yield from accelerated(options, compiled=False)
    if options.tier != "full":
        return
    yield from accelerated(options, compiled=True)
    for name, stages in HYBRIDS.items():
        rival = best(options, network(options, "efficientnet_b7", compiled=True))
        for own in filled(options, network(options, name, compiled=True)):
            yield case(options, own, rival, "hybrids", label=f"convolution in {stages}")
    yield from transfer(options)
    yield from components(options, "halonet_50", 256, BATCH)
    yield from sides(options, ("halonet_h1", "efficientnet_b1", "resnet50"), SIDES)
    yield from grid(options, "halonet_h1", 256, BLOCKS, HALOS)
    for number in PAIRS["full"]:
        for batch in (1, BATCH):
            yield from pair(options, number, "forward", compiled=False, batch=batch)
            yield from deployed(options, number, batch)
    yield from recomputing(options)
    for name in SEARCHED:
        yield from searched(options, network(options, name, compiled=True))


def pair(
    options: Options, number: int, direction: Direction, *, compiled: bool, batch: int = BATCH
) -> Iterator[NetworkCase]:
    """The EfficientNet of this number as timm wrote it, and at its best where that is something else, in turn with it.

    Then the HaloNet with each backend, in turn with the best; timm's own H1 with them.
    """
    group = "pairs" if direction == "training" else "inference"
    names = [f"efficientnet_b{number}", f"halonet_h{number}", *["timm_halonet_h1"] * (number == 1)]
    called = [network(options, name, compiled=compiled, batch=batch) for name in names]
    written, own, *others = as_called(options, called, direction)
    spared = SPARED if compiled and options.tier == "default" and number != 1 and unnamed(options) else ()
    contestants = [one for one in filled(options, own) if one.backend not in spared]
    yield case(options, written, None, group, direction, label=f"B{number}")
    rival = best(options, written)
    if compiled:
        own = replace(fused(written), compile_mode=BEST_MODE)
        yield case(options, own, written, "accelerate", label=f"B{number}")
    for contestant in (*contestants, *others):
        yield case(options, contestant, rival, group, direction, label=f"H{number}")


def deployed(options: Options, number: int, batch: int) -> Iterator[NetworkCase]:
    """Inference of a pair with everything that the compiler makes of constant weights, in turn."""
    rival, empty = (
        replace(network(options, f"{name}{number}", batch=batch, compiled=True), compile_mode="folded")
        for name in ("efficientnet_b", "halonet_h")
    )
    yield case(options, rival, None, "inference", "forward", label=f"B{number}")
    for own in filled(options, empty):
        yield case(options, own, rival, "inference", "forward", label=f"H{number}")


def recomputing(options: Options) -> Iterator[NetworkCase]:
    """The networks that take most memory beside their rivals, with less to keep, in turn with themselves."""
    for name in HUNGRY:
        for own in filled(options, network(options, name, compiled=True)):
            less = replace(own, overrides=(("recompute_projections", True),))
            yield case(options, less, own, "memory")


def searched(options: Options, written: Network) -> Iterator[NetworkCase]:
    """A compiled network of timm's in every mode of the compiler, and fused, in turn with itself by its defaults.

    Fused normalisation is for maps that lie channels-last.
    """
    yield case(options, written, None, "modes")
    yield case(options, fused(written), written, "modes")
    for mode in MODES:
        yield case(options, replace(written, compile_mode=mode), written, "modes")
        if not mode.startswith("contiguous"):
            yield case(options, replace(fused(written), compile_mode=mode), written, "modes")


def accelerated(options: Options, *, compiled: bool) -> Iterator[NetworkCase]:
    """Training steps of timm's models: timm's own, then with our layers and each backend, in turn with it."""
    for name in ACCELERATED:
        rival = network(options, f"timm_{name}", compiled=compiled)
        yield case(options, rival, None, "accelerate")
        for own in filled(options, network(options, f"accelerated_{name}", compiled=compiled)):
            yield case(options, own, rival, "accelerate")


def transfer(options: Options) -> Iterator[NetworkCase]:
    """Pre-training steps and inference of the models that the paper transfers from ImageNet-21k."""
    for direction, pairs in TRANSFER_SIDES.items():
        for own_side, vit_side in pairs:
            vit = network(options, "vit_large_patch16", vit_side, batch=TRANSFER_BATCH, compiled=True)
            vit = replace(vit, overrides=(("img_size", vit_side),) if vit_side != 224 else ())
            yield case(options, vit, None, "transfer", direction)
            for name in TRANSFER:
                for own in filled(options, network(options, name, own_side, batch=TRANSFER_BATCH, compiled=True)):
                    yield case(options, own, vit, "transfer", direction)


def components(options: Options, name: str, side: int, batch: int) -> Iterator[NetworkCase]:
    """Each line of the table, in turn with the baseline of the same family, which is called as it is."""
    resnet = network(options, "resnet50", side, batch)
    families = [(resnet, Component.of_resnet)]
    families += [(one, Component.of_halonet) for one in filled(options, network(options, name, side, batch))[:1]]
    for base, changed in families:
        for line in COMPONENTS:
            launched = line.magnitude is not None  # it draws on the host
            rival, own = (one if launched else captured(options, one) for one in (base, changed(line, base)))
            yield case(options, own, None if own == rival else rival, "components", label=line.label)


def sides(options: Options, names: Sequence[str], values: Sequence[int], batch: int = BATCH) -> Iterator[NetworkCase]:
    """The step over the side of the images."""
    for name in names:
        for side in values:
            for own in filled(options, captured(options, network(options, name, side, batch))):
                yield case(options, own, None, "side")


def grid(
    options: Options, name: str, side: int, blocks: Sequence[int], halos: Sequence[int], batch: int = BATCH
) -> Iterator[NetworkCase]:
    """The step over block and halo."""
    for block in blocks:
        for halo in halos:
            for own in filled(options, captured(options, network(options, name, side, batch))):
                yield case(options, replace(own, overrides=(("block", block), ("halo", halo))), None, "grid")


def smoke(options: Options) -> Iterator[NetworkCase]:
    """Reduced networks on small images, uncompiled, a few of every group."""
    rival = network(options, "efficientnet_mini", SMOKE_SIDE, SMOKE_BATCH)
    own = network(options, "halonet_mini", SMOKE_SIDE, SMOKE_BATCH)
    both = [rival, *filled(options, own)]
    directions: tuple[tuple[Direction, str], ...] = (("training", "pairs"), ("forward", "inference"))
    for direction, group in directions:
        first, *others = as_called(options, both, direction)
        yield case(options, first, None, group, direction, label=f"reduced {first.model}")
        for one in others:
            yield case(options, one, first, group, direction, label=f"reduced {one.model}")
    for base in filled(options, own)[:1]:
        for stages in ((1,), (1, 2)):
            hybrid = replace(base, overrides=(("convolution_stages", stages),))
            label = f"convolution in {'-'.join(map(str, stages))}"
            yield case(options, hybrid, rival, "hybrids", label=label)
    written = replace(rival, compiled=True)
    yield case(options, fused(written), written, "accelerate", label="fused")  # UNSUPPORTED without a GPU
    with_one = replace(options, backends=tuple(chosen(options)[:1]))
    yield from sides(with_one, ("halonet_mini", "efficientnet_mini"), (32, SMOKE_SIDE), SMOKE_BATCH)
    yield from grid(with_one, "halonet_mini", SMOKE_SIDE, (4, 8), (1, 2), SMOKE_BATCH)


def network(
    options: Options, model: str, side: int | None = None, batch: int = BATCH, *, compiled: bool = False
) -> Network:
    """A network at its published side unless another is given, without a backend."""
    side = side or models.entry(model).image_size
    return Network(model, side, options.batch or batch, options.dtype, compiled=compiled)


def fused(written: Network) -> Network:
    """The network of timm's with our operator in place of its normalisation and activation."""
    return replace(written, model=f"fused_{written.model}")


def best(options: Options, written: Network) -> Network:
    """A rival at its best: compiled on a GPU it has our normalisation, which is not at work elsewhere."""
    if not written.compiled or options.device != "cuda":
        return written
    return replace(fused(written), compile_mode=BEST_MODE)


def captured(options: Options, launched: Network) -> Network:
    """The network, replayed where there is a GPU: launched, its small points would show the host."""
    return replace(launched, captured=options.device == "cuda")


def as_called(options: Options, networks: list[Network], direction: Direction) -> list[Network]:
    """A pair's networks as they are in training, captured for inference."""
    return networks if direction == "training" else [captured(options, one) for one in networks]


def case(
    options: Options, own: Network, rival: Network | None, group: str, direction: Direction = "training",
    label: str | None = None,
) -> NetworkCase:  # fmt: skip
    """A case of a group. In the full tier a batch that the user did not choose is halved until it fits."""
    shrink, energy = options.tier == "full" and options.batch is None, options.tier != "smoke"
    return NetworkCase("training", own, direction, options.device, (group,), label, rival, shrink=shrink, energy=energy)


def bench_training(case: NetworkCase, measure: Callable[[NetworkCase], None]) -> None:
    """A network's step, or its inference."""
    measure(case)

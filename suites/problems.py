"""What is measured: the reference point, the axes through it, and the layer shapes of HaloNet.

A task belongs to groups; each figure draws one group. Tiers differ in sizes only:

- ``smoke``: small maps and batches, for a CPU and a few minutes;
- ``default``: the reference problem on a GPU and three axes through it;
- ``full``: longer axes, the whole grid of blocks and halos, and every stage for the backends that compile too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from halobench import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Backend, Problem
from halobench.cases.options import Options


@dataclass(frozen=True)
class Axes:
    """The reference point of a tier and the values of the axes through it."""

    side: int
    batch: int
    sides: tuple[int, ...]
    blocks: tuple[int, ...]
    halos: tuple[int, ...]
    grid_blocks: tuple[int, ...]
    grid_halos: tuple[int, ...]
    stages: tuple[str, ...]
    stage_batch: int


ALL = ("h0", "h3", "h4", "h5", "h6", "h7")  # h1 and h2 have the stage shapes of h0
AXES = {
    "smoke": Axes(
        side=32, batch=1, sides=(16, 32, 64), blocks=(1, 4, 8, 16, 32), halos=(0, 1, 3, 5),
        grid_blocks=(4, 8), grid_halos=(1, 3), stages=("h0",), stage_batch=1,
    ),
    "default": Axes(
        side=64, batch=64, sides=(16, 32, 64, 96), blocks=(1, 4, 8, 16, 64), halos=(0, 1, 3, 5),
        grid_blocks=(4, 8, 16), grid_halos=(1, 3, 5), stages=ALL, stage_batch=8,
    ),
    "full": Axes(
        side=64, batch=64, sides=(8, 16, 32, 64, 128, 256), blocks=(1, 2, 4, 8, 16, 32, 64),
        halos=(0, 1, 2, 3, 4, 5, 6, 8), grid_blocks=(2, 4, 8, 16, 32), grid_halos=(0, 1, 3, 5, 8),
        stages=ALL, stage_batch=64,
    ),
}  # fmt: skip


# On the axes these are slower than strided_gather throughout; the lower tiers spare them the network stages.
OUTDONE = ("naive_unfold", "lucidrains")


@dataclass(frozen=True)
class Entry:
    """A problem, the groups it belongs to and the network stages it stands for."""

    problem: Problem
    groups: tuple[str, ...]
    label: str | None = None

    @property
    def is_reference(self) -> bool:
        """Whether all axes go through this problem."""
        return {"side", "block", "halo"} <= set(self.groups)


def reference(options: Options) -> Problem:
    """The point that all axes go through: block 8, halo 3, 4 heads of 16, relative positions, masked border."""
    axes = AXES[options.tier]
    return Problem(
        Geometry(block=8, halo=3), axes.side, axes.side, options.batch or axes.batch, heads=4, dtype=options.dtype
    )


def entries(options: Options) -> list[Entry]:
    """All problems of a tier, each once, those of the axes before the stages."""
    axes, point = AXES[options.tier], reference(options)
    found: dict[Problem, Entry] = {}

    def add(problem: Problem, group: str, label: str | None = None) -> None:
        entry = found.get(problem, Entry(problem, ()))
        labels = [text for text in (entry.label, label) if text]
        found[problem] = Entry(problem, (*entry.groups, group), ", ".join(labels) or None)

    for side in axes.sides:
        add(replace(point, height=side, width=side), "side")
    for block in axes.blocks:
        add(replace(point, geometry=Geometry(block, 3)), "block")
    for halo in axes.halos:
        add(replace(point, geometry=Geometry(8, halo)), "halo")
    for block in axes.grid_blocks:
        for halo in axes.grid_halos:
            add(replace(point, geometry=Geometry(block, halo)), "grid")
    add(replace(point, relative=False), "positions")
    for label, problem in stages(options):
        add(problem, "stages", label)
    return list(found.values())


@cache
def loaded(name: str) -> Backend | None:
    """The backend, or ``None`` where it cannot be imported; its rows will say why, measured in the worker."""
    try:
        return backends.load(name)
    except Exception:  # noqa: BLE001 - one broken backend must not end the collection of the others
        return None


def compiles(name: str) -> bool:
    """Whether a backend compiles each shape for seconds; the lower tiers give it fewer of them."""
    backend = loaded(name)
    return backend is not None and backend.compiles


def at_own_border(problem: Problem, name: str) -> Problem:
    """The problem with the border rule that the backend knows, the masked one if it can."""
    backend = loaded(name)
    if backend is None or problem.geometry.border in backend.borders:
        return problem
    return replace(problem, geometry=replace(problem.geometry, border=backend.borders[0]))


@dataclass(frozen=True)
class Network:
    """What fixes the layer shapes of a HaloNet: image side, block, halo and the ratio of value to key channels."""

    side: int
    block: int
    halo: int
    value_ratio: float


# Vaswani et al. 2021, table 2; heads (4, 8, 8, 8) and widths (64, 128, 256, 512) in all of them.
NETWORKS = {
    "h0": Network(256, 8, 3, 1),
    "h3": Network(320, 10, 3, 1),
    "h4": Network(384, 12, 2, 1),
    "h5": Network(448, 14, 2, 2.5),
    "h6": Network(512, 8, 4, 3),
    "h7": Network(600, 10, 3, 4),
}
STAGES = ((64, 4), (128, 8), (256, 8), (512, 8))  # width and heads


def stages(options: Options) -> Iterator[tuple[str, Problem]]:
    """The attention of every stage of HaloNet: the layers after a stage's first, which keep the resolution."""
    axes = AXES[options.tier]
    for name in axes.stages:
        network = NETWORKS[name]
        for number, (width, heads) in enumerate(STAGES, 1):
            side = -(-network.side // 2 ** (number + 1))
            key_dim = width // heads
            yield (
                f"{name.upper()} stage {number}",
                Problem(
                    Geometry(network.block, network.halo),
                    height=side,
                    width=side,
                    batch=options.batch or axes.stage_batch,
                    heads=heads,
                    key_dim=key_dim,
                    value_dim=int(key_dim * network.value_ratio),
                    dtype=options.dtype,
                ),
            )

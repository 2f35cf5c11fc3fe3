"""The layer: one slot of a bottleneck filled by every backend, its projections included, convolution among them."""

from collections.abc import Callable, Iterator

from problems import AXES, OUTDONE, at_own_border, compiles, entries

from halobench.attention.problem import LayerSpec
from halobench.cases.case import Case
from halobench.cases.options import Options
from halobench.cases.workload import Slot

GROUPS = ("side", "stages")


def cases(options: Options) -> Iterator[Case]:
    """Every backend in slots of all image sides, and in the stages of HaloNet-H0."""
    for entry in entries(options):
        groups = tuple(group for group in entry.groups if group in GROUPS)
        if not groups or ("side" not in groups and "H0" not in (entry.label or "")):
            continue
        if options.tier == "smoke" and entry.problem.height > AXES["smoke"].side:
            continue  # a CPU takes seconds for the largest map, which the operator's suite has
        for name in options.backends:
            if compiles(name) and options.tier != "full" and not entry.is_reference:
                continue  # seconds of compilation a shape: the reference point only
            if name in OUTDONE and options.tier != "full" and groups == ("stages",):
                continue
            problem = at_own_border(entry.problem, name)
            layer = LayerSpec(
                channels=problem.heads * problem.key_dim,
                heads=problem.heads,
                key_dim=problem.key_dim,
                value_dim=problem.value_dim,
                geometry=problem.geometry,
            )
            slot = Slot(layer, problem.height, problem.width, problem.batch, problem.dtype)
            for direction in ("forward", "training"):
                counted = groups != ("stages",) or options.tier == "full"
                yield Case("layer", name, slot, direction, options.device, groups, entry.label, counted=counted)


def bench_layer(case: Case, measure: Callable[[Case], None]) -> None:
    """One slot filled by one backend, in one direction."""
    measure(case)

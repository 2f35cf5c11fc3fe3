"""The operator: every backend's ``attend`` across image side, block and halo, and on the layer shapes of HaloNet.

Forward, and forward with all gradients. A convolution joins in as the layer it would be in the same place.
"""

from collections.abc import Callable, Iterator

from problems import Entry, at_own_border, compiles, entries

from halobench.case import Case
from halobench.options import Options


def cases(options: Options) -> Iterator[Case]:
    """Every backend on every problem of the tier; backends that are compared follow one another."""
    for entry in entries(options):
        for name in options.backends:
            if not takes_part(name, entry, options):
                continue
            problem = at_own_border(entry.problem, name)
            for direction in ("forward", "training"):
                yield Case(
                    "operator",
                    name,
                    problem,
                    direction,
                    options.device,
                    entry.groups,
                    entry.label,
                    energy=entry.is_reference or options.tier == "full",
                    counted=entry.groups != ("stages",) or options.tier == "full",
                )


def takes_part(name: str, entry: Entry, options: Options) -> bool:
    """Whether a backend is measured: one that compiles for seconds a shape skips most of the lower tiers."""
    if options.tier == "full" or not compiles(name):
        return True
    if options.tier == "smoke":
        return entry.is_reference
    return "side" in entry.groups and entry.problem.height != 32


def bench_operator(case: Case, measure: Callable[[Case], None]) -> None:
    """One backend on one problem in one direction."""
    measure(case)

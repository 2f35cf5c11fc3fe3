"""The operator: every backend's ``attend`` across image side, block and halo, and on the layer shapes of HaloNet.

Forward, and forward with all gradients. A convolution joins in as the layer it would be in the same place.
"""

from collections.abc import Callable, Iterator

from problems import OUTDONE, Entry, at_own_border, compiles, entries, loaded

from halobench.attention.problem import as_given
from halobench.cases import cost
from halobench.cases.case import Case
from halobench.cases.options import Options


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
                    counted=options.tier == "full" or not {"stages", "grid"}.issuperset(entry.groups),
                )


def takes_part(name: str, entry: Entry, options: Options) -> bool:
    """Whether a backend is measured on an entry: in the lower tiers, what takes long for what it tells sits out.

    A backend that compiles for seconds a shape keeps the reference point and, on a GPU, one more image side. One whose
    work is out of all proportion, such as attention to every pixel of a large map, keeps the axes, and so does one that
    another of its kind outdoes everywhere. One that ignores block and halo does the same work all over their grid.
    """
    if options.tier == "full":
        return True
    if compiles(name):
        return entry.is_reference or (
            options.tier == "default" and "side" in entry.groups and entry.problem.height < 32
        )
    if entry.groups == ("grid",):
        return not ignores_geometry(name)
    return entry.groups != ("stages",) or not (name in OUTDONE or disproportionate(name, entry))


def ignores_geometry(name: str) -> bool:
    """Whether a backend computes the same for every block and halo."""
    backend = loaded(name)
    return backend is not None and (backend.attend is None or backend.meaning is not as_given)


def disproportionate(name: str, entry: Entry) -> bool:
    """Whether a backend executes more than two hundred times the FLOPs that the problem takes."""
    backend = loaded(name)
    if backend is None:
        return False
    executed, least = (count(backend, entry.problem, "forward") for count in (cost.executed, cost.least))
    return executed is not None and least is not None and executed.flops > 200 * least.flops


def bench_operator(case: Case, measure: Callable[[Case], None]) -> None:
    """One backend on one problem in one direction."""
    measure(case)

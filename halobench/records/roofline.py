"""The floor of a call under a machine's ceilings, and ceilings that a measured call has raised. Pure arithmetic.

The floor is the least time that a pass could take if it did nothing but its useful work at the best rates seen here:
the longest of bytes / copy rate, FLOPs / matmul rate, exponentials / exponential rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar, get_args

Item = TypeVar("Item")
Bound = Literal["bytes", "flops", "exponentials"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)
RATES: Mapping[Bound, str] = {
    "bytes": "copy_bytes_per_s",
    "flops": "matmul_flops_per_s",
    "exponentials": "exponentials_per_s",
}
ROUNDING = 1e-9  # what a floor may exceed a time by and still be that time


class Work(Protocol):
    """What a pass must do at least: a ``cost.Cost``, or ``Amounts`` from a file."""

    @property
    def bytes(self) -> float:
        """Bytes to be read and written."""

    @property
    def flops(self) -> float:
        """FLOPs, a multiply-add two."""

    @property
    def exponentials(self) -> float:
        """Exponentials."""


@dataclass(frozen=True)
class Amounts:
    """The useful work of a pass, as a results file holds it."""

    bytes: float
    flops: float
    exponentials: float


@dataclass(frozen=True)
class Ceilings:
    """The best rates seen on a device, per second: copied bytes (read + written), FLOPs, exponentials.

    ``None`` where a rate could not be measured. ``routes`` says by which call, of which size, each was reached.
    ``raised`` names, for a rate that a measured case beat, what had been measured before (``"measured"``) and the
    case (``"by"``). ``taken_over`` says that an earlier run of the same job measured them.
    """

    device: str
    dtype: str
    copy_bytes_per_s: float | None
    matmul_flops_per_s: float | None
    exponentials_per_s: float | None
    routes: Mapping[str, str] = field(default_factory=dict)
    raised: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    taken_over: bool = False

    def rate(self, bound: Bound) -> float | None:
        """The ceiling of one kind of work."""
        rate: float | None = getattr(self, RATES[bound])
        return rate


@dataclass(frozen=True)
class Floor:
    """The least time of a call in ms, and what bounds its longest pass."""

    ms: float
    bound: Bound


def limits(passes: Sequence[Work], ceilings: Ceilings) -> list[tuple[float, Bound]] | None:
    """The least seconds of each pass, and what bounds it; ``None`` where a ceiling is unknown."""
    found: list[tuple[float, Bound]] = []
    for work in passes:
        seconds: dict[Bound, float] = {}
        for bound in BOUNDS:
            rate = ceilings.rate(bound)
            if rate is None:
                return None
            seconds[bound] = getattr(work, bound) / rate
        longest = max(BOUNDS, key=lambda bound: seconds[bound])
        found.append((seconds[longest], longest))
    return found


def floor(passes: Sequence[Work], ceilings: Ceilings) -> Floor | None:
    """The floor of passes that run one after the other; ``None`` where a ceiling is unknown."""
    found = limits(passes, ceilings)
    if not found:
        return None
    return Floor(sum(seconds for seconds, _ in found) * 1e3, max(found, key=lambda each: each[0])[1])


def raised(ceilings: Ceilings, passes: Sequence[Work], ms: float, case: str) -> Ceilings:
    """The ceilings as high as they must be for a call of these passes to have taken ``ms``.

    A call that is shorter than its floor did some work faster than the ceilings say. Which work, when it has several
    passes, nobody can tell: whatever bounds a pass is raised by the factor by which the call was faster.
    """
    while found := limits(passes, ceilings):
        factor = sum(seconds for seconds, _ in found) * 1e3 / ms
        if factor <= 1 + ROUNDING:
            break
        for bound in {bound for _, bound in found}:
            rate = ceilings.rate(bound)
            assert rate is not None
            before = ceilings.raised.get(bound, {}).get("measured", rate)
            ceilings = replace(
                ceilings,
                **{RATES[bound]: rate * factor},  # type: ignore[arg-type]
                raised={**ceilings.raised, bound: {"measured": before, "by": case}},
            )
    return ceilings


def best_of(one: Ceilings, other: Ceilings) -> Ceilings:
    """The higher of two measurements of the same ceilings, each with its route."""
    best = one
    for bound in BOUNDS:
        mine, theirs = one.rate(bound), other.rate(bound)
        if theirs is None or (mine is not None and mine >= theirs):
            continue
        best = replace(best, **{RATES[bound]: theirs})  # type: ignore[arg-type]
        best = replace(best, routes=with_item(best.routes, other.routes, bound))
        best = replace(best, raised=with_item(best.raised, other.raised, bound))
    return best


def with_item(one: Mapping[str, Item], other: Mapping[str, Item], key: str) -> dict[str, Item]:
    """One mapping with what the other says of a key, be it nothing."""
    return {name: item for name, item in one.items() if name != key} | ({key: other[key]} if key in other else {})

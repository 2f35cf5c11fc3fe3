"""From a trial that fails to a small one that fails in the same way, by trying simpler ones in a worker.

What costs no compiling is tried first: fewer images and pixels, plain numbers. Then heads, tables and the geometry.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from halobench.fuzz.draw import Trial
from halobench.fuzz.pool import Plan, Result, attempt
from halobench.fuzz.worker import serve
from halobench.measure.engine import Settings
from halobench.measure.session import Session

LEAST_MAP = {"batch": 1, "height": 1, "width": 1}
LEAST_HEADS = {"heads": 1, "key_dim": 1, "value_dim": 1}
LEAST_GEOMETRY = {"stride": 1, "halo": 0, "block": 1}


def shrunk(found: Result, plan: Plan, seconds: float) -> Result:
    """The smallest trial that fails as ``found`` does, of those that there was time to try."""
    deadline = time.monotonic() + seconds
    best, seen = found, {found.trial}
    with Session(Settings(plan.device), plan.timeout_s, serve) as session:
        better = True
        while better:
            better = False
            for candidate in simpler(best.trial):
                if candidate in seen:
                    continue
                if time.monotonic() > deadline:
                    return best
                seen.add(candidate)
                answered = attempt(session, found.backend, candidate, candidate.problem.geometry)
                if same_failure(answered, found.answer):
                    best, better = replace(best, trial=candidate, answer=answered), True
                    break
    return best


def same_failure(answered: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether both have one status, and a tensor that is wrong in both where any is."""
    if answered["status"] != wanted["status"]:
        return False
    return not wanted.get("wrong") or bool(set(answered["wrong"]) & set(wanted["wrong"]))


def simpler(trial: Trial) -> Iterator[Trial]:
    """Trials that are simpler in one way each, the boldest first."""
    for smaller in lessened(trial.problem, LEAST_MAP):
        yield replace(trial, problem=smaller)
    plain = Trial(trial.problem)
    for name in ("cotangent", "magnitude", "cotangent_layout", "layout"):
        if getattr(trial, name) != getattr(plain, name):
            yield replace(trial, **{name: getattr(plain, name)})
    for smaller in lessened(trial.problem, LEAST_HEADS):
        yield replace(trial, problem=smaller)
    if trial.problem.relative:
        yield replace(trial, problem=replace(trial.problem, relative=False))
    geometry = trial.problem.geometry
    for simpler_geometry in lessened(geometry, LEAST_GEOMETRY):
        yield replace(trial, problem=replace(trial.problem, geometry=simpler_geometry))
    if geometry.border != "masked":
        yield replace(trial, problem=replace(trial.problem, geometry=replace(geometry, border="masked")))


def lessened(whole: Any, least: dict[str, int]) -> Iterator[Any]:
    """A problem or a geometry with one of these fields at its least, halved, or less by one."""
    for name, smallest in least.items():
        now = getattr(whole, name)
        for number in dict.fromkeys((smallest, now // 2, now - 1)):
            if smallest <= number < now:
                yield replace(whole, **{name: number})

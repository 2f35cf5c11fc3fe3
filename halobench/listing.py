"""What there is: backends with their state, models, suites in their tiers, and cases with predicted time and memory.

A prediction is what a backend says it executes, at the best rates measured on this machine: the least time that its
own work could take. Launches, and kernels that reach less than those rates, come on top.
"""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from halobench.attention import backends
from halobench.attention.problem import Unsupported
from halobench.cases import cost
from halobench.cases.case import Case
from halobench.cases.network import AnyCase
from halobench.cases.options import TIERS, Options
from halobench.doctor import backend
from halobench.records.roofline import Ceilings, floor

PATTERN = "bench_*.py"


@dataclass(frozen=True)
class Prediction:
    """The least time of a case in ms and its peak of memory in bytes, as its backend accounts for them."""

    ms: float | None
    peak_bytes: int | None


def states() -> Iterator[tuple[str, str, str]]:
    """Each backend with its state, and its summary or why it cannot be used."""
    words = {"good": "ready", "limited": "missing", "bad": "broken"}
    for name in backends.names():
        state, said, remedy = backend(name)
        yield name, words[state], f"{said}: {remedy}" if remedy else said


def suites(folder: Path) -> dict[str, ModuleType]:
    """The suites of a folder by name: the modules ``bench_NAME.py`` with ``cases(options)``, as pytest finds them.

    Raises:
        ValueError: there are none.
    """
    found = {}
    sys.path.insert(0, str(folder.resolve()))  # suites import what lies beside them
    try:
        for path in sorted(folder.glob(PATTERN)):
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None:
                continue
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            if hasattr(module, "cases"):
                found[path.stem.removeprefix("bench_")] = module
    finally:
        sys.path.remove(str(folder.resolve()))
    if not found:
        raise ValueError(f"no suites ({PATTERN}) in {folder}: run it in the root of a checkout, or give --suites")
    return found


def tiers(found: dict[str, ModuleType], options: Options) -> Iterator[tuple[str, str, int]]:
    """Each suite and tier with its number of cases."""
    for name, module in found.items():
        for tier in TIERS:
            yield name, tier, sum(1 for _ in module.cases(replace(options, tier=tier)))


def cases(found: dict[str, ModuleType], options: Options) -> Iterator[AnyCase]:
    """The cases of all suites in the chosen tier."""
    for module in found.values():
        yield from module.cases(options)


def predict(case: AnyCase, ceilings: Ceilings) -> Prediction:
    """The prediction of a case; unknown for networks, and where a backend is missing, refuses or gives no account."""
    if not isinstance(case, Case):
        return Prediction(None, None)
    try:
        loaded = backends.load(case.backend)
        executed = cost.executed(loaded, case.task, case.direction)
        peak = cost.memory_bytes(loaded, case.task, case.direction)
    except (ImportError, TypeError, Unsupported):
        return Prediction(None, None)
    least = None if executed is None else floor([executed], ceilings)
    return Prediction(None if least is None else least.ms, peak)

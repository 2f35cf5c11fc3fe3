"""What a run of the fuzzer met, so that "0 wrong" says of what: counts, refusals, coverage, and a failing trial."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rich.table import Table

from halobench import terminal
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem
from halobench.fuzz.draw import Trial
from halobench.fuzz.pool import Result

STATUSES = ("OK", "INCORRECT", "CRASHED", "TIMEOUT", "OOM", "UNJUDGED", "UNSUPPORTED")
FEW = 12  # distinct values that are still named one by one
MOST_REASONS = 12
SLOWEST = 5

MET: dict[str, Callable[[Trial], object]] = {
    "block": lambda trial: trial.problem.geometry.block,
    "halo": lambda trial: trial.problem.geometry.halo,
    "stride": lambda trial: trial.problem.geometry.stride,
    "border": lambda trial: trial.problem.geometry.border,
    "block, halo and stride": lambda trial: (
        trial.problem.geometry.block,
        trial.problem.geometry.halo,
        trial.problem.geometry.stride,
    ),
    "key and value dims": lambda trial: (trial.problem.key_dim, trial.problem.value_dim),
    "heads": lambda trial: trial.problem.heads,
    "batch": lambda trial: trial.problem.batch,
    "map": lambda trial: (trial.problem.height, trial.problem.width),
    "dtype": lambda trial: trial.problem.dtype,
    "tables": lambda trial: "yes" if trial.problem.relative else "none",
    "layout": lambda trial: trial.layout,
    "layout of cotangents": lambda trial: trial.cotangent_layout,
    "magnitude": lambda trial: trial.magnitude,
    "cotangent": lambda trial: trial.cotangent,
}
CORNERS: dict[str, Callable[[Problem], bool]] = {
    "partial blocks": lambda problem: bool(
        problem.height % problem.geometry.block or problem.width % problem.geometry.block
    ),
    "maps within a block": lambda problem: max(problem.height, problem.width) <= problem.geometry.block,
    "maps of one row or column": lambda problem: min(problem.height, problem.width) == 1,
    "halo beyond the block": lambda problem: problem.geometry.halo > problem.geometry.block,
    "halo beyond the map": lambda problem: problem.geometry.halo > max(problem.height, problem.width),
    "stride that does not divide the block": lambda problem: problem.geometry.block % problem.geometry.stride != 0,
    "odd dims": lambda problem: bool(problem.key_dim % 2 or problem.value_dim % 2),
    "dims above 64": lambda problem: max(problem.key_dim, problem.value_dim) > 64,
    "unequal dims": lambda problem: problem.key_dim != problem.value_dim,
}


@dataclass
class Coverage:
    """Counts over the results of one backend."""

    statuses: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    met: dict[str, Counter[object]] = field(default_factory=lambda: defaultdict(Counter))
    corners: Counter[str] = field(default_factory=Counter)
    families: dict[int, float] = field(default_factory=dict)
    closest: dict[str, float] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Count a result."""
        self.statuses[result.status] += 1
        if not result.tried:
            self.refusals[kind_of(str(result.answer["reason"]))] += 1
            return
        seconds: float = result.answer.get("seconds", 0.0)
        self.families[result.family] = self.families.get(result.family, 0.0) + seconds
        for name, of in MET.items():
            self.met[name][of(result.trial)] += 1
        self.corners.update(name for name, holds in CORNERS.items() if holds(result.trial.problem))
        if result.status == "OK":
            errors, budgets = result.answer["errors"], result.answer["budgets"]
            for name, error in errors.items():
                self.closest[name] = max(self.closest.get(name, 0.0), error / budgets[name])

    @property
    def tried(self) -> int:
        """Trials that were not refused."""
        return self.statuses.total() - self.statuses["UNSUPPORTED"]


def kind_of(reason: str) -> str:
    """A refusal without the numbers that it got, so that like ones are counted together."""
    said, got, _ = reason.partition(", got ")
    return said if got else re.sub(r"\d+", "N", said)


def tables(coverages: dict[str, Coverage]) -> Iterable[Table]:
    """The summary: a table of counts, and for each backend what it met, what it refused, and what was slow."""
    rows = [
        [name, each.tried, *(each.statuses[status] for status in STATUSES), len(each.families)]
        for name, each in coverages.items()
    ]
    yield terminal.table("Trials", ["backend", "tried", *STATUSES, "families"], rows)
    for name, each in coverages.items():
        if not each.tried:
            continue
        met = [[what, len(counted), listed(counted)] for what, counted in each.met.items()]
        met += [[what, each.corners[what], "trials"] for what in CORNERS]
        yield terminal.table(f"{name}: what was met", ["", "distinct", "of these"], met)
        near = [[tensor, f"{share:.0%}"] for tensor, share in each.closest.items()]
        yield terminal.table(f"{name}: closest to its budget", ["tensor", "error of it"], near)
        slow = sorted(each.families.items(), key=lambda item: -item[1])[:SLOWEST]
        yield terminal.table(f"{name}: slowest families", ["family", "seconds"], [[n, f"{s:.1f}"] for n, s in slow])
    refused = [
        [name, reason, count]
        for name, each in coverages.items()
        for reason, count in each.refusals.most_common(MOST_REASONS)
    ]
    if refused:
        yield terminal.table("Refused", ["backend", "reason", "trials"], refused, left=2)


def listed(counted: Counter[object]) -> str:
    """Values and their counts where there are few, else the range."""
    values = sorted(counted, key=lambda value: (str(type(value)), value))
    if len(values) <= FEW:
        return ", ".join(f"{value}: {counted[value]}" for value in values)
    return f"{values[0]} to {values[-1]}"


def record(result: Result, seed: int, device: str) -> dict[str, Any]:
    """A result as a line of JSON: what was drawn, and what became of it."""
    drawn = asdict(result.trial)
    problem = drawn.pop("problem")
    return {
        "backend": result.backend,
        "device": device,
        "seed": seed,
        "family": result.family,
        "trial": result.number,
        **problem.pop("geometry"),
        **problem,
        **{("numbers_seed" if name == "seed" else name): value for name, value in drawn.items()},
        **result.answer,
    }


def test_case(result: Result, device: str) -> str:
    """A failing trial as a test to paste."""
    trial = result.trial
    others = {each.name: getattr(trial, each.name) for each in fields(Trial) if each.name != "problem"}
    plain = Trial(trial.problem)
    said = "".join(f", {name}={value!r}" for name, value in others.items() if value != getattr(plain, name))
    return (
        f"def test_{result.backend}_on_a_drawn_problem():\n"
        f'    """{result.answer["reason"]}"""\n'
        f"    trial = Trial({shown(trial.problem)}{said})\n"
        f'    judged = judge(backends.load("{result.backend}"), trial, "{device}")\n'
        f'    assert judged.status == "OK", judged.reason\n'
    )


def shown(problem: Problem) -> str:
    """A problem as ``tests/cases.py`` writes it."""
    geometry = problem.geometry
    made = f"Geometry({geometry.block}, {geometry.halo}"
    made += f", {geometry.stride}" if geometry.stride != 1 or geometry.border != "masked" else ""
    made += f', "{geometry.border}"' if geometry.border != "masked" else ""
    plain = Problem(Geometry(1, 0), 1, 1)
    rest = [
        f", {each.name}={getattr(problem, each.name)!r}".replace("'", '"')
        for each in fields(Problem)[3:]
        if getattr(problem, each.name) != getattr(plain, each.name)
    ]
    return f"Problem({made}), {problem.height}, {problem.width}{''.join(rest)})"

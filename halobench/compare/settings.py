"""What counts as a change: thresholds, by default and for single cases, from ``pyproject.toml``."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from halobench.records.schema import ResultsError, fits, shown

TABLE = "tool.halobench.compare"


@dataclass(frozen=True)
class Settings:
    """The thresholds of a comparison.

    A time must change by more than ``threshold_percent`` and by more than ``threshold_us``; ``cases`` gives single
    cases, by pattern, a ``threshold_percent`` of their own. The times of cases whose base is shorter than
    ``gated_from_us`` or whose name fits a pattern of ``advisory`` are reported and never fail the gate.
    ``between_runs_percent`` is how far two processes may disagree where too few runs are given to see it. Peak memory
    may grow by ``memory_percent``.
    """

    threshold_percent: float = 1.0
    threshold_us: float = 0.5
    gated_from_us: float = 50.0
    between_runs_percent: float = 5.0
    memory_percent: float = 0.1
    advisory: tuple[str, ...] = ()
    cases: Mapping[str, float] = field(default_factory=dict)

    def threshold(self, case: str) -> float:
        """The relative threshold of a case; of several patterns that fit, the last one counts."""
        fitting = [percent for pattern, percent in self.cases.items() if fnmatchcase(case, pattern)]
        return (fitting[-1] if fitting else self.threshold_percent) / 100

    def advised(self, case: str, base_ms: float) -> str | None:
        """Why the time of a case is only advisory, or ``None`` where it is gated."""
        if base_ms * 1e3 < self.gated_from_us:
            return f"shorter than {self.gated_from_us:g} us"
        fitting = [pattern for pattern in self.advisory if fnmatchcase(case, pattern)]
        return f"advisory by the pattern {fitting[0]}" if fitting else None

    def with_threshold(self, percent: float | None) -> "Settings":
        """The same with another default threshold."""
        return self if percent is None else replace(self, threshold_percent=percent)


def load(project: Path) -> Settings:
    """The settings in ``[tool.halobench.compare]`` of a ``pyproject.toml``; the defaults where it has none.

    Raises:
        ResultsError: the file is no TOML, or holds a setting that does not exist or is impossible.
    """
    try:
        content = tomllib.loads(project.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise ResultsError(f"{project}: {error}") from None
    table: Any = content
    for key in TABLE.split("."):
        table = table.get(key, {}) if isinstance(table, dict) else {}
    return checked(table, f"{project}: [{TABLE}]")


def checked(table: Any, place: str) -> Settings:
    """The settings of a table, each of the right form."""
    if not isinstance(table, dict):
        raise ResultsError(f"{place} must be a table, got {shown(table)}")
    known = [each.name for each in fields(Settings)]
    for name, value in table.items():
        if name not in known:
            raise ResultsError(f"{place} has no setting {name!r}; there are {', '.join(known)}")
        if name == "advisory":
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ResultsError(f"{place} advisory must be a list of patterns, got {shown(value)}")
        elif name == "cases":
            if not isinstance(value, dict) or not all(fits(each, "number") for each in value.values()):
                raise ResultsError(f"{place} cases must give each pattern a number of percent, got {shown(value)}")
        elif not fits(value, "number"):
            raise ResultsError(f"{place} {name} must be a finite number of at least 0, got {shown(value)}")
    chosen: dict[str, Any] = {name: tuple(value) if name == "advisory" else value for name, value in table.items()}
    return Settings(**chosen)

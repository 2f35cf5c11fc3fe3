"""The schema of results files: what a row may hold, and its checks.

Any leaf may be null, which means unknown; what is there must be possible, in this world and in figures of it.
``halobench.records.fields`` has the columns of a row, each with its meaning.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from halobench.records.columns import DOUBT, OF_THE_FILE, SUMMED_UP
from halobench.records.fields import FIELDS, NETWORK_FIELDS, Field, Kind

SCHEMA_VERSION = 1
OK = "OK"
STATUSES = (OK, "OOM", "UNSUPPORTED", "MISSING", "INCORRECT", "TIMEOUT", "CRASHED")
DIRECTIONS = ("forward", "training")
LARGEST, SMALLEST, MOST = 1e30, 1e-30, 2**31 - 1  # of numbers, of positive ones, of counts

Json = dict[str, Any]


class ResultsError(ValueError):
    """A results file that cannot be used; the message is one line that names the file and what is wrong."""


# The columns of the tables: those of the whole file, those of a row, and what is summed up of a row or of all.
COLUMNS = (*OF_THE_FILE, *FIELDS, *DOUBT, *SUMMED_UP)
NETWORK_COLUMNS = (*OF_THE_FILE, *NETWORK_FIELDS, *SUMMED_UP)
EXPECTED = {
    "text": "text",
    "flag": "true or false",
    "count": f"an integer of at least 0, at most {MOST}",
    "number": f"a finite number of at least 0, at most {LARGEST:g}",
    "positive": f"a finite number above 0, {SMALLEST:g} to {LARGEST:g}",
}


def check_version(section: Json) -> None:
    """Refuse a file of another schema."""
    if section.get("schema") != SCHEMA_VERSION:
        raise ResultsError(f"schema version {shown(section.get('schema'))}, this halobench reads {SCHEMA_VERSION}")


def about_network(row: Any) -> bool:
    """Whether a row is about a whole network."""
    return isinstance(row, dict) and "network" in row


def checked_row(row: Any) -> Json:
    """The columns of a row, checked one by one and against one another: those of a network or of a problem.

    Raises:
        ResultsError: a required column is missing, or a value is impossible.
    """
    if not isinstance(row, dict):
        raise ResultsError(f"a row must be an object, got {shown(row)}")
    name = f"case {shown(row.get('case'))}"
    fields = NETWORK_FIELDS if about_network(row) else FIELDS
    columns = {column: checked(row, field, name) for column, field in fields.items()}
    for column, choices in (("status", STATUSES), ("direction", DIRECTIONS)):
        if columns[column] not in choices:
            raise ResultsError(f"{name}: {column} must be one of {', '.join(choices)}, got {shown(columns[column])}")
    if columns["status"] != OK and columns["median_ms"] is not None:
        raise ResultsError(f"{name}: status {columns['status']} with a latency of {columns['median_ms']} ms")
    groups = listed(row.get("groups"), f"{name}: groups")
    if not all(isinstance(group, str) for group in groups):
        raise ResultsError(f"{name}: groups must be a list of text, got {shown(groups)}")
    return {**columns, "groups": " ".join(groups)}


def checked(row: Json, field: Field, name: str) -> Any:
    """The value of one field of a row."""
    value: Any = row
    for key in field.path.split("."):
        if value is None:
            break
        if not isinstance(value, dict):
            raise ResultsError(f"{name}: {field.path} must be inside an object, got {shown(value)}")
        value = value.get(key)
    if value is None and not field.required:
        return None
    if not fits(value, field.kind):
        raise ResultsError(f"{name}: {field.path} must be {EXPECTED[field.kind]}, got {shown(value)}")
    return value


def fits(value: Any, kind: Kind) -> bool:
    """Whether the value is of this kind. NaN, infinity and what is beyond all measure fit no kind of number."""
    if kind in ("text", "flag"):
        return isinstance(value, str if kind == "text" else bool)
    if isinstance(value, bool) or not isinstance(value, int if kind == "count" else int | float):
        return False
    least, most = (SMALLEST if kind == "positive" else 0), (MOST if kind == "count" else LARGEST)
    return bool(least <= value <= most)


def all_positive(values: Sequence[Any]) -> bool:
    """Whether each of these values, of which there may be millions, ``fits`` the kind "positive"."""
    if not values or not set(map(type, values)) <= {int, float}:
        return False
    # A NaN is neither the least nor the largest, but makes the sum one.
    return bool(min(values) >= SMALLEST and max(values) <= LARGEST and isfinite(sum(values)))


def listed(value: Any, name: str) -> list[Any]:
    """The value, which must be a list."""
    if not isinstance(value, list):
        raise ResultsError(f"{name} must be a list, got {shown(value)}")
    return value


def section(value: Any, name: str) -> Json:
    """The value, which must be an object; null is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ResultsError(f"{name} must be an object, got {shown(value)}")
    return value


def text(value: Any, name: str) -> str | None:
    """The value, which must be text or null."""
    if value is not None and not isinstance(value, str):
        raise ResultsError(f"{name} must be text, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """The value in one short line of a message."""
    line = repr(value)
    return line if len(line) <= 80 else f"{line[:77]}..."

"""Results as four plain tables: runs, cases, networks, samples, with the columns of the dictionary (docs/metrics.md).

Every table begins with ``run``. Unknown is null. A value with parts (a list, an object) is JSON; NaN and infinities in
it are the texts "nan", "inf" and "-inf", for which JSON has no numbers.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from halobench.records import columns
from halobench.records.columns import Column
from halobench.records.fields import FIELDS, NETWORK_FIELDS, Field, Kind
from halobench.records.schema import Json, ResultsError, checked, shown
from halobench.records.table import COLUMNS, NETWORK_COLUMNS, Header, Results
from halobench.wording import counted

JSON = "json"
TYPES = {"text": "string", JSON: "string", "flag": "boolean", "count": "Int64", "number": "Float64"}
TYPES |= {"positive": "Float64"}
OF_NETWORKS, OF_CASES = ("network.", "paired."), ("floor.",)
APART = ("samples_ms", "paired.rival_samples_ms")  # they are the table of samples
BESIDE: Mapping[str, Kind | str] = {
    "latency.places": "count",
    "latency.exposed": "count",
    "latency.replayed": "flag",
    "accuracy.layers": "count",
    "accuracy.worst_share_of_budget": "number",
    "leaked_bytes": "number",
    "network.backend": "text",
    "network.batch": "count",
    "paired.rival": "text",
}  # what of ``columns.BESIDE`` is no JSON


def kinds(table: Mapping[str, Field], names: Iterable[str], elsewhere: tuple[str, ...]) -> dict[str, str]:
    """The columns of a table of rows, in order, with their kinds: those of its own, then those beside them."""
    paths = {field.path for field in table.values()}
    plain = {"dirty": "flag", "declared": "flag", "floor_doubted": "flag", "samples": "count"}
    own = {name: str(table[name].kind) if name in table else plain.get(name, "text") for name in names}
    beside = {name: str(BESIDE.get(name, JSON)) for name in columns.BESIDE if name not in (*APART, *paths)}
    kept = {name: kind for name, kind in beside.items() if not name.startswith(elsewhere)}
    return {"run": "text", "datetime": "text", **own, **kept}


RUNS = {
    name: "flag" if name in ("complete", "dirty", "declared") else "text"
    for name in ("run", "file", "datetime", "complete", "tier", "torch", "commit", "dirty", "declared")
} | dict.fromkeys(("options", "fingerprint", "ceilings", "harness", "load"), JSON)
TABLES: Mapping[str, Mapping[str, str]] = {
    "runs": RUNS,
    "cases": kinds(FIELDS, COLUMNS, OF_NETWORKS),
    "networks": kinds(NETWORK_FIELDS, NETWORK_COLUMNS, OF_CASES),
    "samples": {"run": "text", "case": "text", "number": "count", "ms": "number", "rival_ms": "number"},
}


def tables(results: Results) -> dict[str, pd.DataFrame]:
    """The four tables of some results files; a run that stands in two files is there once.

    Raises:
        ResultsError: a value that only these tables take up is impossible.
    """
    files: dict[str, str] = {}  # by run
    for file in results.headers:
        files.setdefault(identity(results, file), file)
    runs = {file: run for run, file in files.items()}
    made = {
        "runs": [described(run, results.headers[file]) for file, run in runs.items()],
        "cases": [*rows(results, results.table, runs, TABLES["cases"])],
        "networks": [*rows(results, results.networks, runs, TABLES["networks"])],
        "samples": [*samples(results, runs)],
    }
    return {
        name: pd.DataFrame.from_records(made[name], columns=list(of)).astype({key: TYPES[of[key]] for key in of})
        for name, of in TABLES.items()
    }


def identity(results: Results, file: str) -> str:
    """A digest of a run: the same for every copy of it, whatever the file is called or looks like."""
    header = results.headers[file]
    rows = {case: row for (name, case), row in sorted(results.rows.items()) if name == file}
    timed = {case: some for (name, case), some in sorted(results.samples_ms.items()) if name == file}
    said = [header.datetime, header.tier, header.options, header.fingerprint, rows, timed]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def described(run: str, header: Header) -> Json:
    """The row of a run."""
    parts = {name: as_json(getattr(header, name)) for name in ("options", "fingerprint", "ceilings", "harness", "load")}
    commit = {"commit": header.commit.get("id"), **{name: header.commit.get(name) for name in ("dirty", "declared")}}
    plain = {"file": header.file, "datetime": in_utc(header), "complete": header.complete, "tier": header.tier}
    return {"run": run, **plain, "torch": header.torch, **commit, **parts}


def rows(results: Results, table: pd.DataFrame, runs: Mapping[str, str], of: Mapping[str, str]) -> Iterable[Json]:
    """The rows of a table, each with its run and with what stands beside its columns."""
    when = {file: in_utc(results.headers[file]) for file in runs}
    beside = [name for name in of if name in columns.BESIDE]
    for row in table.to_dict("records"):
        file, case = str(row["file"]), str(row["case"])
        if file in runs:
            raw = results.rows[file, case]
            known = {str(name): None if pd.isna(value) else value for name, value in row.items()}
            more = {name: value_beside(raw, name, of[name]) for name in beside}
            yield {"run": runs[file], "datetime": when[file], **known, **more}


def value_beside(row: Json, path: str, kind: str) -> Any:
    """What stands at a path of a row."""
    name = f"case {shown(row.get('case'))}"
    if kind != JSON:
        meant: Column = columns.BESIDE[path]
        return checked(row, Field(path, kind, meant.meaning, null="unknown"), name)  # type: ignore[arg-type]
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else as_json(value)


def samples(results: Results, runs: Mapping[str, str]) -> Iterable[Json]:
    """The samples, those of a rival beside those of the network that they were taken in turn with."""
    for (file, case), some in results.samples_ms.items():
        if file in runs:
            rival = rival_samples(results.rows[file, case], len(some))
            for number, (ms, beside) in enumerate(zip(some, rival, strict=True)):
                yield {"run": runs[file], "case": case, "number": number, "ms": ms, "rival_ms": beside}


def rival_samples(row: Json, count: int) -> list[float | None]:
    """The samples of a row's rival, as many as its own.

    Raises:
        ResultsError: they are no such list.
    """
    paired = row.get("paired")
    given = paired.get("rival_samples_ms") if isinstance(paired, dict) else None
    if given is None:
        return [None] * count
    if not isinstance(given, list) or len(given) != count:
        raise ResultsError(f"case {shown(row.get('case'))}: paired.rival_samples_ms must be {counted(count, 'sample')}")
    field = Field("ms", "positive", "a sample", "ms", null="unknown")
    return [checked({"ms": sample}, field, f"case {shown(row.get('case'))}: rival_samples_ms") for sample in given]


def in_utc(header: Header) -> str | None:
    """The date of a run, of which text can be sorted by time."""
    if header.datetime is None:
        return None
    try:
        return datetime.fromisoformat(header.datetime).astimezone(UTC).isoformat(timespec="microseconds")
    except ValueError:
        raise ResultsError(f"{header.file}: datetime must be a date, got {shown(header.datetime)}") from None


def as_json(value: Any) -> str:
    """A value with parts as JSON that any reader takes."""
    return json.dumps(finite(value), allow_nan=False)


def finite(value: Any) -> Any:
    """The value with text in the place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

"""Results files -> one tidy table: the schema, and its checks.

A results file is pytest-benchmark's JSON with a section ``halobench``, or the journal (``.jsonl``) that a killed run
leaves behind. Reading never imports what measures, so results can be looked at on a machine that cannot run them.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from halobench.records.document import Document, load
from halobench.records.doubt import doubted
from halobench.records.fields import FIELDS, NETWORK_FIELDS, Field
from halobench.records.schema import (
    COLUMNS,
    DIRECTIONS,
    EXPECTED,
    NETWORK_COLUMNS,
    OK,
    SCHEMA_VERSION,
    STATUSES,
    Json,
    ResultsError,
    about_network,
    all_positive,
    checked_row,
    fits,
    section,
    shown,
    text,
)
from halobench.records.sweep import Part, joined
from halobench.wording import counted, legible

__all__ = [
    "COLUMNS",
    "DIRECTIONS",
    "NETWORK_COLUMNS",
    "OK",
    "SCHEMA_VERSION",
    "STATUSES",
    "Header",
    "Results",
    "ResultsError",
    "read",
    "read_all",
]

SUFFIXES = (".json", ".jsonl")
FLAG = Field("", "flag", "", null="the row has no share")
KINDS = ((COLUMNS, FIELDS | {"floor_doubted": FLAG}), (NETWORK_COLUMNS, NETWORK_FIELDS))
"""Columns and fields of the tables of operators and layers, and of networks."""


@dataclass(frozen=True)
class Header:
    """What a file says about the whole run. ``complete`` is false for a journal: its run did not finish.

    ``lacking`` says in words which cases are missing, where the run is a sweep in shards.
    """

    file: str
    tier: str
    options: Json
    fingerprint: Json
    ceilings: Json
    harness: Json
    load: Json
    datetime: str | None
    complete: bool
    lacking: str | None = None

    def machine(self, device: str) -> str:
        """The name of the chip that the run measured on: the GPU for ``"cuda"``, else the CPU."""
        chip = self.fingerprint.get("gpu" if device == "cuda" else "cpu") or {}
        return chip.get("name" if device == "cuda" else "model") or f"unknown {device}"

    @property
    def torch(self) -> str | None:
        """The version of PyTorch."""
        return self.fingerprint.get("torch")

    @property
    def commit(self) -> Json:
        """The commit of the measured code, ``{"id", "dirty", "declared"}``; empty where unknown."""
        return self.fingerprint.get("commit") or {}


@dataclass(frozen=True)
class Results:
    """One or more results files.

    ``table`` has a row per case and file, in the columns ``COLUMNS``: unknown is null, ``groups`` is separated by
    spaces, ``samples`` counts them. ``networks`` has the rows about whole networks, in ``NETWORK_COLUMNS``. ``headers``
    is by file name, ``samples_ms`` by (file name, case); ``rows``, too, has all rows as they stand in the files.
    """

    table: pd.DataFrame
    networks: pd.DataFrame
    headers: dict[str, Header]
    samples_ms: dict[tuple[str, str], tuple[float, ...]]
    rows: dict[tuple[str, str], Json] = field(default_factory=dict)

    @property
    def by_age(self) -> list[str]:
        """The files, the oldest first. Journals once bore no date; those come last, as runs that had not finished."""
        order = {file: (header.datetime is None, header.datetime or "", file) for file, header in self.headers.items()}
        return sorted(self.headers, key=order.__getitem__)


def read(path: Path | str) -> Results:
    """One results file, ``.json`` or ``.jsonl``.

    Raises:
        ResultsError: the file cannot be read, is no results file of this schema, or holds an impossible value.
    """
    path = Path(path)
    return tables_of(path, load(path))


def tables_of(path: Path, document: Document) -> Results:
    """The tables of the document of a file.

    Raises:
        ResultsError: it holds an impossible value.
    """
    try:
        return tabulate(checked_header(legible(path.name), document), document.rows)
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None


def read_all(paths: Path | str | Iterable[Path | str]) -> Results:
    """Many results files in one table. A folder stands for the ``.json`` and ``.jsonl`` files directly in it.

    Shards of one sweep are one file (``records.sweep``). Files of a folder that cannot be read, and cases that a sweep
    lacks, are reported on stderr, one line each.

    Raises:
        ResultsError: a named file cannot be read or is given twice, a folder is missing or holds nothing readable, two
            files have the same name, or two shards are the same.
    """
    found: dict[str, Document] = {}
    alone: dict[str, Results] = {}
    given: dict[str, Path] = {}
    for path in [Path(paths)] if isinstance(paths, Path | str) else map(Path, paths):
        for file, document, results in read_folder(path) if path.is_dir() else [read_checked(path)]:
            place = file.resolve()
            if file.name in found:
                same = given[file.name] == place
                said = f"{file.name} is given twice" if same else f"two files are called {file.name}; rename one"
                raise ResultsError(f"{path}: {said}")
            found[file.name], alone[file.name], given[file.name] = document, results, place
    if not found:
        raise ResultsError("no results files were given")
    runs = [
        alone[file] if found.get(file) is document else tables_of(Path(file), document)
        for file, document in joined(found).items()
    ]
    for header in (header for results in runs for header in results.headers.values()):
        if header.lacking:
            print(f"{header.file} {header.lacking}", file=sys.stderr)
    return Results(
        table=pd.concat([results.table for results in runs], ignore_index=True),
        networks=pd.concat([results.networks for results in runs], ignore_index=True),
        headers={file: header for results in runs for file, header in results.headers.items()},
        samples_ms={key: value for results in runs for key, value in results.samples_ms.items()},
        rows={key: row for results in runs for key, row in results.rows.items()},
    )


def read_checked(path: Path) -> tuple[Path, Document, Results]:
    """A file, its document and its tables.

    Raises:
        ResultsError: as ``read``.
    """
    document = load(path)
    return path, document, tables_of(path, document)


def read_folder(folder: Path) -> list[tuple[Path, Document, Results]]:
    """The readable results files of a folder, by name; the others are reported on stderr."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if not files:
        raise ResultsError(f"{folder}: holds no results files (*.json, *.jsonl)")
    readable = []
    for path in files:
        try:
            readable.append(read_checked(path))
        except ResultsError as error:
            print(f"skipped {error}", file=sys.stderr)
    if not readable:
        raise ResultsError(f"{folder}: holds {counted(len(files), 'results file')}, and none could be read")
    return readable


def checked_header(file: str, document: Document) -> Header:
    """The header of a file, its parts of the right form."""
    content = document.section
    tier = content.get("tier")
    if not isinstance(tier, str):
        raise ResultsError(f"halobench.tier must be text, got {shown(tier)}")
    parts = {
        name: section(content.get(name), f"halobench.{name}")
        for name in ("options", "fingerprint", "ceilings", "harness", "load")
    }
    names = (("gpu", "name"), ("cpu", "model"), ("commit", "id"))
    for name, leaf in names:
        text(section(parts["fingerprint"].get(name), f"halobench.fingerprint.{name}").get(leaf), f"{name}.{leaf}")
    for name in ("torch", "halobench"):
        text(parts["fingerprint"].get(name), f"halobench.fingerprint.{name}")
    for name in ("dirty", "declared"):
        flag = section(parts["fingerprint"].get("commit"), "halobench.fingerprint.commit").get(name)
        if flag is not None and not fits(flag, "flag"):
            raise ResultsError(f"commit.{name} must be {EXPECTED['flag']}, got {shown(flag)}")
    text(document.datetime, "datetime")
    Part.of(document)
    for name in ("copy_bytes_per_s", "matmul_flops_per_s", "exponentials_per_s"):
        value = parts["ceilings"].get(name)
        if value is not None and not fits(value, "positive"):
            raise ResultsError(f"halobench.ceilings.{name} must be {EXPECTED['positive']}, got {shown(value)}")
    for name in ("wall_s", "overhead_share"):
        value = parts["harness"].get(name)
        if value is not None and not fits(value, "number"):
            raise ResultsError(f"halobench.harness.{name} must be {EXPECTED['number']}, got {shown(value)}")
    return Header(file, tier, **parts, datetime=document.datetime, complete=document.complete, lacking=document.lacking)


def tabulate(header: Header, rows: list[tuple[Any, list[Any] | None]]) -> Results:
    """The tables of one file.

    Raises:
        ResultsError: a row is impossible, or two rows are the same case.
    """
    records: dict[bool, list[Json]] = {False: [], True: []}  # whether about networks
    samples_ms: dict[tuple[str, str], tuple[float, ...]] = {}
    seen: set[str] = set()
    for row, samples in rows:
        columns = checked_row(row)
        case = columns["case"]
        if case in seen:
            raise ResultsError(f"case {shown(case)} stands in it twice")
        seen.add(case)
        if samples and not all_positive(samples):
            odd = next(sample for sample in samples if not fits(sample, "positive"))
            raise ResultsError(f"case {shown(case)}: a sample must be {EXPECTED['positive']}, got {shown(odd)}")
        if samples:
            samples_ms[header.file, case] = tuple(samples)
        records[about_network(row)].append(
            {**described(header, columns["device"]), **columns, "samples": len(samples) if samples else None}
        )
    beaten = doubted(row["floor_share"] for row in records[False] if row["floor_share"] is not None) is not None
    for row in records[False]:
        row["floor_doubted"] = None if row["floor_share"] is None else beaten
    return Results(
        table_of(records[False], networks=False),
        table_of(records[True], networks=True),
        {header.file: header},
        samples_ms,
        {(header.file, row["case"]): row for row, _ in rows},
    )


def described(header: Header, device: str) -> Json:
    """The columns of a row that say what it was measured on."""
    commit = header.commit
    return {
        "file": header.file,
        "machine": header.machine(device),
        "torch": header.torch,
        "commit": commit.get("id"),
        "dirty": commit.get("dirty"),
        "declared": commit.get("declared"),
        "tier": header.tier,
    }


def table_of(rows: list[Json], *, networks: bool) -> pd.DataFrame:
    """The table of a file's operators and layers, or of its networks: most files have but one of them."""
    made = typed(rows, *KINDS[networks]) if rows else without_rows(networks=networks)
    return made.copy()  # one block of memory for each dtype: pandas warns of a hundred


@cache
def without_rows(*, networks: bool) -> pd.DataFrame:
    """A table of no rows, which takes pandas as long to make as any other."""
    return typed([], *KINDS[networks])


def typed(rows: list[Json], columns: Iterable[str], fields: dict[str, Field]) -> pd.DataFrame:
    """A table with the same column types whatever is unknown in it, so that tables of several files fit together."""
    kinds = {"text": "object", "flag": "boolean", "number": "float64", "positive": "float64"}
    types = {"dirty": "boolean", "declared": "boolean", "samples": "float64"} | {
        name: ("int64" if each.required else "float64") if each.kind == "count" else kinds[each.kind]
        for name, each in fields.items()
    }
    # Column by column: to change the types of a whole table takes pandas ten times as long, and a series of numbers
    # twice as long as an array.
    index, made = pd.RangeIndex(len(rows)), {}
    for name in columns:
        values, kind = [row[name] for row in rows], types.get(name)
        made[name] = np.array(values, float) if kind == "float64" else pd.Series(values, index, kind)
    return pd.DataFrame(made, index)

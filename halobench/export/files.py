"""The tables as Parquet or CSV, a file each: cases in the file that was asked for, the others beside it.

Each is written beside its place first, so that a full disk leaves what was there.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from halobench.export.tables import TABLES
from halobench.records.schema import ResultsError

Write = Callable[[pd.DataFrame, Path], None]


def paths(path: Path) -> dict[str, Path]:
    """Where each table goes."""
    others = {name: path.with_name(f"{path.stem}-{name}{path.suffix}") for name in ("runs", "networks", "samples")}
    return {"cases": path, **others}


def write(path: Path, made: Mapping[str, pd.DataFrame]) -> None:
    """Write all tables, in the place of those of an earlier export.

    Raises:
        ResultsError: a file is there that is no such table, or one cannot be written, or pyarrow is missing.
    """
    parquet = path.suffix == ".parquet"
    if parquet and importlib.util.find_spec("pyarrow") is None:
        raise ResultsError("Parquet files need the package pyarrow: pip install pyarrow (or give a .sqlite or .csv)")
    places = paths(path)
    for name, place in places.items():
        if place.exists() and list(TABLES[name])[:2] != (head_of_parquet(place) if parquet else head_of_csv(place)):
            raise ResultsError(f"{place} is there and is no table of halobench.export: give another --to")
    put: Write = to_parquet if parquet else to_csv
    try:
        with TemporaryDirectory(prefix=".halobench-export-", dir=path.parent) as folder:
            written = {name: Path(folder) / place.name for name, place in places.items()}
            for name, file in written.items():
                put(made[name], file)
            for name, file in written.items():
                file.replace(places[name])
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror or error}") from None


def to_parquet(table: pd.DataFrame, file: Path) -> None:
    """A table as Parquet; columns without any value have their type, too."""
    with file.open("wb") as stream:  # of a name that is no text, too, which pyarrow does not open
        table.to_parquet(stream, engine="pyarrow", index=False)


def to_csv(table: pd.DataFrame, file: Path) -> None:
    """A table as CSV; null is an empty cell."""
    table.to_csv(file, index=False)


def head_of_parquet(file: Path) -> list[str]:
    """The first two columns of a Parquet file; none where it is something else."""
    import pyarrow.parquet  # noqa: PLC0415 - an extra, which need not be installed

    try:
        with file.open("rb") as stream:
            return list(pyarrow.parquet.read_schema(stream).names[:2])
    except (pyarrow.ArrowException, OSError):
        return []


def head_of_csv(file: Path) -> list[str]:
    """The first two columns of a CSV file; none where it is something else."""
    try:
        with file.open(encoding="utf-8") as lines:
            return lines.readline(1000).rstrip("\r\n").split(",")[:2]
    except (OSError, UnicodeDecodeError):
        return []

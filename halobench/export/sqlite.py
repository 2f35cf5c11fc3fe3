"""A history in one SQLite file: runs are added to it, each once, whatever version of halobench wrote the others.

SQLite itself keeps the file whole: what is added is one transaction, which a full disk or a kill undoes.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from halobench.export.tables import TABLES
from halobench.records.schema import ResultsError

APPLICATION = 0x68616C6F  # "halo", in the file's header: no other database is written to
SQL = {"text": "TEXT", "json": "TEXT", "flag": "INTEGER", "count": "INTEGER", "number": "REAL", "positive": "REAL"}
KEYS = {"runs": ["run"], "cases": ["run", "case"], "networks": ["run", "case"]}
# Names of runs and cases take six times the place of a sample: they stand once, and the view puts them beside each.
SAMPLED = 'CREATE TABLE IF NOT EXISTS sampled (id INTEGER PRIMARY KEY, run TEXT, "case" TEXT, UNIQUE (run, "case"))'
SAMPLE = """CREATE TABLE IF NOT EXISTS sample
(id INTEGER, number INTEGER, ms REAL, rival_ms REAL, PRIMARY KEY (id, number)) WITHOUT ROWID"""
SAMPLES = """CREATE VIEW IF NOT EXISTS samples AS
SELECT run, "case", number, ms, rival_ms FROM sampled JOIN sample USING (id)"""
REFERENCE = """CREATE VIEW IF NOT EXISTS reference AS
SELECT * FROM cases WHERE suite = 'operator' AND status = 'OK' AND ' ' || groups || ' ' LIKE '% side %'
AND ' ' || groups || ' ' LIKE '% block %' AND ' ' || groups || ' ' LIKE '% halo %'"""


def add(path: Path, made: Mapping[str, pd.DataFrame]) -> int:
    """Add the runs that a database lacks, which is made if there is none. The number of those.

    Raises:
        ResultsError: the file is something else, or cannot be written.
    """
    new = not path.exists()
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            return added(database, path, made)
    except (sqlite3.Error, OSError) as error:
        raise ResultsError(f"{path} cannot be written: {error}; it is as it was") from None
    finally:
        if new and path.exists() and not path.stat().st_size:  # nothing came of it
            path.unlink()


def added(database: sqlite3.Connection, path: Path, made: Mapping[str, pd.DataFrame]) -> int:
    """Add the runs in one transaction; a connection that is closed before its end undoes it."""
    try:
        (there,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = database.execute("PRAGMA application_id").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise
        raise ResultsError(f"{path} is no SQLite database: give another --to") from None
    if there and application != APPLICATION:
        raise ResultsError(f"{path} is a database of something else: give another --to")
    database.execute("BEGIN IMMEDIATE")
    for name in KEYS:
        prepare(database, name, TABLES[name])
    for statement in (SAMPLED, SAMPLE, SAMPLES, REFERENCE):
        database.execute(statement)
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    known = {run for (run,) in database.execute("SELECT run FROM runs")}
    new = {name: table[~table["run"].isin(known)] for name, table in made.items()}
    for name in KEYS:
        insert(database, name, new[name])
    insert_samples(database, new["samples"])
    database.execute("COMMIT")
    return len(new["runs"])


def prepare(database: sqlite3.Connection, name: str, columns: Mapping[str, str]) -> None:
    """Make a table, or give an older one the columns that have come since; those that have gone stay."""
    defined = {column: f"{quoted(column)} {SQL[kind]}" for column, kind in columns.items()}
    body = ", ".join([*defined.values(), f"PRIMARY KEY ({', '.join(map(quoted, KEYS[name]))})"])
    database.execute(f"CREATE TABLE IF NOT EXISTS {name} ({body}) WITHOUT ROWID")
    there = {column for _, column, *_ in database.execute(f"PRAGMA table_info({name})")}
    for column in columns:
        if column not in there:
            database.execute(f"ALTER TABLE {name} ADD COLUMN {defined[column]}")


def insert(database: sqlite3.Connection, name: str, table: pd.DataFrame) -> None:
    """Add rows to a table."""
    names = ", ".join(map(quoted, table.columns))
    marks = ", ".join("?" * len(table.columns))
    database.executemany(f"INSERT INTO {name} ({names}) VALUES ({marks})", plain(table))  # noqa: S608 - names of ours


def insert_samples(database: sqlite3.Connection, table: pd.DataFrame) -> None:
    """Add samples, the run and the case of each once."""
    for (run, case), some in table.groupby(["run", "case"], sort=False):
        key = database.execute('INSERT INTO sampled (run, "case") VALUES (?, ?)', (run, case)).lastrowid
        values = some[["number", "ms", "rival_ms"]]
        database.executemany("INSERT INTO sample VALUES (?, ?, ?, ?)", [(key, *value) for value in plain(values)])


def plain(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """The rows of a table in values that SQLite takes; unknown is ``None``."""
    return table.astype(object).where(table.notna(), None).itertuples(index=False, name=None)


def quoted(column: str) -> str:
    """A column's name in SQL."""
    return f'"{column}"'

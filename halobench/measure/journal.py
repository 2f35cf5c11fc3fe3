"""The journal of a run: every row is on disk the moment it exists, so that a killed run can go on.

One JSON object a line: first the header of the run and when it began, then its rows. The last line may be cut short by
a kill. A journal is removed only after its rows have been found, one by one, in a results file.
"""

import errno
import json
import os
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from halobench.wording import counted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Fields = dict[str, Any]
UNLOCKABLE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # some network file systems, and containers
SETTLED = ("floor",)  # fields that may be settled anew when all cases of a run are known


class JournalError(Exception):
    """The journal cannot be used; the message says why and what to do."""


class Journal:
    """An open journal file, locked against a second run where the file system can. ``rows`` is by case name."""

    def __init__(self, path: Path, *, resume: bool, rotate: bool = False) -> None:
        """Open a journal to go on with (``resume``) or to begin, with ``rotate`` after renaming one that is in the way.

        Raises:
            JournalError: another run holds the file, or it holds rows that would be lost, or it is something else.
        """
        self.path = path
        self.header: Fields | None = None
        self.rows: dict[str, Fields] = {}
        self._file = self._open()
        try:
            self._read()
            self._refuse_to_lose_rows(resume=resume)
        except JournalError:
            if fcntl is None:
                self._file.close()  # Windows renames no open file; elsewhere it stays locked until it has another name
            if rotate and not resume:
                path.rename(free_name(path))
                self.header, self.rows = None, {}
            self._file.close()
            if not rotate or resume:
                raise
            self._file = self._open()

    def begin(self, header: Fields) -> None:
        """Write the header, or hold it against that of the run to go on with.

        Raises:
            JournalError: that run was on another machine, software, commit or options.
        """
        header = json.loads(json.dumps(header))
        if self.header is None or not self.rows:  # nothing was measured: nothing is lost by starting over
            self._file.truncate(0)
            self._write({"halobench": header, "datetime": datetime.now(UTC).isoformat()})
        else:
            changed = sorted(differences(self.header, header))
            if changed:
                raise JournalError(
                    f"{self.path} cannot be resumed: {', '.join(changed)} changed since; delete the file to start over"
                )
        self.header = header

    def append(self, row: Fields) -> None:
        """Add a row, safe against a kill once this returns.

        Raises:
            JournalError: the disk is full, say; the rows before are safe.
        """
        self._write(row)
        self.rows[row["case"]] = row

    def close(self, results: Path | None = None) -> int:
        """Close the file, and remove it if the results file holds every one of its rows.

        Returns:
            How many rows only the journal holds: it is still there unless there are none.
        """
        alone = len(self.rows if results is None else self.lacking(results))
        if results is not None and not alone:
            if fcntl is None:
                self._file.close()  # Windows removes no open file; elsewhere it stays locked until it is gone
            self.path.unlink(missing_ok=True)
        self._file.close()
        return alone

    def lacking(self, results: Path) -> list[str]:
        """The cases whose rows, samples included, do not stand in a results file as they do here."""
        held = rows_of(results)
        return [case for case, row in self.rows.items() if held.get(case) != unsettled(row, in_seconds(row))]

    def _open(self) -> TextIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+", encoding="utf-8")
        except OSError as error:
            raise JournalError(f"{self.path} cannot be written: {error.strerror}") from None
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise JournalError(
                f"{self.path} is in use by another run; give this one another --benchmark-json"
            ) from None
        except OSError as error:
            if error.errno not in UNLOCKABLE:  # without locks a second run is still stopped by the rows of the first
                file.close()
                raise JournalError(f"{self.path} cannot be locked: {error.strerror}") from None
        return file

    def _write(self, record: Fields) -> None:
        line, file = f"{json.dumps(record, allow_nan=False)}\n".encode(), self._file.fileno()
        whole = os.fstat(file).st_size
        try:
            while line:
                line = line[os.write(file, line) :]  # a disk that is nearly full takes a part of it
            os.fsync(file)
        except OSError as error:
            os.ftruncate(file, whole)
            raise JournalError(
                f"{self.path} cannot be written: {error.strerror}; {counted(len(self.rows), 'row')} safe in it: "
                "make room, then go on with --resume"
            ) from None

    def _read(self) -> None:
        """Take over what an earlier run left; a line that was cut short is removed."""
        self._file.seek(0)
        whole = number = 0
        try:
            for number, line in enumerate(self._file, 1):  # noqa: B007 - the message below names the line
                if not line.endswith("\n"):
                    break
                self._take(json.loads(line))
                whole += len(line.encode())
        except (ValueError, KeyError, TypeError):
            raise JournalError(
                f"{self.path} is not the journal of a run (line {max(number, 1)}): move it away, "
                "or give another --benchmark-json"
            ) from None
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def _refuse_to_lose_rows(self, *, resume: bool) -> None:
        if self.rows and not resume:
            raise JournalError(
                f"{self.path} holds {counted(len(self.rows), 'row')} of a run that did not finish: "
                "go on with --resume, or delete the file"
            )

    def _take(self, record: Fields) -> None:
        if self.header is None:
            self.header = dict(record["halobench"])
        else:
            self.rows[record["case"]] = record


def free_name(path: Path) -> Path:
    """A name beside the path, numbered, that no file has yet."""
    return next(name for number in count(1) if not (name := path.with_stem(f"{path.stem}-{number}")).exists())


def unsettled(row: Fields, samples_s: list[float] | None) -> Fields:
    """A row as JSON has it, its samples in seconds, without the fields that may be settled at the end of a run."""
    kept = {name: value for name, value in row.items() if name not in (*SETTLED, "samples_ms")}
    plain: Fields = json.loads(json.dumps({**kept, "samples_s": samples_s}))
    return plain


def in_seconds(row: Fields) -> list[float] | None:
    """The samples of a row as they stand in a results file, ``None`` where nothing was timed."""
    samples: list[float] | None = row.get("samples_ms")
    return None if samples is None else [sample / 1e3 for sample in samples]


def rows_of(results: Path) -> dict[str, Fields]:
    """The rows in the file of a finished run, by case; none where it cannot be read, or is no such file."""
    try:
        document = json.loads(results.read_bytes())
        found = {row["case"]: unsettled(row, None) for row in document["halobench"]["failures"]}
        for benchmark in document["benchmarks"]:
            row = benchmark["extra_info"]["halobench"]
            found[row["case"]] = unsettled(row, benchmark["stats"]["data"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


def differences(old: Fields, new: Fields, prefix: str = "") -> set[str]:
    """The dotted names of the fields in which two headers differ; ceilings and load are measured anew and may."""
    found: set[str] = set()
    for key in old.keys() | new.keys():
        name = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{name}.")
        elif before != after:
            found.add(name)
    return {name for name in found if name.partition(".")[0] not in ("ceilings", "load")}

"""The journal of a run: every row is on disk the moment it exists, so that a killed run can go on.

One JSON object a line: first the header of the run and when it began, then its rows. The last line may be cut short by
a kill.
"""

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from halobench.wording import counted

Fields = dict[str, Any]


class JournalError(Exception):
    """The journal cannot be used; the message says why and what to do."""


class Journal:
    """An open journal file, locked against a second run. ``rows`` holds what was measured, by case name."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Open a journal to go on with (``resume``) or to begin.

        Raises:
            JournalError: another run holds the file, or it holds rows that would be lost, or it is something else.
        """
        self.path = path
        self.header: Fields | None = None
        self.rows: dict[str, Fields] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise JournalError(f"{path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise JournalError(f"{path} is in use by another run; give this one another --benchmark-json") from None
        try:
            self._read()
        except JournalError:
            self._file.close()
            raise
        if self.rows and not resume:
            held = counted(len(self.rows), "row")
            self._file.close()
            raise JournalError(
                f"{path} holds {held} of a run that did not finish: go on with --resume, or delete the file"
            )

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

    def close(self, *, finished: bool) -> None:
        """Close the file; a run that ``finished`` has its rows in the results file and needs no journal."""
        if finished:
            self.path.unlink(missing_ok=True)
        self._file.close()

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

    def _take(self, record: Fields) -> None:
        if self.header is None:
            self.header = dict(record["halobench"])
        else:
            self.rows[record["case"]] = record


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

"""One results file as it stands on disk: the JSON of a finished run, or the journal (``.jsonl``) of a killed one."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halobench.records import floors
from halobench.records.schema import Json, ResultsError, all_positive, check_version, fits, listed, section

# Control characters in names and reasons would reach terminals and fonts, and halves of a surrogate pair are no text;
# JSON has both as escapes only.
HIGH, LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
NO_TEXT = re.compile(rb"\\u00(?:[01][0-9A-Fa-f]|7[Ff])|" + HIGH + rb"(?!" + LOW + rb")|(?<!" + HIGH + rb")" + LOW)
REPLACED = rb"\\ufffd"


@dataclass(frozen=True)
class Document:
    """A parsed file: its section ``halobench``, and its rows with their samples in milliseconds, unknown ``None``.

    ``lacking`` says which cases of a sweep are missing, where it is one of shards (``records.sweep``).
    """

    section: Json
    rows: list[tuple[Any, list[Any] | None]]
    datetime: str | None = None
    complete: bool = False
    lacking: str | None = None


def load(path: Path) -> Document:
    """A file's document.

    Raises:
        ResultsError: the file cannot be read, or is no results file of this schema.
    """
    try:
        content = path.read_bytes()
        return journal(content) if path.suffix == ".jsonl" else finished(content)
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None


def finished(content: bytes) -> Document:
    """The JSON of a finished run."""
    document = parse(content)
    if not isinstance(document, dict) or not isinstance(document.get("halobench"), dict):
        plain = isinstance(document, dict) and "benchmarks" in document
        kind = "a pytest-benchmark file of something else" if plain else "some other JSON"
        raise ResultsError(f"no section 'halobench' in it: {kind}, not a halobench results file")
    check_version(document["halobench"])
    rows: list[tuple[Any, list[Any] | None]] = []
    for benchmark in listed(document.get("benchmarks"), "benchmarks"):
        extra = benchmark.get("extra_info") if isinstance(benchmark, dict) else None
        if not isinstance(extra, dict) or "halobench" not in extra:
            raise ResultsError(f"benchmarks[{len(rows)}] has no extra_info.halobench: it was not measured by halobench")
        seconds = section(benchmark.get("stats"), f"benchmarks[{len(rows)}].stats").get(
            "data"
        )  # absent unless pytest-benchmark saved the data
        samples = None if seconds is None else listed(seconds, f"benchmarks[{len(rows)}].stats.data")
        rows.append((extra["halobench"], samples and in_ms(samples)))
    rows += [(row, None) for row in listed(document["halobench"].get("failures"), "halobench.failures")]
    return Document(document["halobench"], rows, document.get("datetime"), complete=True)


def in_ms(seconds: list[Any]) -> list[Any]:
    """Samples in milliseconds; what is no number stays as it is, for the check to refuse."""
    every = all_positive(seconds)
    return [sample * 1e3 if every or fits(sample, "positive") else sample for sample in seconds]


def journal(content: bytes) -> Document:
    """The journal of a run that did not finish; its last line may be cut short."""
    lines = content.splitlines()
    if not lines:
        raise ResultsError("the file is empty")
    try:
        first = parse(lines[0])
    except ResultsError as error:
        raise ResultsError(f"line 1, the journal's header: {error}") from None
    if not isinstance(first, dict) or not isinstance(first.get("halobench"), dict):
        raise ResultsError("line 1 has no section 'halobench': not the journal of a halobench run")
    check_version(first["halobench"])
    rows: list[tuple[Any, list[Any] | None]] = []
    for index, line in enumerate(lines[1:], 2):
        try:
            row = parse(line)
        except ResultsError as error:
            if index == len(lines):  # the run was killed while it wrote this line
                break
            raise ResultsError(f"line {index}: {error}") from None
        samples = row.get("samples_ms") if isinstance(row, dict) else None
        rows.append((row, None if samples is None else listed(samples, f"line {index}: samples_ms")))
    ceilings, settled = floors.settled(first["halobench"].get("ceilings"), [row for row, _ in rows])
    rows = [(row, samples) for row, (_, samples) in zip(settled, rows, strict=True)]
    return Document({**first["halobench"], "ceilings": ceilings}, rows, first.get("datetime"))


def parse(content: bytes) -> Any:
    """JSON, or a ``ResultsError`` that says where it breaks off."""
    if not content.strip():
        raise ResultsError("the file is empty")
    try:
        escaped = b"\\u" in content  # to look for one in a large file takes a thousandth of the time
        return json.loads((NO_TEXT.sub(REPLACED, content) if escaped else content).decode())
    except UnicodeDecodeError:
        raise ResultsError("not text in UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ResultsError(f"not JSON, or cut short: {error.msg} at {where}") from None
    except RecursionError:
        raise ResultsError("not a results file: JSON nested too deeply") from None

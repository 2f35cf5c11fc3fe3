"""A sweep in shards: the files of several runs, each of some of its cases, read as the file of one run.

Each shard's file says which one it is, of how many, and names the cases of the whole sweep. What belongs together has
the same cases, options, software, commit and kind of machine.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile
from typing import Any

from halobench.records import floors
from halobench.records.document import Document
from halobench.records.schema import Json, ResultsError, fits, listed, section, shown
from halobench.wording import counted

NAMED = 3  # cases that a note names before it counts


@dataclass(frozen=True)
class Part:
    """One shard: ``number`` of ``count``, of a sweep of these cases."""

    number: int
    count: int
    cases: tuple[str, ...]

    @classmethod
    def of(cls, document: Document) -> "Part | None":
        """The shard that a document is of, or ``None`` where it is of a whole sweep.

        Raises:
            ResultsError: it says something impossible.
        """
        said = section(document.section.get("shard"), "halobench.shard")
        if not said:
            return None
        number, count, cases = said.get("number"), said.get("count"), listed(said.get("cases"), "halobench.shard.cases")
        if not isinstance(number, int) or not isinstance(count, int) or not 1 <= number <= count:
            raise ResultsError(f"halobench.shard must be a number of a count, got {shown(number)} of {shown(count)}")
        if not all(fits(case, "text") for case in cases):
            raise ResultsError("halobench.shard.cases must be a list of text")
        return cls(number, count, tuple(cases))


def joined(documents: dict[str, Document]) -> dict[str, Document]:
    """The documents by file name, those of one sweep as one.

    Raises:
        ResultsError: a shard, or a case, is there twice.
    """
    sweeps: dict[str, dict[str, Part]] = {}
    found: dict[str, Document] = {}
    for file, document in documents.items():
        part = Part.of(document)
        if part is None:
            found[file] = document
        else:
            sweeps.setdefault(kind(document, part), {})[file] = part
    for parts in sweeps.values():
        name = together(list(parts))
        name = name if name not in found | documents or len(parts) == 1 else "+".join(parts)
        found[name] = one(parts, documents)
    return found


def kind(document: Document, part: Part) -> str:
    """What shards of one sweep have in common."""
    said, machine = document.section, section(document.section.get("fingerprint"), "halobench.fingerprint")
    gpu, cpu, commit = (machine.get(name) for name in ("gpu", "cpu", "commit"))
    chip = gpu.get("name") if isinstance(gpu, dict) else cpu.get("model") if isinstance(cpu, dict) else None
    software = machine.get("torch"), commit.get("id") if isinstance(commit, dict) else None
    return json.dumps([part.count, part.cases, said.get("tier"), said.get("options"), chip, software])


def together(files: Sequence[str]) -> str:
    """One name for files whose names differ in a part: ``mine-1.json`` and ``mine-2.json`` are ``mine-*.json``."""
    if len(files) == 1:
        return files[0]
    start, end = shared(files), shared([file[::-1] for file in files])[::-1]
    return f"{start}*{end[max(len(start) + len(end) - min(map(len, files)), 0) :]}"


def shared(texts: Sequence[str]) -> str:
    """What all texts begin with."""
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letter for letter, *_ in columns)


def one(parts: dict[str, Part], documents: dict[str, Document]) -> Document:
    """The document of a whole sweep."""
    files = sorted(parts, key=lambda file: parts[file].number)
    held: dict[int, str] = {}
    rows: list[tuple[Any, list[Any] | None]] = []
    whose: dict[str, str] = {}
    for file in files:
        part = parts[file]
        if (other := held.setdefault(part.number, file)) != file:
            raise ResultsError(f"{other} and {file} are both shard {part.number}/{part.count} of one sweep")
        for row, samples in documents[file].rows:
            case = row.get("case") if isinstance(row, dict) else None
            if (other := whose.setdefault(str(case), file)) != file:
                raise ResultsError(f"case {shown(case)} stands in {other} and in {file}")
            rows.append((row, samples))
    given = [documents[file] for file in files]
    ceilings = reduce(floors.higher, [document.section.get("ceilings") for document in given])
    ceilings, settled = floors.settled(ceilings, [row for row, _ in rows])
    lacking = missing(parts[files[0]], set(whose), set(held))
    return replace(
        given[0],
        section={**given[0].section, "ceilings": ceilings, "harness": harness(given)},
        rows=[(row, samples) for row, (_, samples) in zip(settled, rows, strict=True)],
        datetime=max((document.datetime for document in given if document.datetime), default=None),
        complete=all(document.complete for document in given) and lacking is None,
        lacking=lacking,
    )


def missing(part: Part, found: set[str], held: set[int]) -> str | None:
    """Which cases and which shards of a sweep are not there, in words."""
    cases = [case for case in part.cases if case not in found]
    if not cases:
        return None
    shards = [f"{number}/{part.count}" for number in range(1, part.count + 1) if number not in held]
    named = ", ".join(cases[:NAMED]) + (f" and {len(cases) - NAMED} more" if len(cases) > NAMED else "")
    absent = f"; there is no shard {', '.join(shards)}" if shards else ""
    return f"lacks {counted(len(cases), 'case')} of its sweep: {named}{absent}"


def harness(given: Sequence[Document]) -> Json:
    """Where the time of all shards went, added up."""
    parts = [section(document.section.get("harness"), "halobench.harness") for document in given]
    names = ("wall_s", "measured_s", "warmup_s", "overhead_s")
    known = [name for name in names if all(fits(part.get(name), "number") for part in parts)]
    total = {name: sum(part[name] for part in parts) for name in known}
    if total.get("wall_s") and "overhead_s" in total:
        total["overhead_share"] = total["overhead_s"] / total["wall_s"]
    return total

"""Files of other benchmarks: pytest-benchmark's own JSON, and NVBench's (https://github.com/NVIDIA/nvbench).

Cases go by their names. What such a file lacks stays unknown: a file without raw samples gives a median a case.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from halobench.records.document import parse
from halobench.records.schema import fits
from halobench.records.table import OK, Header, Results, ResultsError
from halobench.wording import legible

LACKS = {
    "pytest-benchmark": "no raw samples are in it (--benchmark-json has them, or --benchmark-save-data)",
    "NVBench": "no raw samples are beside it (--jsonbin writes them)",
}
COLUMNS = ("file", "case", "status", "reason", "batch", "sm_mhz", "disturbed")
Case = tuple[str, str, str | None, tuple[float, ...]]  # name, status, reason, samples in milliseconds


def read(path: Path) -> Results | None:
    """The cases of another benchmark's file, or ``None`` where it is no such file.

    Raises:
        ResultsError: it is one, and holds a time that is none, or a case twice.
    """
    try:
        document = parse(path.read_bytes())
    except ResultsError:
        return None
    benchmarks = document.get("benchmarks") if isinstance(document, dict) else None
    if (
        not isinstance(benchmarks, list)
        or "halobench" in document
        or not all(isinstance(one, dict) for one in benchmarks)
    ):
        return None
    try:
        if any("states" in one for one in benchmarks):
            return tabulated(path, "NVBench", of_nvbench(path, benchmarks), nvbench_machine(document), None)
        if any("halobench" in (one.get("extra_info") or {}) or "stats" not in one for one in benchmarks):
            return None
        machine = document.get("machine_info") or {}
        cpu = machine.get("cpu") or {}
        fingerprint: dict[str, Any] = {"cpu": {"model": cpu.get("brand_raw"), "cores": cpu.get("count")}}
        fingerprint |= {name: machine.get(name) for name in ("machine", "python_version", "release", "system")}
        fingerprint["commit"] = {"id": (document.get("commit_info") or {}).get("id")}
        return tabulated(
            path, "pytest-benchmark", of_pytest_benchmark(benchmarks), fingerprint, document.get("datetime")
        )
    except ResultsError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OSError, StopIteration, RuntimeError) as error:
        raise ResultsError(
            f"{path}: neither pytest-benchmark's nor NVBench's: {type(error).__name__}: {error}"
        ) from None


def of_pytest_benchmark(benchmarks: list[Any]) -> Iterator[Case]:
    """Its cases, by full name; times are seconds."""
    for one in benchmarks:
        stats = one["stats"]
        yield one["fullname"], OK, None, tuple(each * 1e3 for each in stats.get("data") or [stats["median"]])


def of_nvbench(path: Path, benchmarks: list[Any]) -> Iterator[Case]:
    """Its cases, by benchmark and state; times are seconds, samples lie in files of little-endian float32."""
    for one in benchmarks:
        for state in one.get("states") or []:
            name = f"{one['name']}[{state['name']}]"
            if state.get("is_skipped"):
                yield name, "UNSUPPORTED", state.get("skip_reason"), ()
                continue
            found = {each["tag"]: values(each) for each in state.get("summaries") or []}
            files = [
                each["filename"] for tag, each in found.items() if tag.endswith("/sample_times") and "filename" in each
            ]
            if files and (path.parent / files[0]).is_file():
                seconds = np.fromfile(path.parent / files[0], dtype="<f4").astype(float).tolist()
            else:
                middles = [
                    f"nv/{way}/{middle}"
                    for middle in ("median", "mean")
                    for way in ("cold/time/gpu", "cpu_only/time/cpu")
                ]
                seconds = [float(next(found[tag]["value"] for tag in middles if tag in found))]
            yield name, OK, None, tuple(each * 1e3 for each in seconds)


def values(summary: dict[str, Any]) -> dict[str, Any]:
    """The values of one of NVBench's summaries, by name; numbers are text there."""
    return {each["name"]: each["value"] for each in summary.get("data") or []}


def nvbench_machine(document: dict[str, Any]) -> dict[str, Any]:
    """The devices that NVBench saw."""
    devices = document.get("devices") or [{}]
    return {"gpu": {"name": devices[0].get("name")}, "devices": [each.get("name") for each in devices]}


def tabulated(path: Path, tool: str, cases: Iterator[Case], fingerprint: dict[str, Any], when: str | None) -> Results:
    """The cases in the form of a results file; ``tool`` stands for its tier."""
    file, rows = legible(path.name), list[tuple[Any, ...]]()
    samples_ms: dict[tuple[str, str], tuple[float, ...]] = {}
    for name, status, reason, samples in cases:
        if (file, name) in samples_ms or any(row[1] == name for row in rows):
            raise ResultsError(f"{path}: case {name!r} stands in it twice")
        if not all(fits(each, "positive") for each in samples):
            raise ResultsError(f"{path}: case {name!r}: times must be finite numbers above 0")
        rows.append((file, name, status, reason, None, None, None))
        if samples:
            samples_ms[file, name] = samples
    header = Header(file, tool, {}, fingerprint, {}, {}, {}, when, complete=True)
    table = pd.DataFrame.from_records(rows, columns=list(COLUMNS))
    return Results(table, table.iloc[:0], {file: header}, samples_ms)


def lacking(side: str, tool: str, *, sampled: bool) -> str:
    """What the files of a side do not say, in words."""
    said = f"{side} is {tool}'s: no clocks, memory or FLOPs are compared"
    return said if sampled else f"{said}; {LACKS[tool]}: medians alone are judged from 4 files a side on"

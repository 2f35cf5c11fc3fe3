"""One side of a comparison: the results files of one commit on one machine, each file a run of its own."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from halobench.compare import foreign
from halobench.records.document import Document
from halobench.records.sweep import joined
from halobench.records.table import OK, SUFFIXES, Header, Results, ResultsError, read_checked, tables_of
from halobench.wording import counted

NOT_THE_MACHINE = ("commit", "halobench")  # what two sides of a comparison differ in on purpose
NOT_THE_TASK = ("backends",)  # a run of fewer backends measures the others no differently
EXACT = ("peak_bytes", "executed_flops", "fvcore_flops", "torch_flops")


@dataclass
class Repeated:
    """A case over the runs of one side, in their order. ``cycles`` is median time x SM clock, where it was read.

    ``batch`` is the one that was measured: a network's may be smaller than what was asked for. ``disturbed`` has, for
    each timed run that something else disturbed, what that was.
    """

    samples_ms: list[tuple[float, ...]] = field(default_factory=list)
    cycles: list[float] = field(default_factory=list)
    exact: dict[str, list[float]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    disturbed: list[str] = field(default_factory=list)
    batch: float | None = None

    @property
    def medians_ms(self) -> list[float]:
        """The median of each run."""
        return [median(samples) for samples in self.samples_ms]

    @property
    def under_load(self) -> str | None:
        """What disturbed it, if so many of its runs were disturbed that their median may be one of these."""
        return self.disturbed[0] if self.disturbed and 2 * len(self.disturbed) >= len(self.samples_ms) else None

    def value(self, name: str) -> float | None:
        """An exact quantity: the median of the runs that know it."""
        known = self.exact.get(name)
        return median(known) if known else None

    def at_batch(self, batch: float | None) -> bool:
        """Whether it was measured at this batch, as far as that is known."""
        return batch is None or self.batch in (None, batch)

    def add(self, row: dict[str, Any], samples: tuple[float, ...] | None) -> None:
        """Add the case's row of one more run, of an operator, a layer or a network."""
        if row["status"] != OK:
            self.failures.append((row["status"], row["reason"] or ""))
            return
        if samples is None:
            raise ResultsError(
                f"{row['file']}: case {row['case']!r} is OK and has no samples; save with --benchmark-save-data"
            )
        batch = None if pd.isna(row["batch"]) else row["batch"]
        if not self.at_batch(batch):
            self.failures.append(("OOM", f"fits at batch {self.batch:g} in one run and at {batch:g} in another"))
            return
        self.batch = batch or self.batch
        self.samples_ms.append(samples)
        if not pd.isna(row["disturbed"]) and row["disturbed"]:
            self.disturbed.append(described_load(row))
        if not pd.isna(row["sm_mhz"]) and row["sm_mhz"] > 0:
            self.cycles.append(median(samples) * row["sm_mhz"] * 1e3)
        for name in EXACT:
            if not pd.isna(row.get(name)):  # networks have no FLOPs
                self.exact.setdefault(name, []).append(row[name])


def described_load(row: dict[str, Any]) -> str:
    """Under what a row was measured, in words."""
    average, cores = row["load_average"], row["load_cores"]
    known = not pd.isna(average) and not pd.isna(cores)
    load = f"load {average:.1f} on {counted(cores, 'core')}" if known else "an unknown load"
    return load if pd.isna(row["disturbed_by"]) else f"{load} ({row['disturbed_by']})"


@dataclass(frozen=True)
class Side:
    """Runs that differ in nothing but when they were taken; ``cases`` by name."""

    name: str
    headers: tuple[Header, ...]
    cases: dict[str, Repeated]

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(self.headers)


def load(path: Path) -> Side:
    """A results file, or all results files directly in a folder.

    Raises:
        ResultsError: a file cannot be read, two of them are copies, or they are not of one commit and machine.
    """
    files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise ResultsError(f"{path}: holds no results files (*.json, *.jsonl)")
    runs = read_runs(files)
    headers = tuple(header for run in runs for header in run.headers.values())
    for header in headers[1:]:
        apart = [*differences(headers[0], header), *commits(headers[0], header)]
        if apart:
            raise ResultsError(f"{path}: {headers[0].file} and {header.file} are no repetitions: {'; '.join(apart)}")
    refuse_copies(path, runs)
    cases: dict[str, Repeated] = {}
    for run in runs:
        for row in (*rows_of(run.table), *rows_of(run.networks)):
            key = (str(row["file"]), str(row["case"]))
            cases.setdefault(key[1], Repeated()).add(row, run.samples_ms.get(key))
    return Side(str(path), headers, cases)


def rows_of(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a table, as ``to_dict("records")`` has them, which takes pandas 18 times as long."""
    names = [str(name) for name in table.columns]
    for values in table.to_numpy(object):
        yield {name: None if value is pd.NA else value for name, value in zip(names, values, strict=True)}


def read_runs(files: list[Path]) -> list[Results]:
    """Results files of ours, shards of one sweep as one, and of other benchmarks.

    Raises:
        ResultsError: a file is neither, or a shard is there twice.
    """
    ours: dict[str, Document] = {}
    alone: dict[str, Results] = {}
    others = []
    for file in files:
        try:
            _, ours[file.name], alone[file.name] = read_checked(file)
        except ResultsError:
            found = foreign.read(file) if file.is_file() and file.suffix == ".json" else None
            if found is None:
                raise
            others.append(found)
    runs = [
        alone[name] if ours.get(name) is document else tables_of(files[0].parent / name, document)
        for name, document in joined(ours).items()
    ]
    return [*runs, *others]


def refuse_copies(path: Path, runs: list[Results]) -> None:
    """A run that counts twice would look like a repetition that agrees."""
    named = [
        (next(iter(run.headers)), {case: samples for (_, case), samples in run.samples_ms.items()}) for run in runs
    ]
    for (one, samples), (other, more) in combinations(named, 2):
        if samples and any(varied(more[case]) and samples[case] == more[case] for case in samples.keys() & more):
            raise ResultsError(f"{path}: {one} and {other} hold the same samples: one is a copy of the other")


def varied(samples: tuple[float, ...]) -> bool:
    """Whether samples could only be the same by being those of one run."""
    return len(set(samples)) > 1


def refuse_itself(base: Side, head: Side) -> None:
    """A run against itself, or against a copy of it, would pass whatever the code does.

    Raises:
        ResultsError: they are one file or folder, or hold the same samples.
    """
    if Path(base.name).samefile(head.name):
        raise ResultsError(f"base and head are the same: {base.name}")
    for case in sorted(base.cases.keys() & head.cases.keys()):
        shared = set(base.cases[case].samples_ms) & set(head.cases[case].samples_ms)
        if any(map(varied, shared)):
            raise ResultsError(
                f"{base.name} and {head.name} hold the same samples of {case}: one is a copy of the other"
            )


def differences(one: Header, other: Header) -> list[str]:
    """In what machine, software or task of two runs differ, a line each; empty where their times are comparable."""
    mine, theirs = dict(comparable(one)), dict(comparable(other))
    return [
        f"{name}: {mine.get(name)} | {theirs.get(name)}"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def comparable(header: Header) -> Iterator[tuple[str, Any]]:
    """Everything that must be the same for two times to be comparable."""
    yield "tier", header.tier
    for name, value in header.options.items():
        if name not in NOT_THE_TASK and name != "tier":
            yield f"options.{name}", value
    for name, value in header.fingerprint.items():
        if name not in NOT_THE_MACHINE:
            yield from leaves(name, value)


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects, by dotted name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(f"{name}.{key}", inner)
    else:
        yield name, value


def commits(one: Header, other: Header) -> list[str]:
    """The commits of two runs, where they differ."""
    mine, theirs = one.commit.get("id"), other.commit.get("id")
    return [f"commit: {mine} | {theirs}"] if mine != theirs else []

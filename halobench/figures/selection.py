"""Which rows a figure shows: one machine and dtype at a time, the newest measurement of each case, one reference."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from halobench.figures.style import Style, styles
from halobench.records import doubt, floors
from halobench.records.table import OK, Header, Results

AXES = ("side", "block", "halo")
SHAPE = ("stride", "height", "width", "batch", "heads", "key_dim", "value_dim", "relative")
BASELINE = "naive_unfold"
NO_BACKEND = "none"  # of models without attention slots
# How a network is called: captured is eager, replayed as a CUDA graph; behind compiled, its other modes.
MODES = ("eager", "captured", "compiled", "folded", "autotuned", "contiguous", "contiguous-autotuned")
FAMILIES = {
    "efficientnet": "EfficientNet",
    "fused_efficientnet": "EfficientNet, fused normalisation",
    "resnet": "ResNet",
    "seresnet": "ResNet",
    "vit": "ViT",
    "timm_halo": "timm's HaloNet",
}

HASH = re.compile(r"[0-9a-f]{8,64}")
Drawn = Iterator[tuple[str, Figure | str]]  # the name of a figure, and the figure or why there is none


@dataclass(frozen=True)
class Selection:
    """The rows of one machine and dtype, from one or more files.

    ``table`` has the columns of the results and ``variant``, a name in legends; of operators and layers also ``side``,
    the side of a square map of as many pixels. ``headers`` has the newest file last.
    """

    table: pd.DataFrame
    headers: list[Header]
    machine: str
    dtype: str
    styles: dict[str, Style]

    @property
    def slug(self) -> str:
        """What the names of this selection's files begin with."""
        plain = re.sub(r"\((R|TM)\)", "", self.machine)
        return "-".join(re.findall(r"[a-z0-9]+", f"{plain} {self.dtype}".lower()))

    def footer(self, rows: pd.DataFrame, *, shares: bool = False) -> str:
        """What these rows were measured on, in a line; where ``shares`` are shown, also what speaks against them."""
        used = set(rows["file"])
        headers = [header for header in self.headers if header.file in used]
        parts = (
            [self.machine, self.dtype],
            [f"torch {one.torch or 'unknown'}" for one in headers],
            [commit_of(one) for one in headers],
            [f"tier {one.tier}" for one in headers],
            [f"{one.file}: the run did not finish" for one in headers if not one.complete],
            [doubt.brief(self.shares) or ""] if shares else [],
            [f"{count} measured under load"] if (count := int(rows["disturbed"].fillna(value=False).sum())) else [],
        )
        return "  ·  ".join(part for several in parts for part in several_as_one(several) if part)

    @property
    def shares(self) -> list[float]:
        """The shares of the floor that are known; networks have none."""
        return list(self.table["floor_share"].dropna()) if "floor_share" in self.table else []

    @property
    def doubts(self) -> list[str]:
        """What a reader must know, a sentence each: times below their floors, raised ceilings, disturbed times."""
        beyond = doubt.doubted(self.shares)
        raised = [note for header in self.headers if self.under(header) for note in floors.notes(header.ceilings)]
        return [*([beyond] if beyond else []), *(dict.fromkeys(raised) if self.shares else []), *self.loads]

    @property
    def loads(self) -> list[str]:
        """What else was at work, a sentence where anything was."""
        count = int(self.table["disturbed"].fillna(value=False).sum())
        if not count:
            return []
        of = int(self.table["median_ms"].notna().sum())
        return [f"{count} of {of} times were measured while something else was at work: they are too long"]

    def under(self, header: Header) -> bool:
        """Whether the ceilings of a file are those of this machine and dtype."""
        ceilings = header.ceilings
        return header.machine(ceilings.get("device", "")) == self.machine and ceilings.get("dtype") == self.dtype

    def rows(self, suite: str, group: str | None = None, direction: str | None = None) -> pd.DataFrame:
        """The rows of a suite, of a group of it, in one direction."""
        chosen = self.table[self.table["suite"] == suite]
        if group is not None:
            chosen = chosen[in_group(chosen, group)]
        return chosen if direction is None else chosen[chosen["direction"] == direction]

    @property
    def reference(self) -> pd.DataFrame:
        """The operator's rows at the reference point: where the axes side, block and halo cross."""
        rows = self.rows("operator")
        for axis in AXES:
            rows = rows[in_group(rows, axis)]
        return most_common(rows, ["block", "halo", *SHAPE])

    def ceiling(self, name: str) -> float | None:
        """A measured ceiling of this machine at this dtype, from the newest file that has it."""
        for header in reversed(self.headers):
            if self.under(header) and header.ceilings.get(name) is not None:
                return float(header.ceilings[name])
        return None


def selections(results: Results) -> list[Selection]:
    """One selection per machine and dtype. Of a case measured more than once the newest file counts."""
    return by_machine(operators(results), results)


def network_selections(results: Results) -> list[Selection]:
    """As ``selections``, of the rows about whole networks."""
    return by_machine(networks(results), results)


def operators(results: Results) -> pd.DataFrame:
    """All rows about operators and layers. A variant is a backend and what it does differently."""
    table = results.table
    names = [variant(*of) for of in zip(table["backend"], table["border"], table["stride"], strict=True)]
    return table.assign(side=(table["height"] * table["width"]) ** 0.5, variant=names)


def networks(results: Results) -> pd.DataFrame:
    """All rows about whole networks. A variant is a backend, or a family of models that have none."""
    table = results.networks
    variants = table["backend"].where(table["backend"] != NO_BACKEND, table["model"].map(family))
    # Files from before there were captured networks do not say whether one is.
    modes = np.where(table["captured"].fillna(value=False).astype(bool), "captured", "eager")
    modes = np.where(table["compiled"].astype(bool), table["compile_mode"].fillna("compiled"), modes)
    return table.assign(variant=variants, mode=modes)


def newest(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Of a case measured more than once on a machine in a dtype, the row of the newest file; by case.

    Training steps whose gradients are averaged otherwise are another case.
    """
    ages, gradients = table["file"].map(results.by_age.index), table["gradients"].fillna("buckets")
    aged = table.assign(age=ages, averaged=gradients).sort_values(["age", "case"])
    latest = aged.drop_duplicates(["machine", "dtype", "case", "averaged"], keep="last")
    return latest.drop(columns=["age", "averaged"]).sort_values("case").reset_index(drop=True)


def by_machine(table: pd.DataFrame, results: Results) -> list[Selection]:
    """The selections of a table, in order of machine and dtype."""
    look = styles(table["backend"])
    found = []
    for (machine, dtype), rows in newest(table, results).groupby(["machine", "dtype"], sort=True):
        used = set(rows["file"])
        headers = [results.headers[file] for file in results.by_age if file in used]
        found.append(Selection(rows.reset_index(drop=True), headers, str(machine), str(dtype), look))
    return found


def family(model: str) -> str:
    """What a model without attention slots is called in legends."""
    backbone = model.removeprefix("maskrcnn_")
    for start, name in FAMILIES.items():
        if backbone.startswith(start):
            return name
    return model


def variant(backend: str, border: str, stride: int) -> str:
    """A backend's name in legends; what it does differently from the others stands with it."""
    differs = [f"border {border}"] * (border != "masked") + [f"stride {stride}"] * (stride != 1)
    return f"{backend} ({', '.join(differs)})" if differs else backend


def in_group(table: pd.DataFrame, group: str) -> "pd.Series[bool]":
    """Which rows belong to the group."""
    return table["groups"].map(lambda groups: group in groups.split()).astype(bool)


def of_the_device(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without launched steps whose replayed twins are there: those show the host."""
    keys = ["machine", "dtype", "backend", "direction", "model", "side", "block", "halo"]
    names = pd.Series(list(rows[keys].astype(str).itertuples(index=False, name=None)), rows.index, dtype=object)
    return rows[(rows["mode"] != "eager") | ~names.isin(set(names[rows["mode"] == "captured"]))]


def most_common(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The rows that share the most common values of these columns; of several such values, the least."""
    if rows.empty:
        return rows
    sizes = rows.groupby(columns, as_index=False, sort=True).size()
    best = sizes.loc[[sizes["size"].idxmax()], columns]
    return rows.merge(best, on=columns)


def mode_order(mode: str) -> tuple[int, str]:
    """Where a mode stands among the others; what this version does not know stands last."""
    return MODES.index(mode) if mode in MODES else len(MODES), mode


def measured(rows: pd.DataFrame, column: str = "median_ms") -> pd.DataFrame:
    """The rows that were measured and know this column."""
    return rows[(rows["status"] == OK) & rows[column].notna()]


def held(rows: pd.DataFrame, but: tuple[str, ...] = ()) -> str:
    """What all rows have in common, for a title."""
    names = {
        "side": "map {:.4g} x {:.4g}",
        "block": "block {}",
        "halo": "halo {}",
        "batch": "batch {}",
        "heads": "heads {}",
        "key_dim": "key dim {}",
        "value_dim": "value dim {}",
    }
    same = [name for name in names if name not in but and rows[name].nunique() == 1]  # noqa: PD101 - nulls do not count
    return ", ".join(names[name].format(rows[name].iloc[0], rows[name].iloc[0]) for name in same)


def commit_of(header: Header) -> str:
    """The commit of a file, short, with what is not known of it; the version where there is no commit."""
    commit = header.commit
    if not commit.get("id"):
        version = header.fingerprint.get("halobench")
        return f"halobench {version}, commit unknown" if version else "commit unknown"
    return commit_named(commit["id"], declared=bool(commit.get("declared")), dirty=commit.get("dirty"))


def commit_named(commit: str, *, declared: bool, dirty: bool | None) -> str:
    """A commit, short, with what is not known of it."""
    name = commit[: 7 if HASH.fullmatch(commit) else 40]
    doubts = ["declared"] * declared + ["dirty unknown"] * (dirty is None)
    return f"commit {name}{'+dirty' if dirty else ''}" + (f" ({', '.join(doubts)})" if doubts else "")


def several_as_one(parts: list[str]) -> list[str]:
    """The distinct parts; of more than two, the newest and how many more."""
    distinct = list(dict.fromkeys(parts))
    if len(distinct) <= 2:
        return distinct
    return [f"{distinct[-1]} and {len(distinct) - 1} more"]

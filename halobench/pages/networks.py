"""Whole networks as tables of pages: their steps and their inference over a rival's, and what was published."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from halobench.figures.names import SAID, pair_name
from halobench.figures.pairs import compiled_pairs, milliseconds, pair_table
from halobench.figures.published import HYBRIDS, TRANSFER, TRANSFER_AT, ratio, with_convolutions
from halobench.figures.rivals import FUSED, SUITE
from halobench.figures.selection import Selection, measured, mode_order
from halobench.figures.summary import markdown
from halobench.pages.operators import measured_on

BRIEFLY = {
    "ratio of times": "step, EfficientNet as timm wrote it",
    "ratio to the faster": "step, the faster EfficientNet",
    "to the other": "step, the other EfficientNet",
    "of peak memory": "peak memory",
}
"""What a brief table of pairs shows of the whole one, and what it calls that."""


def each(chosen: Sequence[Selection], group: str, direction: str | None = None) -> list[tuple[Selection, pd.DataFrame]]:
    """Of every machine and dtype, the rows of a group that were taken in turn with a rival."""
    found = [(one, measured(one.rows(SUITE, group, direction), "ratio")) for one in chosen]
    return [(one, rows.assign(pair=rows["model"].map(pair_name))) for one, rows in found if not rows.empty]


def with_source(head: list[str], lines: list[list[str]], one: Selection, rows: pd.DataFrame) -> str:
    """The table, and what it was measured on."""
    return f"{markdown(head, lines)}\n\n*{measured_on(one, rows)}*"


def pairs(chosen: Sequence[Selection]) -> str:
    """The compiled training step of every pair, with the backend that is fastest there, a line a pair."""
    made = []
    for one, best in compiled(chosen):
        head, lines = pair_table(one, best, times_as)
        made.append(f"{markdown(head, lines)}\n\n{with_backends(one, best)}")
    return "\n\n".join(made)


def pairs_briefly(chosen: Sequence[Selection]) -> str:
    """The ratios of ``pairs`` as one table of all machines, a column a pair."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    sources = []
    for one, best in compiled(chosen):
        head, lines = pair_table(one, best, times_as)
        names, *columns = zip(head, *lines, strict=True)
        for said, *values in columns:
            if said in BRIEFLY:
                rows[f"{one.machine}, {one.dtype}", BRIEFLY[said]] = dict(zip(names[1:], values, strict=True))
        sources.append(with_backends(one, best))
    known = sorted({name for row in rows.values() for name in row})
    lines = [[*labels, *(row.get(name, "-") for name in known)] for labels, row in rows.items()]
    return "\n\n".join([markdown(["measured on", "HaloNet over EfficientNet", *known], lines), "\n".join(sources)])


def compiled(chosen: Sequence[Selection]) -> Iterator[tuple[Selection, pd.DataFrame]]:
    """Of every machine and dtype, the rows that stand for the pairs."""
    return ((one, compiled_pairs(one)) for one, _ in each(chosen, "pairs", "training"))


def with_backends(one: Selection, rows: pd.DataFrame) -> str:
    """Which backends these rows of HaloNets have, and what they were measured on."""
    backends = " and ".join(f"`{name}`" for name in sorted(rows["variant"].unique()))
    return f"*HaloNet with {backends}. {measured_on(one, rows)}*"


def modes(chosen: Sequence[Selection]) -> str:
    """The ratio of every backend, mode and pair that was measured."""
    made = []
    for one, rows in each(chosen, "pairs", "training"):
        columns = sorted(rows["pair"].unique())
        lines = []
        for mode in sorted(rows["mode"].unique(), key=mode_order):
            for variant, of in rows[rows["mode"] == mode].groupby("variant", sort=True):
                lines.append([f"{variant}, {mode}", *cells(of, columns, "pair")])
        made.append(with_source(["", *columns], lines, one, rows))
    return "\n\n".join(made)


def compile_modes(chosen: Sequence[Selection]) -> str:
    """Compiled steps of rivals in the compiler's modes: their time, and what it is of the usual one taken in turn."""
    made = []
    for one in chosen:
        rows = measured(one.rows(SUITE, "modes", "training"))
        if rows.empty:
            continue
        columns = sorted(rows["mode"].unique(), key=mode_order)
        lines = []
        for model, of in rows.groupby("model", sort=True):
            found = {row["mode"]: beside_usual(row) for _, row in of.iterrows()}
            lines.append([called(str(model)), *(found.get(mode, "-") for mode in columns)])
        made.append(with_source(["", *columns], lines, one, rows))
    return "\n\n".join(made) or "*No results file has these steps yet.*"


def recomputed(chosen: Sequence[Selection]) -> str:
    """Compiled steps that keep no queries, keys and values, beside those that do: time, and memory at its peak."""
    head = ["", "backend", "kept", "computed again", "ratio of times", "peak, kept", "peak, computed again"]
    made = []
    for one, rows in each(chosen, "memory", "training"):
        beside = measured(one.rows(SUITE, "pairs", "training"), "peak_bytes")
        usual = beside[beside["mode"] == "compiled"].set_index(["model", "variant", "batch"])["peak_bytes"].to_dict()
        lines = []
        for _, row in rows.sort_values(["model", "variant"]).iterrows():
            times = [milliseconds(row["rival_ms"]), milliseconds(row["median_ms"]), times_as(row)]
            peaks = [usual.get((row["model"], row["variant"], row["batch"])), row["peak_bytes"]]
            said = ["-" if peak is None else f"{peak / 2**30:.2f} GiB" for peak in peaks]
            lines.append([str(row["model"]), f"`{row['variant']}`", *times, *said])
        made.append(with_source(head, lines, one, rows))
    return "\n\n".join(made) or "*No results file has these steps yet.*"


def beside_usual(row: "pd.Series[Any]") -> str:
    """A step's time, and in brackets its ratio to the network as timm wrote it, compiled by default, if in turn."""
    said = milliseconds(row["median_ms"])
    return said if pd.isna(row["ratio"]) else f"{said} ({times_as(row)})"


def called(model: str) -> str:
    """A network of timm's in words."""
    return f"{model.removeprefix(FUSED)}, fused" if model.startswith(FUSED) else f"{model}, as timm wrote it"


def hybrids(chosen: Sequence[Selection]) -> str:
    """The training step of H7 and its hybrids over EfficientNet-B7's, and the published training time."""
    made = []
    for one, rows in each(chosen, "hybrids", "training"):
        if not with_convolutions(rows):
            continue
        known = [model for model in HYBRIDS if model in set(rows["model"])]
        lines = [[str(variant), *cells(of, known)] for variant, of in rows.groupby("variant", sort=True)]
        lines.append(["published, TPUv3", *(f"{HYBRIDS[model][1]:g}" for model in known)])
        made.append(with_source(["", *(HYBRIDS[model][0] for model in known)], lines, one, rows))
    return "\n\n".join(made)


def inference(chosen: Sequence[Selection]) -> str:
    """Inference over the rival's, a line a batch, mode and backend."""
    made = []
    for one, rows in each(chosen, "inference", "forward"):
        columns = sorted(rows["pair"].unique())
        lines = []
        for mode in sorted(rows["mode"].unique(), key=mode_order):
            for (batch, variant), of in rows[rows["mode"] == mode].groupby(["batch", "variant"], sort=True):
                said = "" if mode == "captured" else f", {SAID.get(mode, mode)}"
                lines.append([f"batch {batch:g}, {variant}{said}", *cells(of, columns, "pair")])
        made.append(with_source(["", *columns], lines, one, rows))
    return "\n\n".join(made)


def transfer(chosen: Sequence[Selection]) -> str:
    """The transfer models over ViT-L/16: the step of pre-training, inference at two sides, published in brackets."""
    titles = ("pre-training step, 256 : 224", "inference at 384", "inference at 512")
    made = []
    for one, rows in each(chosen, "transfer"):
        lines = []
        for model, (label, *_) in TRANSFER.items():
            of = rows[rows["model"] == model]
            line = [label]
            for direction, side in TRANSFER_AT:
                here = of[(of["direction"] == direction) & (of["side"] == side)]
                published = ratio(model, "vit_large_patch16", direction, side)
                line.append(f"{cells(here, [model])[0]} ({published:.2f})")
            lines.append(line)
        made.append(with_source(["", *titles], lines, one, rows))
    return "\n\n".join(made)


def accelerated(chosen: Sequence[Selection]) -> str:
    """The step of timm's networks after ``models.accelerate`` over the step before, by backend."""
    made = []
    for one, rows in each(chosen, "accelerate", "training"):
        own = rows[rows["model"].str.startswith("accelerated_")]
        if own.empty:
            continue
        head = ["network", "backend", "as it is", "accelerated", "time"]
        lines = [
            [
                row["rival"],
                f"`{row['variant']}`",
                milliseconds(row["rival_ms"]),
                milliseconds(row["median_ms"]),
                times_as(row),
            ]
            for _, row in own.sort_values(["model", "ratio"]).iterrows()
        ]
        made.append(with_source(head, lines, one, own))
    return "\n\n".join(made)


def cells(rows: pd.DataFrame, names: Sequence[str], by: str = "model") -> list[str]:
    """The ratio of each model, or pair, where it was measured."""
    found = {row[by]: times_as(row) for _, row in rows.iterrows()}
    return [found.get(name, "-") for name in names]


def times_as(row: "pd.Series[Any]") -> str:
    """A ratio, bold where the whole interval is below one; with its interval where that holds one."""
    said = f"{row['ratio']:.2f}"
    if row["ratio_high"] < 1:
        return f"**{said}**"
    return said if row["ratio_low"] > 1 else f"{said} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"

"""The charts of whole networks: beside their rivals, and over their parameters and the side of their images."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from halobench.figures import published
from halobench.figures.names import short
from halobench.figures.selection import NO_BACKEND, in_group, measured
from halobench.report.chart import (
    BESIDE,
    HEIGHT,
    INHERIT,
    WIDTH,
    Figure,
    by_metric,
    choice,
    choices,
    filtered,
    hover,
    listed,
    looks,
    metric_choice,
    metric_title,
    named_below,
    with_legend,
)
from halobench.report.points import STEPS, intervals


def draw(rows: pd.DataFrame) -> Iterator[Figure]:
    """Every chart that these rows have data for."""
    networks = rows[rows["model"].notna()]
    beside = networks[networks["rival"].notna()]
    if not measured(beside, "ratio").empty:
        yield against_rivals(beside)
    pairs = measured(networks[in_group(networks, "pairs") | in_group(networks, "inference")], "parameters")
    sides = measured(networks[in_group(networks, "side")])
    along = [
        pairs.assign(over="parameters (millions)", at=pairs["parameters"] * 1e-6, line=apart(pairs)),
        sides.assign(over="image side (pixels)", at=sides["side"], line=sides["model"]),
    ]
    if not all(part.empty for part in along):
        yield over_size(pd.concat([part for part in along if not part.empty], ignore_index=True))


def apart(rows: pd.DataFrame) -> "pd.Series[str]":
    """The batch of each row, for a line each, in the directions in which networks were measured at several.

    Where each network has one batch, nothing: large networks, which need smaller ones, are in one line with the others.
    """
    batches = rows.groupby(["on", "mode", "direction", "variant", "model"])["batch"].transform("nunique")
    return rows["batch"].astype(str).where((batches > 1).groupby(rows["direction"]).transform("any"), "")


def against_rivals(rows: pd.DataFrame) -> Figure:
    """A line a network, a mark a backend: its time over its rival's, and the published ratio where there is one."""
    rows = by_comparison(rows)
    comparisons = options(rows["comparison"], "pairs", STEPS["training"])
    made = {"comparison": choice("comparison", "comparison", comparisons), **choices(rows)}
    del made["suite"], made["direction"]
    colour, shape = looks(rows)
    about_rivals = ("network", "batch", "rival", "ratio", "over_rival", "reason")
    columns = ("comparison", "published", "ratio_low", "ratio_high", "fate", *about_rivals)
    line = alt.Y("network:N", title="network", axis=alt.Axis(labelLimit=480))
    offset = alt.YOffset("variant:N", sort=listed(rows, "variant"))
    base = filtered(rows, made, *columns).encode(y=line, yOffset=offset, color=colour)
    ends = rows[["ratio_low", "ratio_high", "published"]].assign(equal=1.0).astype(float)
    domain = [0.9 * float(ends.min().min()), 1.1 * float(ends.max().max())]
    ratio = alt.X("ratio:Q", title="time over the rival's", scale=alt.Scale(type="log", domain=domain, nice=False))
    timed = base.transform_filter(alt.expr.isValid(alt.datum.ratio))
    known = base.transform_filter(alt.expr.isValid(alt.datum.published))
    failed = base.transform_filter(alt.datum.status != "OK")
    chart = alt.layer(
        alt.Chart(pd.DataFrame({"ratio": [1.0]})).mark_rule(strokeWidth=2).encode(x=ratio),
        known.mark_point(shape="stroke", angle=90, size=150, strokeWidth=3).encode(
            x=alt.X("published:Q"), color=alt.value(INHERIT), tooltip=["network:N", "published:Q"]
        ),
        timed.mark_rule(strokeWidth=2).encode(x=alt.X("ratio_low:Q"), x2="ratio_high:Q"),
        timed.mark_point(filled=True, size=60).encode(x=ratio, shape=shape, tooltip=hover(*about_rivals)),
        failed.mark_text(align="left", fontSize=10).encode(
            x=alt.value(4), text="fate:N", color=alt.value(INHERIT), tooltip=hover("reason")
        ),
    )
    chart = chart.add_params(*made.values()).properties(width=WIDTH - 150, height=alt.Step(13))
    chart = with_legend(chart, base, colour, shape)
    about = (
        "Time of a network's step over that of its rival, taken in turn at the same batch: right of the line at 1 the "
        "rival is faster. Bars are 95 % intervals, thick strokes the published ratio (on TPUv3) where there is one."
    )
    return Figure("rivals", "Networks beside their rivals", about, chart)


def by_comparison(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows once for each group that they belong to, with the published ratio and what hovering shows."""
    groups = rows["groups"].map(lambda groups: groups.split() or ["no group"])
    rows = rows.assign(group=groups).explode("group", ignore_index=True)
    keys = ("model", "rival", "direction", "side")
    return rows.assign(
        comparison=rows["group"] + ", " + rows["direction"].map(STEPS),
        published=pd.Series(map(published.ratio, *(rows[key] for key in keys)), rows.index, dtype=float),
        fate=rows["variant"] + ": " + rows["status"],
        reason=rows["reason"].fillna("none"),
        over_rival=intervals(rows, "ratio_low", "ratio_high"),
    )


def options(names: "pd.Series[str]", *preferred: str) -> list[str]:
    """The names for a drop-down list: those with the preferred words first, then the more frequent ones."""
    counted = [str(name) for name in names.value_counts().index]
    return sorted(counted, key=lambda name: [word not in name for word in preferred])


def over_size(rows: pd.DataFrame) -> Figure:
    """A line a backend or family over parameters or the side of images, any metric."""
    rows = rows.assign(
        short=rows["model"].map(short),
        view=rows["direction"].map(STEPS) + ", " + rows["mode"] + ", over " + rows["over"],
    )
    metric = metric_choice("images_per_s")
    views = options(rows["view"], STEPS["training"], "parameters")
    made = {"view": choice("view", "view", views), **choices(rows)}
    del made["suite"], made["direction"]
    colour, shape = looks(rows)
    base = by_metric(filtered(rows, made, "view", "at", "line", "model", "short", "batch"), metric).encode(
        x=alt.X("at:Q", title=None, scale=alt.Scale(type="log", nice=False, padding=30)),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(type="log", nice=False, padding=20)),
        color=colour,
    )
    # Each network is named once, at its greatest; it and its rival may be at one place.
    named = base.transform_joinaggregate(most="max(value)", groupby=["model", "at"]).transform_filter(
        alt.datum.value == alt.datum.most
    )
    aside = alt.ExprRef(expr=f"datum.backend == '{NO_BACKEND}' ? 12 : -10")
    chart = alt.layer(
        base.mark_line(strokeWidth=1.5).encode(detail="line:N"),
        base.mark_point(filled=True, size=70).encode(shape=shape, tooltip=hover("model", "batch")),
        named.mark_text(dy=aside, fontSize=9).encode(text="short:N", color=alt.value(INHERIT)),
        named_below("split(view, ', over ')[1]"),
    )
    title = metric_title(metric, **BESIDE)
    chart = chart.add_params(*made.values(), metric).properties(width=WIDTH, height=HEIGHT, title=title)
    chart = with_legend(chart, base, colour, shape)
    about = "One line a backend, or a family of models without one, over the parameters or the side of the images."
    return Figure("networks", "Networks over their size", about, chart)

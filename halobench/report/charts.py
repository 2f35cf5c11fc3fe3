"""The charts of a run: over the axes, at the reference point, block by halo, HaloNet's stages, roofline, models."""

from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd

from halobench.figures.scaling import LABELS
from halobench.figures.selection import AXES, in_group, measured, of_the_device, selections
from halobench.records.table import Results
from halobench.report.chart import (
    BELOW,
    BESIDE,
    HEIGHT,
    LOGARITHMIC,
    WIDTH,
    Figure,
    by_metric,
    choice,
    choices,
    chosen,
    filtered,
    hover,
    listed,
    looks,
    metric_choice,
    metric_title,
    named_below,
    with_legend,
)

CELL = 100  # pixels: holds "UNSUPPORTED"
CHECKED = {
    "executed FLOPs over useful FLOPs (GFLOP)": ("useful_gflop", "executed_gflop"),
    "peak memory over its closed form (MiB)": ("closed_form_mib", "peak_mib"),
    "latency over its floor (ms)": ("floor_ms", "median_ms"),
}


def draw(results: Results, every: pd.DataFrame) -> Iterator[Figure]:
    """Every chart of operators and layers that these rows have data for, and the grid, which networks have too."""
    rows = every[every["model"].isna()]
    axes = [(axis, rows[in_group(rows, axis)]) for axis in AXES]
    along = [part.assign(axis=LABELS[axis], at=part[axis]) for axis, part in axes if not measured(part).empty]
    if along:
        yield over_axes(measured(pd.concat(along, ignore_index=True)))
    reference = at_reference(results, rows)
    if not measured(reference).empty:
        yield bars(reference)
    grid = of_the_device(every[in_group(every, "grid") & every["block"].notna() & every["halo"].notna()])
    if not measured(grid).empty:
        yield block_by_halo(grid)
    stages = rows[in_group(rows, "stages") & rows["label"].notna()]
    if not measured(stages).empty:
        yield by_stage(stages)
    if not measured(rows, "intensity").empty:
        yield roofline(results, measured(rows, "intensity"))
    checked = checkable(measured(rows))
    if not checked.empty:
        yield models(checked)


def over_axes(rows: pd.DataFrame) -> Figure:
    """A line a backend over map side, block or halo, any metric."""
    made, metric = choices(rows), metric_choice()
    made["axis"] = choice("axis", "axis", [LABELS[axis] for axis in AXES if LABELS[axis] in set(rows["axis"])])
    colour, shape = looks(rows)
    base = by_metric(filtered(rows, made, "axis", "at"), metric).encode(
        x=alt.X(
            "at:Q",
            title=None,
            scale=alt.Scale(type="symlog", nice=False, padding=15),
            axis=alt.Axis(values=ticks(rows)),
        ),
        color=colour,
    )
    height = alt.Y("value:Q", title=None, scale=LOGARITHMIC)
    interval = base.transform_filter(metric == "median_ms").mark_rule(strokeWidth=2)
    chart = alt.layer(
        base.mark_line(strokeWidth=1.5).encode(y=height, detail="suite:N"),
        interval.encode(y=alt.Y("low_ms:Q", title=None), y2="high_ms:Q"),
        base.mark_point(filled=True, size=70).encode(y=height, shape=shape, tooltip=hover()),
        named_below(made["axis"].name),
    )
    title = metric_title(metric, **BESIDE)
    chart = chart.add_params(*made.values(), metric).properties(width=WIDTH, height=HEIGHT, title=title)
    chart = with_legend(chart, base, colour, shape)
    about = (
        "One line a backend over the side of the map, the block or the halo; bars are 95 % intervals of the latency."
    )
    return Figure("axes", "Over one axis", about, chart)


def ticks(rows: pd.DataFrame) -> list[float]:
    """The values that were measured on any axis."""
    return sorted(float(value) for value in rows["at"].unique())


def at_reference(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at the reference point of each machine and dtype."""
    cases = {(one.machine, one.dtype): set(one.reference["case"]) for one in selections(results)}
    keys = zip(rows["machine"], rows["dtype"], rows["case"], strict=True)
    return rows[pd.Series([case in cases[machine, dtype] for machine, dtype, case in keys], rows.index, dtype=bool)]


def bars(rows: pd.DataFrame) -> Figure:
    """A bar a backend at the reference point, any metric."""
    made, metric = choices(rows, backend=False), metric_choice()
    del made["suite"]
    colour, _ = looks(rows)
    base = by_metric(filtered(measured(rows), made), metric).encode(
        y=alt.Y(
            "variant:N", title="backend", sort=alt.EncodingSortField("value", op="max"), axis=alt.Axis(labelLimit=260)
        ),
        x=alt.X("value:Q", title=None, axis=alt.Axis(tickCount=6)),
        tooltip=hover(),
    )
    bars = base.mark_bar().encode(color=colour)
    numbers = base.mark_text(align="left", dx=4, fontSize=11).encode(text=alt.Text("value:Q", format=".3~g"))
    chart = alt.layer(bars, numbers).add_params(*made.values(), metric)
    chart = chart.properties(width=WIDTH, height=alt.Step(22), title=metric_title(metric, **BELOW))
    about = "One bar a backend at the point where the axes cross, sorted by the chosen metric."
    return Figure("reference", "At the reference point", about, chart)


def block_by_halo(rows: pd.DataFrame) -> Figure:
    """Cells of block and halo for one backend, any metric; a case without a time shows its status."""
    fullest = str(rows["variant"].mode().iloc[0])
    made, metric = choices(rows, backend=False), metric_choice()
    made["variant"] = choice("backend", "backend", listed(rows, "variant"), fullest)
    axes = {
        "x": alt.X("halo:O", title="halo (pixels)", axis=alt.Axis(labelAngle=0)),
        "y": alt.Y("block:O", title="block (pixels)"),
    }
    chart = cells(filtered(rows, made, "block", "halo"), metric, axes)
    chart = chart.add_params(*made.values(), metric).properties(
        width=alt.Step(CELL), height=alt.Step(36), title=metric_title(metric, "Block by halo: ")
    )
    about = "One cell for each block and halo of the chosen backend; cases without a time show their status."
    return Figure("grid", "Block by halo", about, chart)


def by_stage(rows: pd.DataFrame) -> Figure:
    """Cells of backend and HaloNet stage, of one batch."""
    # Lists compare text; beside rows of networks, batches are no whole numbers.
    rows = rows.assign(batch=rows["batch"].astype(int).astype(str))
    made, metric = choices(rows, "batch", backend=False), metric_choice()
    wide = alt.Axis(labelLimit=260)
    axes: dict[str, Any] = {"x": alt.X("variant:N", title="backend", axis=alt.Axis(labelAngle=-40, labelLimit=260))}
    axes["y"] = alt.Y("label:N", title="stage", axis=wide)
    chart = cells(filtered(rows, made, "label", "batch"), metric, axes)
    chart = chart.add_params(*made.values(), metric).properties(
        width=alt.Step(CELL), height=alt.Step(24), title=metric_title(metric, "HaloNet's stages: ")
    )
    about = "One cell for each backend and layer shape of HaloNet; cases without a time show their status."
    return Figure("stages", "The stages of HaloNet", about, chart)


def cells(chart: Any, metric: alt.Parameter, axes: dict[str, Any]) -> Any:
    """A heat map: colour and number are the chosen metric; without one, the status."""
    chart = chart.transform_calculate(
        value=alt.datum[metric],
        text=alt.expr.if_(
            alt.expr.isValid(alt.datum[metric]),
            alt.expr.format(alt.datum[metric], ".3~g"),
            alt.expr.if_(alt.datum.status == "OK", "-", alt.datum.status),
        ),
    ).encode(**axes, tooltip=hover())
    scale = alt.Scale(type="log", scheme="blues")
    painted = chart.transform_filter(alt.expr.isValid(alt.datum.value) & (alt.datum.value > 0))
    return alt.layer(
        chart.mark_rect(opacity=0.08, color="#808080"),
        painted.mark_rect(opacity=0.45).encode(color=alt.Color("value:Q", scale=scale, legend=None)),
        chart.mark_text(fontSize=11).encode(text="text:N"),
    )


def roofline(results: Results, rows: pd.DataFrame) -> Figure:
    """Useful FLOP/s over arithmetic intensity, under the measured ceilings of the chosen machine."""
    made = choices(rows)
    colour, shape = looks(rows)
    x = alt.X("intensity:Q", title="useful FLOP per useful byte", scale=LOGARITHMIC)
    y = alt.Y("useful_tflops:Q", title="useful TFLOP/s", scale=LOGARITHMIC)
    marks = filtered(rows, made, "intensity").mark_point(filled=True, size=55, opacity=0.7)
    lines = (
        alt.Chart(ceilings(results, rows)).transform_filter(chosen("on", made["on"])).mark_line(color="currentColor")
    )
    chart = alt.layer(lines.encode(x=x, y=y), marks.encode(x=x, y=y, color=colour, shape=shape, tooltip=hover()))
    chart = chart.add_params(*made.values()).properties(width=WIDTH, height=HEIGHT)
    chart = with_legend(chart, marks, colour, shape)
    about = (
        "Useful FLOP/s over the problem's arithmetic intensity; the line is what this machine's measured rates allow."
    )
    return Figure("roofline", "Roofline", about, chart)


def ceilings(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """The measured ceilings of each machine and dtype as a line over the range of intensities."""
    records: list[dict[str, object]] = []
    for one in selections(results):
        copy, matmul = one.ceiling("copy_bytes_per_s"), one.ceiling("matmul_flops_per_s")
        on = f"{one.machine}, {one.dtype}"
        at = rows.loc[rows["on"] == on, "intensity"]
        if copy is None or matmul is None or at.empty:
            continue
        ridge = matmul / copy
        for intensity in (min(at.min(), ridge) / 2, ridge, max(at.max(), ridge) * 3):
            tera = min(intensity * copy, matmul) * 1e-12
            records.append({"on": on, "intensity": intensity, "useful_tflops": tera})
    return pd.DataFrame(records, columns=["on", "intensity", "useful_tflops"])


def checkable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows once for each closed form that they have, with what it says (x) and what was measured (y)."""
    parts = [rows.assign(what=what, x=rows[x], y=rows[y]) for what, (x, y) in CHECKED.items()]
    both = pd.concat(parts, ignore_index=True)
    return both[(both["x"] > 0) & (both["y"] > 0)]


def models(both: pd.DataFrame) -> Figure:
    """What was measured or executed, over what the closed forms say."""
    made = choices(both)
    made["what"] = choice("what", "what", list(CHECKED))
    colour, shape = looks(both)
    base = filtered(both, made, "what", "x", "y")
    marks = base.mark_point(filled=True, size=55, opacity=0.7).encode(
        x=alt.X("x:Q", title=None, scale=LOGARITHMIC), y=alt.Y("y:Q", title=None, scale=LOGARITHMIC),
        color=colour, shape=shape, tooltip=hover("what"),
    )  # fmt: skip
    equal = base.transform_aggregate(least="min(x)", most="max(x)").transform_calculate(
        ends="[datum.least, datum.most]"
    )
    line = (
        equal.transform_flatten(["ends"])
        .mark_line(color="currentColor", strokeDash=[4, 4])
        .encode(x="ends:Q", y="ends:Q")
    )
    upright = "split(what, ' over ')[0] + ' ' + slice(what, indexof(what, '('))"
    chart = alt.layer(line, marks, named_below("split(what, ' over ')[1]")).add_params(*made.values())
    title = alt.Title(text=alt.ExprRef(expr=upright), **BESIDE)
    chart = with_legend(chart.properties(width=WIDTH, height=HEIGHT, title=title), base, colour, shape)
    about = "Each mark is a case; the dashed line is where measurement and closed form agree."
    return Figure("models", "Against the closed forms", about, chart)

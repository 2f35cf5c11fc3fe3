"""Runs against one another: the ratio of two, and the history of many."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from halobench.records.table import Results
from halobench.report.chart import ALL, HEIGHT, WIDTH, Figure, choice, chosen, listed, looks, with_legend
from halobench.report.points import environment

MANY = 3
COMPARED = ["case", "variant", "backend", "direction", "suite", "on", "batch"]
DESCRIBED = ["interval", "environment"]


def draw(results: Results, rows: pd.DataFrame) -> Iterator[Figure]:
    """The comparison of two files, or the history of more, where they have cases in common."""
    order = results.by_age
    if len(order) == 2:
        both = ratios(rows, *order)
        if not both.empty:
            yield versus(both, *order)
    elif len(order) >= MANY:
        timed = rows[rows["median_ms"].notna()]
        often = timed[timed.groupby(["on", "case"])["file"].transform("nunique") > 1]
        if not often.empty:
            yield history(results, often.assign(run=often["file"].map(order.index)))


def ratios(rows: pd.DataFrame, base: str, head: str) -> pd.DataFrame:
    """The cases that both files timed on one machine at one batch: head over base, and the interval at its widest."""
    timed = rows.loc[rows["median_ms"].notna(), [*COMPARED, "file", "median_ms", "low_ms", "high_ms", *DESCRIBED]]
    sides = [timed[timed["file"] == file] for file in (base, head)]
    both = sides[0].merge(sides[1], on=COMPARED, suffixes=("_base", "_head"))
    return both.assign(
        ratio=both["median_ms_head"] / both["median_ms_base"],
        ratio_low=both["low_ms_head"] / both["high_ms_base"],
        ratio_high=both["high_ms_head"] / both["low_ms_base"],
    )


def versus(both: pd.DataFrame, base: str, head: str) -> Figure:
    """A mark a case: the ratio of the two latencies over the older one."""
    made = [choice("direction", "direction", [ALL, *listed(both, "direction")])]
    made.append(choice("backend", "backend", [ALL, *listed(both, "variant")]))
    colour, shape = looks(both)
    columns = ["median_ms_base", "median_ms_head", "interval_base", "interval_head", "environment_base"]
    columns += ["environment_head", "ratio", "ratio_low", "ratio_high"]
    base_chart = alt.Chart(both[[*COMPARED, *columns]])
    for column, parameter in zip(("direction", "variant"), made, strict=True):
        base_chart = base_chart.transform_filter(chosen(column, parameter))
    x = alt.X("median_ms_base:Q", title="latency of the older run (ms)", scale=alt.Scale(type="log"))
    points = base_chart.encode(x=x, color=colour)
    tips = [alt.Tooltip(f"{name}:{'Q' if both[name].dtype == float else 'N'}") for name in ("case", *columns)]
    y = alt.Y("ratio:Q", title="newer / older", scale=alt.Scale(type="log", nice=False))
    chart = alt.layer(
        alt.Chart(pd.DataFrame({"ratio": [1.0]})).mark_rule(strokeDash=[4, 4], color="currentColor").encode(y=y),
        points.mark_rule().encode(y=alt.Y("ratio_low:Q", title="newer / older"), y2="ratio_high:Q"),
        points.mark_point(filled=True, size=60).encode(y=y, shape=shape, tooltip=tips),
    )
    chart = chart.add_params(*made).properties(width=WIDTH, height=HEIGHT)
    chart = with_legend(chart, points, colour, shape)
    about = (
        f"Latency of {head} over that of {base}, case by case: above one is slower. Bars span the two 95 % intervals, "
        "which do not cover what differs from run to run; this is a picture, not a verdict."
    )
    return Figure("versus", "Two runs compared", about, chart)


def history(results: Results, rows: pd.DataFrame) -> Figure:
    """A line a backend over the runs, for one task at a time."""
    made = {
        "task": choice("task", "task", listed(rows, "task")),
        "direction": choice("direction", "direction", listed(rows, "direction")),
        "on": choice("on", "measured on", listed(rows, "on")),
        "variant": choice("backend", "backend", [ALL, *listed(rows, "variant")]),
    }
    colour, shape = looks(rows)
    # Thousands of rows: what is the same for a whole run stands in a table of its own.
    base = alt.Chart(rows[[*made, "run", "batch", "median_ms", "low_ms", "high_ms"]])
    for column, parameter in made.items():
        base = base.transform_filter(chosen(column, parameter))
    base = base.transform_lookup("run", alt.LookupData(described(results), "run", ["date", "environment"])).encode(
        x=alt.X("run:O", title="run, the oldest first", axis=alt.Axis(labelAngle=0, labelOverlap=True)), color=colour
    )
    y = alt.Y("median_ms:Q", title="latency (ms)", scale=alt.Scale(zero=False))
    times = [alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("batch", "median_ms", "low_ms", "high_ms")]
    tips = [*(alt.Tooltip(f"{name}:N") for name in ("variant", "task", "direction", "date", "environment")), *times]
    chart = alt.layer(
        base.mark_line().encode(y=y),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low_ms:Q", title="latency (ms)"), y2="high_ms:Q"),
        base.mark_point(filled=True, size=60).encode(y=y, shape=shape, tooltip=tips),
    )
    chart = chart.add_params(*made.values()).properties(width=WIDTH, height=HEIGHT)
    chart = with_legend(chart, base, colour, shape)
    about = "Latency of one task over all runs; hovering names commit, date and file."
    return Figure("history", "History", about, chart)


def described(results: Results) -> pd.DataFrame:
    """What belongs to each run as a whole."""
    headers = [results.headers[file] for file in results.by_age]
    return pd.DataFrame(
        {
            "run": range(len(headers)),
            "date": [header.datetime for header in headers],
            "environment": [environment(header) for header in headers],
        }
    )

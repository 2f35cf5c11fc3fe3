"""How interactive charts look and what can be chosen in them: one config, one set of colours, drop-down lists.

Everything is drawn in ``currentColor`` as SVG, so that the page's colours hold in dark mode and on paper. Names from
results files enter as data only, never as a part of an expression.
"""

import json
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from halobench.figures.networks import RIVAL_LOOKS
from halobench.figures.selection import NO_BACKEND
from halobench.figures.style import INK, styles
from halobench.report.points import METRICS, SHOWN

INHERIT = "currentColor"
ALL = "all"
WIDTH, HEIGHT = 660, 330
AS_AXIS: dict[str, Any] = {"anchor": "middle", "fontSize": 11, "fontWeight": "bold"}
LOGARITHMIC = alt.Scale(type="log", nice=False, padding=15)
BELOW, BESIDE = {"orient": "bottom", **AS_AXIS}, {"orient": "left", **AS_AXIS}  # a title as that of an axis
STAR = "M0-1 .22-.31.95-.31.36.12.59.81 0 .38-.59.81-.36.12-.95-.31-.22-.31Z"
HEXAGON = "M0-1 .87-.5 .87.5 0 1-.87.5-.87-.5Z"
SHAPES = {
    "o": "circle", "s": "square", "v": "triangle-down", "D": "diamond", "^": "triangle-up", "*": STAR, "X": "cross",
    "P": "cross", "<": "triangle-left", ">": "triangle-right", "H": HEXAGON, "p": "arrow", "h": "diamond",
    "d": "triangle-up", "8": "circle",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A chart with its place on the page: a heading, what it shows in a sentence (its alternative text), its spec."""

    name: str
    title: str
    description: str
    chart: Any

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, its data inlined."""
        with alt.data_transformers.enable("default", max_rows=None):
            made: dict[str, Any] = self.chart.properties(description=self.description).configure(**look()).to_dict()
        return made


def look() -> dict[str, Any]:
    """The config of all charts."""
    text = {"labelColor": INHERIT, "titleColor": INHERIT}
    return {
        "background": "transparent",
        "axis": {**text, "gridColor": INHERIT, "gridOpacity": 0.15, "domainColor": INHERIT, "tickColor": INHERIT},
        "header": text,
        "title": {"color": INHERIT, "anchor": "start", "fontWeight": "normal", "fontSize": 13},
        "view": {"stroke": None},
        "text": {"color": INHERIT},
        "rule": {"color": INHERIT},
        "point": {"stroke": INHERIT, "strokeWidth": 0.5},  # an outline, where a dark colour lies on a dark page
    }


def choice(name: str, label: str, options: list[str], value: str | None = None) -> alt.Parameter:
    """A drop-down list. Its value is a parameter that filters compare with a column."""
    return alt.param(
        name=name,
        value=options[0] if value is None else value,
        bind=alt.binding_select(options=options, name=f"{label} "),
    )


def chosen(column: str, parameter: alt.Parameter) -> Any:
    """The filter that keeps the rows whose column has the chosen value, or all of them."""
    return (parameter == alt.datum[column]) | (parameter == ALL)


def metric_choice(value: str = next(iter(METRICS))) -> alt.Parameter:
    """The drop-down list of metrics."""
    return alt.param(
        name="metric",
        value=value,
        bind=alt.binding_select(options=list(METRICS), labels=list(METRICS.values()), name="metric "),
    )


def metric_title(parameter: alt.Parameter, prefix: str = "", **place: Any) -> alt.Title:
    """A title that names the chosen metric; with ``place``, such as ``BESIDE``, it is an axis's."""
    words = "".join(f"{parameter.name} == '{name}' ? '{label}' : " for name, label in METRICS.items())
    return alt.Title(text=alt.ExprRef(expr=f"{json.dumps(prefix)} + ({words}'')"), **place)


def named_below(expression: str) -> Any:
    """A layer that names the horizontal axis by an expression: a title of Vega-Lite's axes cannot name a choice."""
    return (
        alt.Chart(alt.Data(values=[{}]))
        .mark_text(text=alt.ExprRef(expr=expression), fontSize=11, fontWeight="bold", aria=False)
        .encode(x=alt.value(WIDTH / 2), y=alt.value(HEIGHT + 34))
    )


def looks(rows: pd.DataFrame) -> tuple[alt.Color, alt.Shape]:
    """A colour and a shape for each variant, those it has in the drawn figures; ``with_legend`` says whose they are."""
    pairs = rows[["variant", "backend"]].drop_duplicates("variant").sort_values("variant")
    of_backends = styles(rows["backend"])
    domain = list(pairs["variant"])
    looks_of = [
        RIVAL_LOOKS.get(name, of_backends[backend]) if backend == NO_BACKEND else of_backends[backend]
        for name, backend in zip(domain, pairs["backend"], strict=True)
    ]
    colours = [INHERIT if each.colour == INK else each.colour for each in looks_of]
    shapes = [SHAPES[each.marker] for each in looks_of]
    return (
        alt.Color("variant:N", legend=None, scale=alt.Scale(domain=domain, range=colours)),
        alt.Shape("variant:N", legend=None, scale=alt.Scale(domain=domain, range=shapes)),
    )


def with_legend(chart: Any, shown: Any, colour: alt.Color, shape: alt.Shape) -> Any:
    """The chart, and beside it a legend of the variants in ``shown``; one of Vega's lists whatever may be chosen."""
    axis = alt.Axis(orient="right", domain=False, ticks=False, grid=False, labelLimit=260, labelPadding=8)
    legend = (
        alt.Chart(shown.data, transform=shown.transform)
        .transform_aggregate(cases="count()", groupby=["variant"])
        .mark_point(filled=True, size=70, aria=False)
        .encode(y=alt.Y("variant:N", title=None, axis=axis), color=colour, shape=shape)
        .properties(width=12, height=alt.Step(15))
    )
    return alt.hconcat(chart, legend)


def hover(*columns: str) -> list[alt.Tooltip]:
    """What hovering shows: the case, its interval, what it was measured with, and all metrics."""
    metrics = [alt.Tooltip(f"{name}:Q", title=label, format=".4~g") for name, label in METRICS.items()]
    return [*(alt.Tooltip(f"{name}:N") for name in (*SHOWN, *columns)), *metrics]


def data(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The columns that a chart needs, each once; unknown stays null."""
    needed = ["variant", "backend", "direction", "suite", "on", "low_ms", "high_ms", *SHOWN, *METRICS, *columns]
    return rows[list(dict.fromkeys(needed))]


def listed(rows: pd.DataFrame, column: str) -> list[str]:
    """The values of a column in their order, for a drop-down list; whole numbers, as text, by their size."""
    values = {str(value) for value in rows[column].dropna()}
    return sorted(values, key=lambda value: (int(value) if value.isdecimal() else 0, value))


def choices(rows: pd.DataFrame, *more: str, backend: bool = True) -> dict[str, alt.Parameter]:
    """The drop-down lists that most charts have: direction, suite, machine and backend, and ``more``. Columns by name.

    They begin with what most rows have in common, of the operator if it has any, so that no chart begins empty.
    """
    operator = rows[rows["suite"] == "operator"]
    columns = {"direction": "direction", "suite": "suite", "on": "measured on"} | {name: name for name in more}
    counts = (rows if operator.empty else operator).groupby(list(columns), as_index=False).size()
    usual = counts.sort_values("size", ascending=False, kind="stable").iloc[0]
    made = {name: choice(name, label, listed(rows, name), str(usual[name])) for name, label in columns.items()}
    if backend:
        made["variant"] = choice("backend", "backend", [ALL, *listed(rows, "variant")])
    return made


def filtered(rows: pd.DataFrame, made: dict[str, alt.Parameter], *columns: str) -> Any:
    """A chart of the rows that the lists choose."""
    chart = alt.Chart(data(rows, *columns))
    for column, parameter in made.items():
        chart = chart.transform_filter(chosen(column, parameter))
    return chart


def by_metric(chart: Any, metric: alt.Parameter) -> Any:
    """The chart with the chosen metric as ``value``, cases without it left out."""
    return chart.transform_calculate(value=alt.datum[metric]).transform_filter(
        alt.expr.isValid(alt.datum.value) & (alt.datum.value > 0)
    )

"""The page: charts, tables and both libraries in one HTML file that asks the network for nothing."""

import vl_convert
from altair import SCHEMA_VERSION
from jinja2 import Environment, PackageLoader, StrictUndefined

from halobench.figures.selection import network_selections, selections
from halobench.records.table import OK, Results
from halobench.report import charts, headline, network_charts, runs, tables
from halobench.report.points import every, points
from halobench.wording import counted


def page(results: Results) -> str:
    """The HTML of the report. Names from results files stand in it as text or as JSON, escaped for where they stand."""
    rows, newest = every(results), points(results)
    all_of = [*selections(results), *network_selections(results)]
    of_operators = list(charts.draw(results, newest))
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.jinja").render(
        files=sorted(results.headers),
        counted_files=counted(len(results.headers), "file"),
        measured=counted(int((rows["status"] == OK).sum()), "case"),
        failed=int((rows["status"] != OK).sum()),
        headlines=headline.headlines(results),
        figures=[*runs.draw(results, rows), *of_operators, *network_charts.draw(newest)],
        doubts=[f"{one.machine}, {one.dtype}: {doubt}." for one in all_of for doubt in one.doubts],
        with_shares=[figure.name for figure in of_operators],
        failures=tables.failures(newest),
        environments=tables.environments(results),
        cases=tables.cases(rows),
        table_library=tables.library(),
        chart_library=chart_library(),
    )


def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, in the version that the charts are written for."""
    version = ".".join(SCHEMA_VERSION.lstrip("v").split(".")[:2])
    bundle: str = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg] # the stub lacks a default
    return bundle

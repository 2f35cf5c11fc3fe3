"""The page: charts, tables and both libraries in one HTML file that asks the network for nothing."""

import vl_convert
from altair import SCHEMA_VERSION
from jinja2 import Environment, PackageLoader, StrictUndefined

from halobench.records.table import OK, Results
from halobench.report import charts, headline, network_charts, runs, tables
from halobench.report.points import every, points
from halobench.wording import counted


def page(results: Results) -> str:
    """The HTML of the report. Names from results files stand in it as text or as JSON, escaped for where they stand."""
    rows, newest = every(results), points(results)
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.jinja").render(
        files=sorted(results.headers),
        counted_files=counted(len(results.headers), "file"),
        measured=counted(int((rows["status"] == OK).sum()), "case"),
        failed=int((rows["status"] != OK).sum()),
        headlines=headline.headlines(results),
        figures=[*runs.draw(results, rows), *charts.draw(results, newest), *network_charts.draw(newest)],
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

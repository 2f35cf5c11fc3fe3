"""The page's tables: all cases (sortable, a filter a column), failures, and the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import itables
import pandas as pd
from itables.javascript import generate_init_offline_itables_html
from itables.options import dt_bundle

from halobench.figures.selection import commit_of
from halobench.records.table import OK, Header, Results

CASES = {
    "suite": "suite",
    "variant": "backend",
    "direction": "direction",
    "label": "stage",
    "model": "network",
    "mode": "mode",
    "block": "block",
    "halo": "halo",
    "height": "height",
    "width": "width",
    "batch": "batch",
    "heads": "heads",
    "ranks": "ranks",
    "grid": "grid",
    "status": "status",
    "median_ms": "median ms",
    "low_ms": "low ms",
    "high_ms": "high ms",
    "host_ms": "host ms",
    "peak_mib": "peak MiB",
    "floor_percent": "floor %",
    "floor_doubted": "floor doubted",
    "energy_joules": "joules",
    "images_per_s": "images/s",
    "rival": "rival",
    "ratio": "over rival",
    "efficiency": "efficiency",
    "exposed_ms": "exposed ms",
    "on": "measured on",
    "commit": "commit",
    "file": "file",
    "case": "case",
}
DIGITS = 4
PAGES: list[int | str | Mapping[str, Any]] = [15, 50, 200, {"label": "all", "value": -1}]


@dataclass(frozen=True)
class Plain:
    """A table of text: a caption, column heads and lines."""

    caption: str
    head: list[str]
    lines: list[list[str]]


def cases(rows: pd.DataFrame) -> str:
    """All rows as a table that sorts, searches and filters by column. The text in it is escaped by itables."""
    shown = rows[[name for name in CASES if rows[name].notna().any()]].rename(columns=CASES)
    if len(rows):  # a run that was killed before its first case has no row
        shown["commit"] = shown["commit"].str.removeprefix("commit ")
    for name in shown.columns:
        if shown[name].dtype == float:
            shown[name] = shown[name].map(lambda value: float(f"{value:.{DIGITS}g}"))
        elif not pd.api.types.is_numeric_dtype(shown[name]):
            shown[name] = shown[name].fillna("")
    with pd.option_context("display.float_format", lambda value: "" if pd.isna(value) else f"{value:.{DIGITS}g}"):
        return itables.to_html_datatable(
            shown,
            connected=False,
            maxBytes=0,
            maxRows=0,
            maxColumns=0,
            showIndex=False,
            column_filters="footer",
            display_logo_when_loading=False,
            allow_html=False,
            layout={"topStart": "pageLength", "topEnd": "search", "bottomStart": "info", "bottomEnd": "paging"},
            lengthMenu=PAGES,
            pageLength=15,
            scrollX=True,
            deferRender=True,
            autoWidth=False,
            classes="display compact nowrap",
            table_id="cases-table",
            text_in_header_can_be_selected=False,
        )


def library() -> str:
    """The table's JavaScript and style, inlined once a page."""
    return generate_init_offline_itables_html(dt_bundle)


def failures(rows: pd.DataFrame) -> Plain:
    """The cases without a time, those of one reason together."""
    columns = ["suite", "variant", "direction", "status", "reason"]
    failed = rows[rows["status"] != OK].fillna({"reason": ""})
    lines = [
        [*map(str, values), str(len(of)), str(of["case"].min())] for values, of in failed.groupby(columns, sort=True)
    ]
    return Plain("Cases without a time", [*columns, "cases", "the first"], lines)


def environments(results: Results) -> Plain:
    """What each file was measured on and with."""
    order = [(file, results.headers[file]) for file in reversed(results.by_age)]
    described = [environment(header) for _, header in order]
    names = dict.fromkeys(name for one in described for name in one)
    lines = [[name, *(one.get(name, "unknown") for one in described)] for name in names]
    return Plain("A column a file, the newest first", ["", *(file for file, _ in order)], lines)


def environment(header: Header) -> dict[str, str]:
    """A file's machine, software and commit by name."""
    found = header.fingerprint
    flat = {**leaves(found.get("gpu"), "gpu"), **leaves(found.get("cpu"), "cpu")}
    flat |= {name: str(found[name]) for name in ("system", "python", "torch", "cuda", "triton") if found.get(name)}
    flat |= leaves(found.get("packages"), "") | ceilings(header)
    flat |= {"load": loaded(header), "the run": "finished" if header.complete else "did not finish"}
    return {"date": header.datetime or "unknown", "commit": commit_of(header), "tier": header.tier, **flat}


def loaded(header: Header) -> str:
    """Under what load a file was begun, and how many of its rows something else disturbed."""
    before, after = (header.load.get(name) or {} for name in ("before", "after"))
    if not isinstance(before, dict) or not isinstance(after, dict) or not before:
        return "unknown"
    cores = before.get("cores")
    said = f"{before.get('average')} on {cores} {'core' if cores == 1 else 'cores'} at the start"
    said += f", {before['by']}" if before.get("by") else ""
    return f"{said}; {after.get('disturbed_rows')} of {after.get('timed_rows')} rows disturbed" if after else said


def ceilings(header: Header) -> dict[str, str]:
    """A file's ceilings by name, each with the call that reached it."""
    plain = {name: value for name, value in header.ceilings.items() if not isinstance(value, dict)}
    return leaves(plain, "") | leaves(header.ceilings.get("routes"), "ceiling of")


def leaves(part: Any, prefix: str) -> dict[str, str]:
    """The known values of an object of the fingerprint, as text."""
    items = part.items() if isinstance(part, dict) else ()
    text = {f"{prefix} {name}".strip().replace("_", " "): value for name, value in items if value is not None}
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in text.items()}

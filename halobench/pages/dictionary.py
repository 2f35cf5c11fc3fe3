"""The dictionary of all columns as tables of a page, made from where the columns are defined."""

from collections.abc import Mapping

from halobench.figures.summary import markdown
from halobench.records import columns
from halobench.records.columns import NEVER, Column
from halobench.records.fields import FIELDS, NETWORK_FIELDS, SHARED, Field
from halobench.report.tables import CASES

OWN = {name: field for name, field in NETWORK_FIELDS.items() if name not in SHARED}
TABLES: dict[str, Mapping[str, Field] | Mapping[str, Column]] = {
    "of-the-file": columns.OF_THE_FILE,
    "rows": FIELDS,
    "networks": OWN,
    "summed-up": columns.DOUBT | columns.SUMMED_UP,
    "beside": columns.BESIDE,
    "section": columns.SECTION,
    "exported": columns.EXPORTED,
    "curves": columns.CURVES,
    "precision": columns.PRECISION,
    "times": columns.TIMES,
    "kernels": columns.KERNELS,
    "memory": columns.MEMORY,
    "page": {head: columns.PAGE.get(head, Column(f"`{name}`", "as there", "as there")) for name, head in CASES.items()}
    | columns.PAGE,
}


def table(name: str) -> str:
    """The columns of a table: name, unit, meaning and what null means; of rows also where they stand and come from."""
    fields = {column: field for column, field in TABLES[name].items() if isinstance(field, Field)}
    if fields:
        head = ["column", "in a row", "unit", "meaning", "made in", "null means"]
        return markdown(head, [of_field(column, field) for column, field in fields.items()])
    others = {column: each for column, each in TABLES[name].items() if isinstance(each, Column)}
    lines = [[f"`{column}`", each.unit or "-", each.meaning, each.null] for column, each in others.items()]
    return markdown(["column", "unit", "meaning", "null means"], lines)


def of_field(column: str, field: Field) -> list[str]:
    """The line of a column of rows."""
    made, null = f"`{field.made}`", field.null or NEVER
    return [f"`{column}`", f"`{field.path}`", field.unit or "-", field.meaning, made, null]

"""The schema of results files: what a row may hold, and its checks.

Any leaf may be null, which means unknown; what is there must be possible, in this world and in figures of it.
``FIELDS`` is the whole schema of a row.
"""

from dataclasses import dataclass
from typing import Any, Literal

SCHEMA_VERSION = 1
OK = "OK"
STATUSES = (OK, "OOM", "UNSUPPORTED", "MISSING", "INCORRECT", "TIMEOUT", "CRASHED")
DIRECTIONS = ("forward", "training")
LARGEST, SMALLEST, MOST = 1e30, 1e-30, 2**31 - 1  # of numbers, of positive ones, of counts

Json = dict[str, Any]
Kind = Literal["text", "flag", "count", "number", "positive"]


class ResultsError(ValueError):
    """A results file that cannot be used; the message is one line that names the file and what is wrong."""


@dataclass(frozen=True)
class Field:
    """Where a column of the table stands in a row of a results file, what may stand there, and whether it must."""

    path: str
    kind: Kind
    required: bool = False


FIELDS = {
    "suite": Field("suite", "text", required=True),
    "case": Field("case", "text", required=True),
    "backend": Field("backend", "text", required=True),
    "direction": Field("direction", "text", required=True),
    "label": Field("label", "text"),
    "block": Field("problem.geometry.block", "count", required=True),
    "halo": Field("problem.geometry.halo", "count", required=True),
    "stride": Field("problem.geometry.stride", "count", required=True),
    "border": Field("problem.geometry.border", "text", required=True),
    "height": Field("problem.height", "count", required=True),
    "width": Field("problem.width", "count", required=True),
    "batch": Field("problem.batch", "count", required=True),
    "heads": Field("problem.heads", "count", required=True),
    "key_dim": Field("problem.key_dim", "count", required=True),
    "value_dim": Field("problem.value_dim", "count", required=True),
    "relative": Field("problem.relative", "flag", required=True),
    "dtype": Field("problem.dtype", "text", required=True),
    "channels": Field("layer.channels", "count"),
    "positions": Field("layer.positions", "text"),
    "kernel": Field("layer.kernel", "count"),
    "device": Field("device", "text", required=True),
    "status": Field("status", "text", required=True),
    "reason": Field("reason", "text"),
    "median_ms": Field("latency.median_ms", "positive"),
    "low_ms": Field("latency.low_ms", "positive"),
    "high_ms": Field("latency.high_ms", "positive"),
    "host_ms": Field("latency.host_ms", "positive"),
    "noise": Field("latency.noise", "number"),
    "outliers": Field("latency.outliers", "count"),
    "exposed": Field("latency.exposed", "count"),
    "peak_bytes": Field("memory.peak_bytes", "number"),
    "closed_form_bytes": Field("memory.closed_form_bytes", "number"),
    "useful_flops": Field("cost.useful_flops", "number"),
    "executed_flops": Field("cost.executed_flops", "number"),
    "fvcore_flops": Field("cost.fvcore_flops", "number"),
    "torch_flops": Field("cost.torch_flops", "number"),
    "useful_bytes": Field("cost.useful_bytes", "number"),
    "executed_bytes": Field("cost.executed_bytes", "number"),
    "useful_exponentials": Field("cost.useful_exponentials", "number"),
    "executed_exponentials": Field("cost.executed_exponentials", "number"),
    "floor_ms": Field("floor.ms", "number"),
    "floor_share": Field("floor.share", "number"),
    "bound": Field("floor.bound", "text"),
    "energy_joules": Field("energy_joules", "number"),
    "sm_mhz": Field("clock.sm_mhz", "number"),
    "throttled": Field("clock.throttled", "flag"),
    # Who else was at work meanwhile; ``halobench.machine.load.Load`` says what each is.
    "load_average": Field("load.average", "number"),
    "load_cores": Field("load.cores", "number"),
    "others_cores": Field("load.others_cores", "number"),
    "stolen_cores": Field("load.stolen_cores", "number"),
    "throttled_cores": Field("load.throttled_cores", "number"),
    "cpu_mhz": Field("load.cpu_mhz", "number"),
    "gpu_processes": Field("load.gpu_processes", "count"),
    "gpu_share": Field("load.gpu_share", "number"),
    "disturbed": Field("load.disturbed", "flag"),
    "disturbed_by": Field("load.by", "text"),
    "warmup_s": Field("seconds.warmup", "number"),
    "measured_s": Field("seconds.measured", "number"),
    "harness_s": Field("seconds.harness", "number"),
}
SHARED = (
    "suite", "case", "backend", "direction", "label", "device", "status", "reason", "median_ms", "low_ms", "high_ms",
    "host_ms", "noise", "outliers", "peak_bytes", "energy_joules", "sm_mhz", "throttled", "load_average", "load_cores",
    "others_cores", "stolen_cores", "throttled_cores", "cpu_mhz", "gpu_processes", "gpu_share", "disturbed",
    "disturbed_by", "warmup_s", "measured_s", "harness_s",
)  # fmt: skip
# The schema of a row about a whole network: it has ``network`` where others have ``problem``.
NETWORK_FIELDS = {name: FIELDS[name] for name in SHARED} | {
    "model": Field("network.model", "text", required=True),
    "side": Field("network.side", "count", required=True),
    "dtype": Field("network.dtype", "text", required=True),
    "compiled": Field("network.compiled", "flag", required=True),
    "captured": Field("network.captured", "flag"),
    "label_smoothing": Field("network.label_smoothing", "number"),
    "magnitude": Field("network.magnitude", "count"),
    "block": Field("network.overrides.block", "text"),
    "halo": Field("network.overrides.halo", "text"),
    "rival": Field("rival", "text"),
    "batch": Field("throughput.batch", "count"),
    "parameters": Field("throughput.parameters", "count"),
    "images_per_s": Field("throughput.images_per_s", "positive"),
    "joules_per_image": Field("throughput.joules_per_image", "number"),
    "replayed": Field("latency.replayed", "flag"),
    "first_step_s": Field("throughput.first_step_s", "number"),
    "resident_bytes": Field("memory.resident_bytes", "number"),
    "rival_ms": Field("paired.rival_median_ms", "positive"),
    "ratio": Field("paired.ratio", "positive"),
    "ratio_low": Field("paired.ratio_low", "positive"),
    "ratio_high": Field("paired.ratio_high", "positive"),
}
# The columns of the tables: those of the whole file, those of a row, whether a time of the same file is below its floor
# (then all its shares are too high), and two that sum up a list of the row.
OF_THE_FILE = ("file", "machine", "torch", "commit", "dirty", "declared", "tier")
COLUMNS = (*OF_THE_FILE, *FIELDS, "floor_doubted", "groups", "samples")
NETWORK_COLUMNS = (*OF_THE_FILE, *NETWORK_FIELDS, "groups", "samples")
EXPECTED = {
    "text": "text",
    "flag": "true or false",
    "count": f"an integer of at least 0, at most {MOST}",
    "number": f"a finite number of at least 0, at most {LARGEST:g}",
    "positive": f"a finite number above 0, {SMALLEST:g} to {LARGEST:g}",
}


def check_version(section: Json) -> None:
    """Refuse a file of another schema."""
    if section.get("schema") != SCHEMA_VERSION:
        raise ResultsError(f"schema version {shown(section.get('schema'))}, this halobench reads {SCHEMA_VERSION}")


def about_network(row: Any) -> bool:
    """Whether a row is about a whole network."""
    return isinstance(row, dict) and "network" in row


def checked_row(row: Any) -> Json:
    """The columns of a row, checked one by one and against one another: those of a network or of a problem.

    Raises:
        ResultsError: a required column is missing, or a value is impossible.
    """
    if not isinstance(row, dict):
        raise ResultsError(f"a row must be an object, got {shown(row)}")
    name = f"case {shown(row.get('case'))}"
    fields = NETWORK_FIELDS if about_network(row) else FIELDS
    columns = {column: checked(row, field, name) for column, field in fields.items()}
    for column, choices in (("status", STATUSES), ("direction", DIRECTIONS)):
        if columns[column] not in choices:
            raise ResultsError(f"{name}: {column} must be one of {', '.join(choices)}, got {shown(columns[column])}")
    if columns["status"] != OK and columns["median_ms"] is not None:
        raise ResultsError(f"{name}: status {columns['status']} with a latency of {columns['median_ms']} ms")
    groups = listed(row.get("groups"), f"{name}: groups")
    if not all(isinstance(group, str) for group in groups):
        raise ResultsError(f"{name}: groups must be a list of text, got {shown(groups)}")
    return {**columns, "groups": " ".join(groups)}


def checked(row: Json, field: Field, name: str) -> Any:
    """The value of one field of a row."""
    value: Any = row
    for key in field.path.split("."):
        if value is None:
            break
        if not isinstance(value, dict):
            raise ResultsError(f"{name}: {field.path} must be inside an object, got {shown(value)}")
        value = value.get(key)
    if value is None and not field.required:
        return None
    if not fits(value, field.kind):
        raise ResultsError(f"{name}: {field.path} must be {EXPECTED[field.kind]}, got {shown(value)}")
    return value


def fits(value: Any, kind: Kind) -> bool:
    """Whether the value is of this kind. NaN, infinity and what is beyond all measure fit no kind of number."""
    if kind in ("text", "flag"):
        return isinstance(value, str if kind == "text" else bool)
    if isinstance(value, bool) or not isinstance(value, int if kind == "count" else int | float):
        return False
    least, most = (SMALLEST if kind == "positive" else 0), (MOST if kind == "count" else LARGEST)
    return bool(least <= value <= most)


def listed(value: Any, name: str) -> list[Any]:
    """The value, which must be a list."""
    if not isinstance(value, list):
        raise ResultsError(f"{name} must be a list, got {shown(value)}")
    return value


def section(value: Any, name: str) -> Json:
    """The value, which must be an object; null is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ResultsError(f"{name} must be an object, got {shown(value)}")
    return value


def text(value: Any, name: str) -> str | None:
    """The value, which must be text or null."""
    if value is not None and not isinstance(value, str):
        raise ResultsError(f"{name} must be text, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """The value in one short line of a message."""
    line = repr(value)
    return line if len(line) <= 80 else f"{line[:77]}..."

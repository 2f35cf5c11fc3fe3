"""Heat maps: latency over block and halo, a panel a backend; and the share of the floor at HaloNet's stages."""

import math
from collections.abc import Callable

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from halobench.figures.scale import colour_bar, three_digits
from halobench.figures.scaling import in_order
from halobench.figures.selection import SHAPE, Drawn, Selection, held, measured, most_common
from halobench.figures.style import FAINT, INK, canvas
from halobench.records.table import OK

SHORT = {
    "OOM": "OOM",
    "UNSUPPORTED": "unsup.",
    "MISSING": "miss.",
    "INCORRECT": "wrong",
    "TIMEOUT": "timeout",
    "CRASHED": "crash",
}
UNMEASURED = "·"
COLUMNS = 2  # panels side by side


def draw_grid(selection: Selection) -> Drawn:
    """Latency over block x halo: the rows of group "grid" and all others of the same shape."""
    for direction, everything in selection.rows("operator").groupby("direction"):
        name = f"grid-{direction}"
        shape = most_common(selection.rows("operator", "grid", str(direction)), list(SHAPE))[list(SHAPE)]
        if shape.empty:
            yield name, "no operator rows of group 'grid'"
            continue
        rows = everything.merge(shape.drop_duplicates(), on=list(SHAPE)).drop_duplicates(["variant", "block", "halo"])
        if measured(rows).empty:
            yield name, "no operator case of group 'grid' was measured"
        else:
            yield name, block_by_halo(selection, rows, str(direction))


def block_by_halo(selection: Selection, rows: pd.DataFrame, direction: str) -> Figure:
    """A panel a variant, one colour scale for all; failures are named in their cells."""
    names = in_order(selection, rows)
    blocks, halos = sorted(rows["block"].unique()), sorted(rows["halo"].unique())
    columns = min(COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    width = max(5.0, columns * (0.9 + 0.42 * len(halos)) + 1.2)
    title = f"Latency (ms) over block and halo, {direction}"
    subtitle = held(rows, but=("block", "halo")) + without_number(rows, len(names) * len(blocks) * len(halos))
    figure = canvas(width, 0.9 + lines * (0.75 + 0.26 * len(blocks)), title, subtitle, selection.footer(rows))
    grid = figure.add_gridspec(lines, columns)
    norm = scale_of(rows)
    panels = []
    for number, name in enumerate(names):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        panel = rows[rows["variant"] == name]
        # A second row for a cell must raise; ``pivot_table`` would average the two.
        table = panel.pivot(index="block", columns="halo", values="median_ms")  # noqa: PD010
        table = table.reindex(index=blocks, columns=halos)
        cells(axes, table, failures(panel, "block", "halo"), norm, three_digits)
        axes.set_title(name, fontsize=9, color=INK)
        axes.set_xlabel("halo (pixels)" if number + columns >= len(names) else "")
        axes.set_ylabel("block (pixels)" if number % columns == 0 else "")
        panels.append(axes)
    colour_bar(figure, panels[0].collections[0], panels, "latency (ms)")
    return figure


def scale_of(rows: pd.DataFrame) -> LogNorm:
    """Colours for the latencies of these rows, over a factor of two at least: little differences look little."""
    times = measured(rows)["median_ms"]
    return LogNorm(times.min(), max(times.max(), 2 * times.min()))


def draw_stages(selection: Selection, suite: str) -> Drawn:
    """The share of the floor per backend and HaloNet stage; a figure a batch, since shares grow with it."""
    stages = selection.rows(suite, "stages")
    stages = stages[stages["label"].notna()]
    if stages.empty:
        yield "stages", f"no {suite} rows of group 'stages'"
    several = len(stages["batch"].unique()) > 1
    for (direction, batch), rows in stages.groupby(["direction", "batch"]):
        name = f"stages-{direction}" + f"-n{batch}" * several
        if measured(rows, "floor_share").empty:
            yield name, f"no {suite} case of group 'stages' has a floor"
            continue
        yield name, stage_shares(selection, rows, f"{suite}, {direction}, batch {batch}")


def stage_shares(selection: Selection, rows: pd.DataFrame, what: str) -> Figure:
    """A line a stage, a column a variant, the share of the floor in per cent."""
    rows = rows.sort_values("case").drop_duplicates(["label", "variant"]).assign(percent=100 * rows["floor_share"])
    labels, names = sorted(rows["label"].unique()), in_order(selection, rows)
    width, height = max(6.5, 2.6 + 0.72 * len(names)), 2.2 + 0.27 * len(labels)
    title = f"HaloNet's stages, {what}: share of the floor"
    subtitle = "floor / median latency in %: 100 is what this machine's measured ceilings allow"
    subtitle += without_number(rows, len(labels) * len(names))
    figure = canvas(width, height, title, subtitle, selection.footer(rows, shares=True))
    axes = figure.add_subplot()
    table = rows.pivot(index="label", columns="variant", values="percent")  # noqa: PD010 - as above
    table = table.reindex(index=labels, columns=names)
    norm = LogNorm(max(0.1, min(10, rows["percent"].min())), max(100, rows["percent"].max()))
    cells(axes, table, failures(rows, "label", "variant"), norm, percent)
    axes.set_xlabel("")
    axes.set_ylabel("")
    axes.set_xticklabels([name.replace(" (", "\n(") for name in names], rotation=35, ha="right", rotation_mode="anchor")
    colour_bar(figure, axes.collections[0], [axes], "share of the floor (%)")
    return figure


def cells(axes: Axes, table: pd.DataFrame, failed: pd.DataFrame, norm: LogNorm, form: Callable[[float], str]) -> None:
    """The table as coloured cells, each with its number; a failed cell is grey and says why."""
    sns.heatmap(
        table.astype(float),
        ax=axes,
        norm=norm,
        vmin=norm.vmin,  # seaborn would look for them in the numbers, and a backend may have failed everywhere
        vmax=norm.vmax,
        cmap="viridis_r",
        cbar=False,
        linewidths=0.6,
        linecolor="white",
    )
    axes.set_facecolor("#f4f4f4")
    axes.grid(visible=False)
    axes.tick_params(rotation=0, labelsize=8, length=0)
    numbers = table.to_numpy(dtype=float)
    colours = mpl.colormaps["viridis_r"]
    for row, line in enumerate(table.index):
        for column, head in enumerate(table.columns):
            value = numbers[row, column]
            centre = (column + 0.5, row + 0.5)
            status = failed[(failed["row"] == line) & (failed["column"] == head)]["status"]
            if not math.isnan(value):
                ink = readable_on(colours(float(norm(value))))
                axes.text(*centre, form(value), ha="center", va="center", size=8, color=ink)
            elif len(status):
                axes.add_patch(mpl.patches.Rectangle((column, row), 1, 1, facecolor="#d9d9d9", edgecolor="white"))
                axes.text(*centre, SHORT[status.iloc[0]], ha="center", va="center", size=7, color=INK)
            else:
                axes.text(*centre, UNMEASURED, ha="center", va="center", size=7, color=FAINT)


def without_number(rows: pd.DataFrame, places: int) -> str:
    """What stands in those of so many cells that have no number, for the end of a subtitle."""
    said = [f"{UNMEASURED} not measured"] * (len(rows) < places)
    said += [
        f"{short} {status}" for status, short in SHORT.items() if short != status and (rows["status"] == status).any()
    ]
    return f". In cells: {', '.join(said)}" if said else ""


def readable_on(colour: tuple[float, float, float, float]) -> str:
    """White or ink, whichever stands out more: the measure is WCAG 2.2's contrast ratio, of relative luminances."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.066 else INK  # 0.066: ink's, so raised


def failures(rows: pd.DataFrame, row: str, column: str) -> pd.DataFrame:
    """The failed cells: row, column and status."""
    return rows[rows["status"] != OK][[row, column, "status"]].set_axis(["row", "column", "status"], axis=1)


def percent(value: float) -> str:
    """A share in two digits."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"

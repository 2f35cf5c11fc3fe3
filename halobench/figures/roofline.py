"""The roofline: useful FLOP/s over the arithmetic intensity of the problem, under the machine's measured ceilings.

Both axes count useful work: the FLOPs that a correct answer needs, over the bytes that must move at least once. Work
that a backend adds (padding, copies, recomputation) moves its marks down and never to the right.
"""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from halobench.figures.scale import plain_log
from halobench.figures.scaling import in_order, lines
from halobench.figures.selection import Drawn, Selection, measured
from halobench.figures.style import INK, canvas, entry, legend

FLOOR = "floor of the problem, its exponentials among its work"


def draw(selection: Selection) -> Drawn:
    """A figure per direction with every operator case on it; the reference point is drawn large."""
    copy, matmul = selection.ceiling("copy_bytes_per_s"), selection.ceiling("matmul_flops_per_s")
    for direction, rows in selection.rows("operator").groupby("direction"):
        name = f"roofline-{direction}"
        known = measured(rows)
        known = known[(known["useful_flops"] > 0) & (known["useful_bytes"] > 0)]
        if copy is None or matmul is None:
            yield name, "the results hold no measured ceilings for this machine and dtype"
        elif known.empty:
            yield name, "no operator case has a time, useful FLOPs and useful bytes"
        else:
            yield name, roofline(selection, known, copy, matmul, str(direction))


def roofline(selection: Selection, rows: pd.DataFrame, copy: float, matmul: float, direction: str) -> Figure:
    """The ceilings, a mark a case, and the floor of each problem as a dash."""
    rows = rows.assign(
        intensity=rows["useful_flops"] / rows["useful_bytes"],
        tera=rows["useful_flops"] / rows["median_ms"] * 1e-9,
        allowed=rows["useful_flops"] / rows["floor_ms"].where(rows["floor_ms"] > 0) * 1e-9,
    )
    title = f"Roofline, operator, {direction}"
    subtitle = (
        "useful FLOPs over useful bytes: what the answer needs, not what a backend does. Large marks: reference point"
    )
    figure = canvas(9, 5.8, title, subtitle, selection.footer(rows, shares=True))
    axes = figure.add_subplot()
    ceilings(axes, rows, copy * 1e-12, matmul * 1e-12)
    reference = set(selection.reference["case"])
    for name in in_order(selection, rows):
        of = rows[rows["variant"] == name]
        style = selection.styles[of["backend"].iloc[0]]
        large = of["case"].isin(reference)
        for part, size, alpha in ((of[~large], 16 * style.scale, 0.45), (of[large], 80 * style.scale, 1.0)):
            axes.scatter(
                part["intensity"], part["tera"], color=style.colour, marker=style.marker, s=size, alpha=alpha,
                edgecolor="white", linewidth=0.4, zorder=3 if alpha == 1 else 2, label=name,
            )  # fmt: skip
    floors = rows.dropna(subset=["allowed"]).drop_duplicates(["intensity", "allowed"])
    axes.scatter(floors["intensity"], floors["allowed"], color=INK, marker="_", s=50, linewidth=1.2, label=FLOOR)
    axes.set_xlabel("arithmetic intensity (useful FLOP / useful byte)")
    axes.set_ylabel("achieved useful TFLOP/s")
    handles = [entry(selection.styles[backend], name, "") for backend, name, _ in lines(selection, rows)]
    dash = Line2D([], [], color=INK, marker="_", linestyle="", markersize=7, label=FLOOR)
    legend(figure, [*handles, dash])
    return figure


def ceilings(axes: Axes, rows: pd.DataFrame, copy: float, matmul: float) -> None:
    """The two ceilings, in TB/s and TFLOP/s, over the range of the cases and their meeting point."""
    ridge = matmul / copy
    left = min(rows["intensity"].min(), ridge) / 2
    right = max(rows["intensity"].max(), ridge) * 3
    axes.plot([left, ridge, right], [left * copy, matmul, matmul], color=INK, linewidth=1.6, zorder=1)
    bottom = min(rows["tera"].min() / 2, left * copy)
    plain_log(axes, "x", "y")
    axes.set(xlim=(left, right), ylim=(bottom, matmul * 4))
    axes.text(right / 1.05, matmul * 1.1, f"matmul {matmul:.3g} TFLOP/s", ha="right", va="bottom", size=8, color=INK)
    # A line through the origin has slope one on logarithmic axes; the text follows it.
    axes.text(
        left * 1.15, left * 1.15 * copy * 1.2, f"copy {copy:.3g} TB/s", size=8, color=INK, va="bottom",
        rotation=math.degrees(math.atan(copy)), rotation_mode="anchor", transform_rotates_text=True,
    )  # fmt: skip

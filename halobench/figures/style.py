"""How figures look: a colour and a marker per backend, marks of failures, the footer, the same bytes every time."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import matplotlib as mpl
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from halobench.records.table import OK, STATUSES

LineStyle = Literal["-", "--", ""]
DPI = 130
EDGE, TITLES, FOOTER = 0.1, 0.55, 0.24  # inches
INK = "#222222"
FAINT = "#8c8c8c"


@dataclass(frozen=True)
class Style:
    """A backend's colour (as ``#rrggbb``) and marker."""

    colour: str
    marker: str


def darker(colour: str) -> str:
    """The same hue with less light."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return mpl.colors.to_hex((0.6 * red, 0.6 * green, 0.6 * blue))


# Seaborn's colour-blind safe palette; its yellow is too pale for lines on white and is left out.
BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, PINK, GREY, _, SKY = (
    mpl.colors.to_hex(colour) for colour in sns.color_palette("colorblind", 10)
)
KNOWN = {
    "naive_unfold": Style(GREY, "o"),
    "strided_gather": Style(BROWN, "s"),
    "compiled": Style(PINK, "v"),
    "sdpa": Style(ORANGE, "D"),
    "flex": Style(GREEN, "^"),
    "fused_cuda": Style(RED, "*"),
    "fused": Style(darker(RED), "H"),
    "timm_halo": Style(PURPLE, "X"),
    "lucidrains": Style(SKY, "P"),
    "global_sa": Style(INK, "<"),
    "conv": Style(BLUE, ">"),
    "none": Style(INK, "o"),  # models without attention slots
}
# Strangers get the same hues darkened, and markers that no known backend has.
DARK = [darker(colour) for colour in (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY)]
SPARE = [Style(*pair) for pair in product(DARK, ("p", "h", "d", "8"))]


def letter(status: str) -> Outline:
    """The first letter as a mark: what failed must not look like a measurement of a backend."""
    path = TextPath((0, 0), status[0], prop=FontProperties("DejaVu Sans"))
    box = path.get_extents()
    return path.transformed(Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2))


FAILURES = {status: letter(status) for status in STATUSES if status != OK}


def styles(backends: Iterable[str]) -> dict[str, Style]:
    """The look of each backend. One that is not ``KNOWN`` draws its look from its name, so that it keeps it."""
    present = set(backends)
    chosen = {name: look for name, look in KNOWN.items() if name in present}
    free = list(SPARE)
    for name in sorted(present - set(KNOWN)):
        free = free or list(SPARE)  # more strangers than looks: they share
        chosen[name] = free.pop(crc32(name.encode()) % len(free))
    return chosen


@contextmanager
def look() -> Iterator[None]:
    """The settings that all figures are drawn and saved under, whatever the user's own are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
            mpl.rcParams["svg.hashsalt"] = "halobench"  # SVG ids are random without
            mpl.rcParams["legend.frameon"] = False
            mpl.rcParams["grid.color"] = "#e4e4e4"
            yield


def canvas(width: float, height: float, title: str, subtitle: str, footer: str) -> Figure:
    """An empty figure of this size in inches, wider if a line needs it, with titles and footer, and room for them."""
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    lines = [
        figure.text(0, 1 - 0.09 / height, title, size=11, weight="bold", va="top", color=INK),
        figure.text(0, 1 - 0.32 / height, subtitle, size=8.5, va="top", color=INK),
        figure.text(0, 0.06 / height, footer, size=7, va="bottom", color="#555555"),
    ]
    widest = max(line.get_window_extent().width for line in lines) / figure.dpi
    width = max(width, widest + 2 * EDGE)
    figure.set_size_inches(width, height)
    for line in lines:
        line.set_x(EDGE / width)
    keep(figure, FOOTER)
    return figure


def keep(figure: Figure, bottom: float) -> None:
    """Keep the panels out of the titles and this many inches at the bottom."""
    width, height = figure.get_size_inches()
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(EDGE / width, bottom / height, 1 - 2 * EDGE / width, 1 - (bottom + TITLES) / height))


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend between the panels and the footer, in as many columns as fit; the figure grows by its height."""
    # Constrained layout makes no room for a legend that stands above a footer, so the room is measured here.
    width, height = figure.get_size_inches()
    for columns in range(len(handles), 0, -1):
        made = figure.legend(handles=handles, loc="lower left", ncols=columns, fontsize=8, borderaxespad=0)
        extent = made.get_window_extent()
        if extent.width / figure.dpi <= width - 2 * EDGE or columns == 1:
            break
        made.remove()
    room = extent.height / figure.dpi
    for text in figure.texts:  # their places are in shares of a height that is about to change
        x, y = text.get_position()
        inches = y * height if y < 0.5 else y * height + room
        text.set_position((x, inches / (height + room)))
    figure.set_size_inches(width, height + room)
    made.set_bbox_to_anchor((EDGE / width, FOOTER / (height + room)))
    keep(figure, FOOTER + room)


def entry(look: Style, label: str, line: LineStyle = "-") -> Line2D:
    """A backend in a legend."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=line, label=label, markersize=5)


def failure_entry(status: str) -> Line2D:
    """A status in a legend."""
    return Line2D([], [], linestyle="", label=status, **failure_mark(status, INK))


def failure_mark(status: str, colour: str) -> dict[str, Any]:
    """How a failure is marked."""
    return {"marker": FAILURES[status], "color": colour, "markeredgewidth": 0.3, "markersize": 6}


def save(figure: Figure, path: Path) -> None:
    """Write the figure: the same figure gives the same bytes, for nothing of the moment is written."""
    # The layout's solver is not deterministic in the last digits: lay out once, then round the places of the panels.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        places = axes.get_position(original=True).bounds
        left, bottom, width, height = (round(place, 6) for place in places)
        axes.set_position((left, bottom, width, height))
    unsaid = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    figure.savefig(path, dpi=DPI, metadata=unsaid[path.suffix[1:]])

"""How figures look: a colour and a marker per backend, marks of failures, the footer, the same bytes every time."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D, ScaledTranslation

from halobench.records.table import OK, STATUSES

LineStyle = Literal["-", "--", ""]
UNSAID = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}  # would be of the moment
DPI = 130
EDGE = 0.1  # inches
PAD = 0.07  # inches on both sides of a panel
WIDEST = 10.0  # inches: a page 830 pixels wide, as README's is on GitHub, still shows 8 points as 9 pixels
INK = "#222222"
FAINT = "#8c8c8c"


@dataclass(frozen=True)
class Style:
    """A backend's colour (as ``#rrggbb``) and marker."""

    colour: str
    marker: str

    @property
    def scale(self) -> float:
        """How much larger its marker is drawn than others: most of a star is air."""
        return 1.5 if self.marker == "*" else 1.0

    def marked(self, size: float = 6.0) -> dict[str, Any]:
        """How a line of this look is drawn, its markers of this size in points."""
        return {"color": self.colour, "marker": self.marker, "markersize": size * self.scale}


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
MARKS = "p", "h", "d", "8"
SPARE = [Style(*pair) for pair in product(DARK, MARKS)]
HUES = [*DARK, RED]  # of what is no backend: HaloNet has seven kinds of layers
VARIED = [Style(colour, mark) for colour, mark in islice(zip(cycle(HUES), cycle(MARKS), strict=True), len(HUES) * 2)]


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


def distinct(names: Iterable[str]) -> dict[str, Style]:
    """A look for each of these names, which are no backends: in their order, as many hues as there are."""
    return dict(zip(sorted(set(names)), cycle(VARIED), strict=False))


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
    """An empty figure of this size in inches, with titles and footer, and room for them.

    It is wider if a line needs it, up to ``WIDEST``; longer lines are wrapped, and the figure is as much higher.
    """
    figure = Figure((width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    lines = [
        figure.text(0, 0, title, size=11, weight="bold", va="top", color=INK),
        figure.text(0, 0, subtitle, size=8.5, va="top", color=INK),
        figure.text(0, 0, footer, size=7.5, va="bottom", color="#555555"),
    ]
    single = [extent(line)[1] for line in lines]
    width = min(max(width, *(extent(line)[0] + 2 * EDGE for line in lines)), WIDEST)
    for line in lines:
        wrap(line, width - 2 * EDGE)
    height += sum(extent(line)[1] for line in lines) - sum(single)
    figure.set_size_inches(width, height)
    below_title = 0.14 + extent(lines[0])[1]
    for line, inches in zip(lines, (height - 0.09, height - below_title, 0.06), strict=True):
        line.set_position((EDGE / width, inches / height))
    keep(figure)
    return figure


def extent(artist: Artist) -> tuple[float, float]:
    """Width and height in inches."""
    figure = artist.get_figure(root=True)
    assert figure is not None
    box = artist.get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi


def wrap(line: Text, width: float) -> None:
    """Break a text into lines of at most this many inches."""
    whole = line.get_text()
    for characters in range(len(whole), 0, -1):
        if extent(line)[0] <= width:
            break
        line.set_text("\n".join(textwrap.wrap(whole, characters, break_long_words=False)))


def foot(figure: Figure) -> float:
    """The inches that the footer takes at the bottom."""
    return 0.12 + extent(figure.texts[2])[1]


def keep(figure: Figure, room: float = 0.0) -> None:
    """Keep the panels out of titles and footer, and out of this many inches above the footer."""
    width, height = figure.get_size_inches()
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    titles, bottom = 0.22 + sum(extent(line)[1] for line in figure.texts[:2]), foot(figure) + room
    engine.set(w_pad=PAD, rect=(EDGE / width, bottom / height, 1 - 2 * EDGE / width, 1 - (bottom + titles) / height))


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend between the panels and the footer, in as many columns as fit; the figure grows by its height.

    It lists what is drawn: of the handles, those whose label a mark, line or bar with data has.
    """
    there = drawn(figure)
    handles = [handle for handle in handles if handle.get_label() in there]
    if not handles:
        return
    # Constrained layout makes no room for a legend that stands above a footer, so the room is measured here.
    width, height = figure.get_size_inches()
    for columns in range(len(handles), 0, -1):
        made = figure.legend(handles=handles, loc="lower left", ncols=columns, fontsize=8.5, borderaxespad=0)
        if extent(made)[0] <= width - 2 * EDGE or columns == 1:
            break
        made.remove()
    room = extent(made)[1]
    for text in figure.texts:  # their places are in shares of a height that is about to change
        x, y = text.get_position()
        inches = y * height if y < 0.5 else y * height + room
        text.set_position((x, inches / (height + room)))
    figure.set_size_inches(width, height + room)
    made.set_bbox_to_anchor((EDGE / width, (foot(figure) - 0.02) / (height + room)))
    keep(figure, room)


def drawn(figure: Figure) -> set[object]:
    """The labels of all lines, marks and bars that show something."""
    there: set[object] = set()
    for axes in figure.axes:
        there |= {line.get_label() for line in axes.lines if np.isfinite(line.get_xydata()).all(axis=1).any()}
        there |= {marks.get_label() for marks in axes.collections if np.size(marks.get_offsets())}
        there |= {bars.get_label() for bars in axes.containers}
    return there


def entry(look: Style, label: str, line: LineStyle = "-") -> Line2D:
    """A backend in a legend."""
    return Line2D([], [], linestyle=line, label=label, **look.marked(5))


def failure_entry(status: str, label: str | None = None, colour: str = INK) -> Line2D:
    """A status in a legend, or under this label what had it."""
    return Line2D([], [], linestyle="", label=label or status, **failure_mark(status, colour))


def failure_mark(status: str, colour: str) -> dict[str, Any]:
    """How a failure is marked."""
    return {"marker": FAILURES[status], "color": colour, "markeredgewidth": 0.3, "markersize": 6}


def mark_below_edge(
    axes: Axes, at: "Sequence[float] | pd.Series[float]", status: str, label: str, colour: str, points: float = 8
) -> None:
    """Mark failures so many points inside the upper edge of a panel."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    height = axes.get_xaxis_transform() + ScaledTranslation(0, -points / 72, figure.dpi_scale_trans)
    axes.plot(at, [1] * len(at), transform=height, linestyle="", label=label, **failure_mark(status, colour))


def save(figure: Figure, path: Path) -> None:
    """Write the figure: the same figure gives the same bytes, for nothing of the moment is written."""
    settle(figure)
    figure.savefig(path, dpi=DPI, metadata=UNSAID[path.suffix[1:]])


def png(figure: Figure) -> bytes:
    """The figure as ``save`` writes it to a PNG file."""
    settle(figure)
    written = BytesIO()
    figure.savefig(written, dpi=DPI, format="png", metadata=UNSAID["png"])
    return written.getvalue()


def settle(figure: Figure) -> None:
    """Give the panels the places that they keep."""
    # The layout's solver is not deterministic in the last digits: lay out once, then round the places of the panels.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        places = axes.get_position(original=True).bounds
        left, bottom, width, height = (round(place, 6) for place in places)
        axes.set_position((left, bottom, width, height))

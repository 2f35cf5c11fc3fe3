"""What every figure owes its reader: a legend of what is drawn, ticks, colours that have an end, text on the page."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from halobench import plot
from halobench.figures.heat import SHORT, UNMEASURED, readable_on
from halobench.figures.labels import AWAY, SIZE, Label, place
from halobench.figures.scale import LEAST, LONGEST, PlainLogLocator, colour_bar, plain, three_digits
from halobench.figures.scaling import CLOSE, agree, apart
from halobench.figures.selection import network_selections, selections
from halobench.figures.style import INK, WIDEST, canvas, extent, look
from halobench.records import table as results
from halobench.records.table import DIRECTIONS
from tests import results_files as files

ABOVE = 2.13  # a share of the floor
BACKENDS = ("naive_unfold", "sdpa", "fused", "timm_halo")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Every figure of a campaign in which one backend fails everywhere, by name; all laid out."""
    rows = files.campaign(BACKENDS)
    failed = {"backend": "flex", "groups": ["side", "block", "halo", "grid", "stages"], "label": "H0 stage 1"}
    rows += [files.failed("OOM", "no room", direction=way, **failed) for way in DIRECTIONS]
    for row in rows:
        if "H0 stage 1" in str(row) and row["status"] == "OK":
            row["floor"]["share"] = ABOVE
    networks = files.network_campaign()
    networks.append(files.failed_network("CRASHED", "why", "halonet_h1", "flex", rival="efficientnet_b1"))
    read = results.read(
        files.write(tmp_path_factory.mktemp("results") / "mine.json", [*rows, *networks], gpu=files.H100)
    )
    (operators,), (of_networks,) = selections(read), network_selections(read)
    with look():
        both = {**dict(plot.figures(operators)), **dict(plot.network_figures(of_networks))}
        drawn = {name: figure for name, figure in both.items() if isinstance(figure, Figure)}
        for figure in drawn.values():
            figure.draw_without_rendering()
    return drawn


def shown(figure):
    """Colour and marker of what has data, of lines and marks; the colours of bars."""
    seen = set()
    for axes in figure.axes:
        for line in axes.lines:
            if np.isfinite(line.get_xydata()).all(axis=1).any():
                seen |= {(to_rgb(line.get_color()), str(line.get_marker())), (to_rgb(line.get_color()), None)}
        for marks in axes.collections:
            colours = [*marks.get_facecolor(), *marks.get_edgecolor()] if len(marks.get_offsets()) else []
            seen |= {(tuple(colour[:3]), None) for colour in colours}
        seen |= {(tuple(patch.get_facecolor()[:3]), None) for patch in axes.patches}
    return seen


def test_legends_list_what_is_drawn_and_nothing_else(figures):
    """A backend that failed everywhere has no line, and none in a legend."""
    for name, figure in figures.items():
        for legend in figure.legends:
            assert "flex" not in [text.get_text() for text in legend.get_texts()], name
            for handle in legend.legend_handles:
                if isinstance(handle, Line2D) and name != "work":  # its dots are of any backend
                    colour = to_rgb(handle.get_color())
                    marker = str(handle.get_marker())
                    assert {(colour, marker), (colour, None)} & shown(figure) or colour == to_rgb(INK), name


def test_logarithmic_axes_have_three_numbers_at_least(figures):
    seen = 0
    for name, figure in figures.items():
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if isinstance(axis.get_major_locator(), PlainLogLocator):
                    low, high = sorted(axis.get_view_interval())
                    labels = [tick.label1.get_text() or tick.label2.get_text() for tick in axis.get_major_ticks()]
                    assert len([tick for tick in axis.get_majorticklocs() if low <= tick <= high]) >= 3, name
                    assert not any("^" in label or "e+" in label for label in labels), name
                    seen += 1
    assert seen > len(figures)


@pytest.mark.parametrize("ends", [(1e-9, 1e9), (0.3, 900), (1, 10), (3, 5), (0.97, 1.02), (41.9, 42.3)])
def test_ticks_are_round_few_and_inside(ends):
    ticks = PlainLogLocator().tick_values(*ends)
    assert LEAST <= len(ticks) <= 9
    assert all(ends[0] * (1 - 1e-9) <= tick <= ends[1] * (1 + 1e-9) for tick in ticks)
    assert all(len(plain(tick).strip("0.").replace(".", "")) <= 4 for tick in ticks)


@pytest.mark.parametrize(("value", "said"), [(1e-26, "1e-26"), (2e15, "2e+15"), (1.5e-7, "0.00000015"), (0, "0")])
def test_numbers_beyond_all_panels_have_an_exponent(value, said):
    assert plain(value) == said


def test_colours_hold_every_number(figures):
    """A share above 100 % has a colour of its own, and its bar goes on to it."""
    scaled = 0
    for name, figure in figures.items():
        for axes in figure.axes:
            for mesh in axes.collections:
                if mesh.get_array() is not None and mesh.norm.vmax is not None:
                    values = np.ma.masked_invalid(mesh.get_array())
                    if values.count():  # a backend may have failed everywhere
                        assert mesh.norm.vmin <= values.min(), name
                        assert values.max() <= mesh.norm.vmax, name
                        scaled += 1
    assert scaled
    bars = [figure.axes[1].get_ylim()[1] for name, figure in figures.items() if name.startswith("stages-forward")]
    assert max(bars) == pytest.approx(100 * ABOVE)


def test_all_text_is_on_the_page_and_none_lies_on_other_text(figures):
    for name, figure in figures.items():
        width, height = figure.get_size_inches() * figure.dpi
        assert width <= WIDEST * figure.dpi + 1, name
        for axes in figure.axes:
            ticks = [label for label in axes.get_xticklabels() if label.get_text() and not label.get_rotation()]
            boxes = [label.get_window_extent() for label in ticks]
            assert not any(one.shrunk(0.9, 0.9).overlaps(other) for one, other in combinations(boxes, 2)), name
        for text in [*figure.texts, *(axes.title for axes in figure.axes)]:
            box = text.get_window_extent()
            assert box.x0 >= 0, (name, text.get_text())
            assert box.x1 <= width, (name, text.get_text())
            assert 0 <= box.y0 <= box.y1 <= height, (name, text.get_text())


def test_wider_lines_are_explained(figures):
    for axis in ("side-forward", "block-training"):
        for axes in figures[axis].axes:
            widths = {line.get_linewidth() for line in axes.lines if line.get_linestyle() != "None"}
            assert len(widths) <= 1 or "wider" in axes.get_title()


def test_what_stands_in_cells_is_explained(figures):
    seen = 0
    for name, figure in figures.items():
        texts = {text.get_text() for axes in figure.axes for text in axes.texts}
        wanted = {UNMEASURED, *SHORT.values()} & texts if "grid" in name or "stages" in name else set()
        for short in wanted - {"OOM"}:
            assert f"{short} " in figure.texts[1].get_text(), name
            seen += 1
    assert seen > 3


def test_a_bar_of_colours_is_no_longer_than_can_be_taken_in():
    """Its figure may have a panel a backend, one below the other."""
    with look():
        figure = canvas(4, 20, "title", "subtitle", "footer")
        panels = [figure.add_subplot(5, 1, number) for number in range(1, 6)]
        painted = panels[0].pcolormesh([[1.0, 10.0]], norm=LogNorm(1, 10))
        colour_bar(figure, painted, panels, "latency (ms)")
        figure.draw_without_rendering()
    assert LONGEST / 2 < figure.axes[-1].get_position().height * figure.get_figheight() <= LONGEST


@pytest.mark.parametrize("values", [[8, 16, 32, 64, 96, 128, 256], [1, 2, 3, 4], [32], [1000, 1001, 2000], [7, 1e4]])
@pytest.mark.parametrize("logarithmic", [True, False])
def test_numbers_under_an_axis_do_not_touch(values, logarithmic):
    figure = canvas(WIDEST, 4, "title", "subtitle", "footer")
    axes = [figure.add_subplot(1, 3, number) for number in (1, 2, 3)][1]
    axes.plot(values, values)
    axes.set_xscale("log" if logarithmic else "linear")
    shown = apart(values, logarithmic=logarithmic)
    axes.set_xticks(shown, [f"{value:.4g}" for value in shown], size=7.5, minor=False)
    axes.set_xticks([], minor=True)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert shown[0] == values[0]
    assert set(shown) >= {96, 128} or 96 not in values or not logarithmic


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.013, "0.0130"),
        (0.13, "0.130"),
        (36, "36.0"),
        (99.96, "100"),
        (100.4, "100"),
        (1234.5, "1234"),
        (1e26, "1.00e+26"),
    ],
)
def test_numbers_have_three_digits(value, said):
    assert three_digits(value) == said


def test_a_label_is_nearest_to_its_own_mark():
    """There is room on its right, but so near to another mark that it would look like that one's."""
    with look():
        figure = canvas(4, 3, "title", "subtitle", "footer")
        axes = figure.add_subplot()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        figure.draw_without_rendering()
        own = axes.transData.transform((0.5, 0.5))
        width = axes.annotate("name", (0.5, 0.5), size=SIZE).get_window_extent().width
        axes.texts[0].remove()
        near = own + np.array((width + (AWAY[0] + 5) * figure.dpi / 72, 0.0))
        for mark in (own, near):
            axes.plot(*axes.transData.inverted().transform(mark), "o", markersize=5)
        place(axes, [Label("name", 0.5, 0.5, INK)])
    (text,) = axes.texts
    assert text.get_window_extent().x1 < own[0]


def test_long_lines_are_wrapped_and_the_figure_grows():
    short, long = (canvas(4, 3, "title", "subtitle", "footer " * times) for times in (1, 60))
    width, height = long.get_size_inches()
    assert width == WIDEST
    assert height > short.get_size_inches()[1]
    assert all(extent(line)[0] <= width for line in long.texts)
    assert " ".join(long.texts[2].get_text().split()) == " ".join(["footer"] * 60)


@pytest.mark.parametrize(
    ("colour", "ink"), [((1, 1, 0.1, 1), INK), ((0.2, 0, 0.3, 1), "white"), ((0.3, 0.77, 0.4, 1), INK)]
)
def test_numbers_on_colours_are_readable(colour, ink):
    assert readable_on(colour) == ink


def test_intervals_are_said_to_be_such(figures):
    """All strokes of figures are intervals, but those between a backend's useful and its executed work."""
    stroked = {
        name
        for name, figure in figures.items()
        for axes in figure.axes
        if axes.get_label() != "<colorbar>" and any(isinstance(each, LineCollection) for each in axes.collections)
    } - {"work"}
    assert {"speedup", "side-forward", "ratio", "hybrids"} < stroked
    for name in stroked:
        assert any("95 % interval" in text.get_text() for text in figures[name].findobj(Text)), name


def test_lines_are_widened_where_one_would_hide_another(figures):
    """And the panel says so, only then."""
    for name in ("side-forward", "block-training"):
        _, *others = [axes for axes in figures[name].axes if axes.get_label() != "failures"]
        for axes in others:
            widened = len({line.get_linewidth() for line in axes.lines}) > 1
            assert widened == ("the wider lies underneath" in axes.get_title())


@pytest.mark.parametrize(("factor", "hides"), [(1.0, True), (1 + CLOSE / 2, True), (1 + 2 * CLOSE, False)])
def test_lines_agree_where_they_are_close_at_some_place(factor, hides):
    table = pd.DataFrame({"variant": list("aabb"), "side": [8, 16, 8, 16], "peak_bytes": [1e6, 4e6, 2e6, 4e6 * factor]})
    assert agree(table, "side", "peak_bytes") is hides
    assert not agree(table[table["variant"] == "a"], "side", "peak_bytes")
    twice = pd.concat([table[table["variant"] == "a"]] * 2)  # two problems of one backend hide no other's line
    assert not agree(twice, "side", "peak_bytes")

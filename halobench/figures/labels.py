"""Labels beside marks: each as near to its mark as there is room that no mark, interval or other label takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from halobench.figures.style import darker

Points = NDArray[np.float64]
Counts = NDArray[np.int64]

SIZE = 8  # points
AWAY = (6.0, 10.0, 15.0, 21.0)  # points between the centre of a mark and its label, the nearest first
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
MARKED = 0.6  # half a diamond, the widest mark, in sizes of marks
CLEAR = 1.0  # points of paper around a label
SAMPLED = 2.0  # pixels between the points that stand for a line
# What a place costs: covering a mark or another label, being nearer to another mark than to its own, covering a point
# of a line, leaving the panel, a step away.
ON_A_MARK, NEARER_ANOTHER, ON_A_LINE, OUTSIDE, A_STEP = 1e3, 15.0, 1.0, 1e6, 4.0


@dataclass(frozen=True)
class Label:
    """A text for the mark at these data coordinates, in a darker shade of its colour."""

    text: str
    x: float
    y: float
    colour: str


def place(axes: Axes, labels: Sequence[Label]) -> None:
    """Write the labels, each at the cheapest place around its mark. Where the panel stands must be settled."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    point = figure.dpi / 72
    taken, lines = np.array([*marks(axes)]).reshape(-1, 4), points_of_lines(axes)
    centres, frame = (taken[:, :2] + taken[:, 2:]) / 2, axes.get_window_extent()
    for label in labels:
        text = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", size=SIZE, ha="center", va="center",
            color=darker(label.colour), zorder=5,
        )  # fmt: skip
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])  # a line may run behind
        text.set_in_layout(False)
        size = np.array(text.get_window_extent().size) + CLEAR * point
        centre = axes.transData.transform((label.x, label.y))
        offsets = np.array([np.array(side) * (size / 2 + away * point) for away in AWAY for side in SIDES])
        boxes = np.hstack([centre + offsets - size / 2, centre + offsets + size / 2])
        cost = ON_A_MARK * overlaps(boxes, taken) + ON_A_LINE * holds(boxes, lines)
        cost += NEARER_ANOTHER * (distances(boxes, centres).min(axis=1) < distances(boxes, centre[None])[:, 0] - point)
        inside = (boxes[:, :2] > frame.min).all(axis=1) & (boxes[:, 2:] < frame.max).all(axis=1)
        cost += OUTSIDE * ~inside + A_STEP * (np.arange(len(boxes)) // len(SIDES)) + 0.1 * np.arange(len(boxes))
        best = int(np.argmin(np.round(cost, 3)))
        text.set_position(tuple(offsets[best] / point))
        taken = np.vstack([taken, boxes[best]])


def marks(axes: Axes) -> Iterator[Points]:
    """The boxes in pixels of all markers of a panel: left, bottom, right, top."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    for line in axes.lines:
        if line.get_marker() in ("None", None, "", " "):
            continue
        radius = MARKED * line.get_markersize() * figure.dpi / 72
        for centre in in_pixels(line):
            yield np.concatenate([centre - radius, centre + radius])


def in_pixels(line: Line2D) -> Points:
    """The known points of a line."""
    points: Points = line.get_transform().transform(np.asarray(line.get_xydata(), dtype=float))
    return points[np.isfinite(points).all(axis=1)]


def points_of_lines(axes: Axes) -> Points:
    """Points along all lines of a panel, in pixels."""
    pieces = [
        line.get_transform().transform(np.asarray(line.get_xydata()))
        for line in axes.lines
        if line.get_linestyle() != "None"
    ]
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            pieces += [axes.transData.transform(segment) for segment in collection.get_segments()]
    found = [np.zeros((0, 2))]
    for piece in pieces:
        for start, end in pairwise(piece):
            if np.isfinite([start, end]).all():
                steps = np.linspace(0, 1, 2 + int(np.hypot(*(end - start)) / SAMPLED))[:, None]
                found.append(start + steps * (end - start))
    return np.vstack(found)


def overlaps(boxes: Points, taken: Points) -> Counts:
    """How many of the taken boxes each box covers in part."""
    one, other = boxes[:, None], taken[None]
    covered = ((one[..., :2] < other[..., 2:]) & (one[..., 2:] > other[..., :2])).all(axis=-1)
    count: Counts = np.count_nonzero(covered, axis=1)
    return count


def distances(boxes: Points, points: Points) -> Points:
    """How far each box is from each point."""
    one, other = boxes[:, None], points[None]
    beyond = np.maximum(np.maximum(one[..., :2] - other, other - one[..., 2:]), 0)
    return np.hypot(beyond[..., 0], beyond[..., 1])


def holds(boxes: Points, points: Points) -> Counts:
    """How many of the points each box holds."""
    one, other = boxes[:, None], points[None]
    held = ((one[..., :2] < other) & (other < one[..., 2:])).all(axis=-1)
    count: Counts = np.count_nonzero(held, axis=1)
    return count

"""Logarithmic axes that people can read: plain numbers for ticks, and several of them however short the axis is."""

from math import ceil, floor, log10

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullLocator

LEAST = 4  # ticks that an axis should have
LONGEST = 6.0  # inches of a bar of colours
LONG = 1e-9, 1e12  # numbers beyond have more digits than a panel has room for
STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


class PlainLogLocator(Locator):
    """Ticks at round numbers: the fewest that are at least ``LEAST``, evenly spaced ones where decades are too long."""

    def __call__(self) -> list[float]:
        """The ticks between the limits of the axis."""
        assert isinstance(self.axis, Axis)
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """The ticks from ``vmin`` to ``vmax``, which must be positive."""
        low, high = sorted((float(vmin), float(vmax)))
        first, last = floor(log10(low)), ceil(log10(high))
        sparse = [[10.0**power for power in range(first, last + 1) if power % apart == 0] for apart in (4, 3, 2)]
        dense = [[step * 10.0**power for power in range(first, last + 1) for step in steps] for steps in STEPS]
        even = [float(value) for value in MaxNLocator(2 * LEAST, steps=[1, 2, 5, 10]).tick_values(low, high)]
        for ticks in (*sparse, *dense, even):
            within = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
            if len(within) >= LEAST:
                return within
        return within


def plain(value: float, _position: int | None = None) -> str:
    """A tick's number without an exponent, unless it is very small or large: 0.01, 1.5, 10000, 1e-26."""
    short = not value or LONG[0] <= abs(value) < LONG[1]
    return np.format_float_positional(float(f"{value:.6g}"), trim="-") if short else f"{value:.6g}"


def three_digits(value: float) -> str:
    """A number in three digits: 0.0120, 1.23, 12.0, 1234, 1.00e+26."""
    return f"{value:.0f}" if 100 <= value < LONG[1] else f"{value:#.3g}".rstrip(".")


def plain_log(axes: Axes, *which: str) -> None:
    """Make these axes ("x", "y") logarithmic, with plain numbers."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(PlainLogLocator())
        axis.set_major_formatter(FuncFormatter(plain))
        axis.set_minor_locator(NullLocator())


def colour_bar(figure: Figure, mappable: ScalarMappable, panels: list[Axes], label: str) -> None:
    """A bar beside the panels that says what their logarithmic colours mean, no longer than ``LONGEST``."""
    share = min(1.0, LONGEST / figure.get_figheight())
    ticks, numbers = PlainLogLocator(), FuncFormatter(plain)
    bar = figure.colorbar(
        mappable, ax=panels, shrink=share, anchor=(0, 1), aspect=30 * share, ticks=ticks, format=numbers
    )
    bar.minorticks_off()
    bar.set_label(label)

"""The statistics of a comparison: a rank test, its correction for many cases, and an interval of the ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

SIGNIFICANCE = 0.01  # corrected, it bounds the share of whole runs with a false alarm where nothing has changed
CONFIDENCE = 0.95
RESAMPLES = 1999

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Head over base: the ratio of medians, its interval, and the p-value of a rank test against equality."""

    ratio: float
    low: float
    high: float
    p: float


def estimate(base: Array, head: Array) -> list[Estimate]:
    """The estimates of many cases at once: repetitions of the base (cases, repetitions) against those of the head.

    The p-value is that of the two-sided Mann-Whitney test, exact where there are no ties; the interval is that of a
    percentile bootstrap over repetitions of the ratio of medians.
    """
    ratios = np.median(head, axis=-1) / np.median(base, axis=-1)
    p = np.atleast_1d(stats.mannwhitneyu(head, base, axis=-1).pvalue)
    interval = stats.bootstrap(
        (head, base),
        ratio_of_medians,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // max(base.size, head.size)),
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(0),
    ).confidence_interval
    low, high = np.atleast_1d(interval.low), np.atleast_1d(interval.high)
    return [Estimate(*map(float, each)) for each in zip(ratios, low, high, p, strict=True)]


def ratio_of_medians(head: Array, base: Array, axis: int = -1) -> Array:
    """Median over median."""
    ratio: Array = np.median(head, axis=axis) / np.median(base, axis=axis)
    return ratio


def adjusted(p_values: Sequence[float]) -> list[float]:
    """The p-values after Benjamini-Hochberg: below a level, the expected share of false discoveries is below it."""
    return [float(q) for q in stats.false_discovery_control(p_values)] if p_values else []


def least_p(base: int, head: int) -> float:
    """The smallest p-value that the rank test can give with so many repetitions: 2 over all ways to deal the ranks."""
    return float(2 / special.comb(base + head, base)) if base and head else 1.0

"""What a list of samples says: the median, its interval, its noise, its outliers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """The median of samples with its bootstrap 95 % interval; ``noise`` is the interval's relative half-width."""

    median: float
    low: float
    high: float
    outliers: int

    @property
    def noise(self) -> float:
        """Relative half-width of the interval."""
        return (self.high - self.low) / (2 * self.median)


def summarize(samples: Sequence[float], places: int = 1) -> Summary:
    """Summarize samples; outliers (beyond 3 interquartile ranges above the upper quartile) are counted, not dropped.

    Where they were taken in several ``places`` of memory, as many in each, places are resampled, not samples: two of
    one place have more in common.
    """
    values = np.asarray(samples, dtype=float)
    median = float(np.median(values))
    low, high = median, median
    if values.min() < values.max():  # identical samples have no interval to resample
        from scipy import stats  # noqa: PLC0415 - a second, for which who only hands cases on need not wait

        groups = values.reshape(places if places > 1 else len(values), -1)

        def median_of(chosen: np.ndarray, axis: int) -> np.ndarray:
            assert axis == -1
            medians: np.ndarray = np.median(groups[chosen], axis=(-2, -1))
            return medians

        interval = stats.bootstrap(
            (np.arange(len(groups)),),
            median_of,
            n_resamples=999,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    lower, upper = np.quantile(values, [0.25, 0.75])
    outliers = int((values > upper + 3 * (upper - lower)).sum())
    return Summary(median, low, high, outliers)


def quick_noise(samples: Sequence[float]) -> float:
    """Relative half-width of the median's 95 % interval from order statistics: cheap enough to ask in a loop.

    The interval between the ranks n/2 -+ 0.98 sqrt(n) covers the median with 95 % whatever the distribution.
    """
    ordered = sorted(samples)
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low = ordered[max(math.floor(count / 2 - reach), 0)]
    high = ordered[min(math.ceil(count / 2 + reach), count - 1)]
    return (high - low) / (2 * ordered[count // 2])

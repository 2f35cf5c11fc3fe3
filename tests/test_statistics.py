"""What a list of samples says: hand-computed medians and outliers, and intervals that cover what they should."""

import numpy as np
import pytest

from halobench.measure.statistics import quick_noise, summarize


def test_by_hand():
    summary = summarize([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 100.0])
    assert summary.median == 5.0
    assert summary.outliers == 1  # quartiles 3 and 7: beyond 19
    assert 1.0 <= summary.low < 5.0 < summary.high <= 100.0
    assert summary.noise == (summary.high - summary.low) / 10


@pytest.mark.parametrize("count", [1, 2, 50])
def test_identical_samples_have_no_noise(count):
    summary = summarize([0.25] * count)
    assert (summary.median, summary.low, summary.high, summary.outliers, summary.noise) == (0.25, 0.25, 0.25, 0, 0.0)
    assert quick_noise([0.25] * count) == 0.0


def test_a_fast_sample_is_no_outlier():
    assert summarize([0.001, *[1.0, 1.01, 0.99] * 5]).outliers == 0


def test_the_same_samples_have_the_same_interval():
    samples = np.random.default_rng(1).normal(10, 1, 30).tolist()
    assert summarize(samples) == summarize(samples)


def test_unit_does_not_matter():
    samples = np.random.default_rng(2).gamma(9, size=40)
    milliseconds, seconds = summarize(samples.tolist()), summarize((samples / 1e3).tolist())
    assert milliseconds.noise == pytest.approx(seconds.noise)
    assert milliseconds.low == pytest.approx(1e3 * seconds.low)
    assert quick_noise(samples.tolist()) == pytest.approx(quick_noise((samples / 1e3).tolist()))


def test_the_interval_covers_the_median_about_as_often_as_it_says():
    draw = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        summary = summarize(draw.exponential(size=40).tolist())
        covered += summary.low <= np.log(2) <= summary.high
    assert 178 <= covered <= 199  # 95 % of 200, give and take three standard deviations and the small samples


def test_quick_noise_by_hand():
    # 100 samples: ranks 50 -+ 9.8, so the 41st and the 61st smallest; the median is the 51st.
    assert quick_noise(list(range(100, 0, -1))) == (61 - 41) / (2 * 51)


def test_quick_noise_is_the_range_of_few_samples():
    assert quick_noise([3.0, 1.0, 2.0]) == (3.0 - 1.0) / (2 * 2.0)


def test_quick_noise_ignores_rare_outliers():
    assert quick_noise([1.0] * 95 + [50.0] * 5) == 0.0


def test_quick_noise_agrees_with_the_bootstrap():
    samples = np.random.default_rng(4).normal(10, 0.5, 200).tolist()
    assert quick_noise(samples) == pytest.approx(summarize(samples).noise, rel=0.4)


def test_places_that_differ_widen_the_interval():
    """Many samples tell little where they were taken in few places."""
    draw = np.random.default_rng(4)
    offsets = np.array([0.0, 0.01, 0.02, 0.03, 0.04])[:, None]
    samples = (1 + offsets + draw.normal(scale=0.001, size=(5, 100))).ravel().tolist()
    alone, together = summarize(samples), summarize(samples, 5)
    assert alone.median == together.median
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert together.low < 1.015
    assert together.high > 1.025


def test_places_that_agree_leave_it_as_it_is():
    samples = np.random.default_rng(5).normal(1.0, 0.01, size=500).tolist()
    assert summarize(samples, 5).noise == pytest.approx(summarize(samples).noise, rel=0.8)

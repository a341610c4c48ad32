"""Differences, ratios and rank correlations agree with SciPy, cover at their rate, and say why there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.intervals import kendall_tau, paired_difference, paired_ratio, summarise


def test_difference_and_ratio_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(size=7), rng.lognormal(1, size=7)
    for ours, first, second, back in (
        (paired_difference(a, b), a, b, lambda x: x),
        (paired_ratio(a, b), np.log(a), np.log(b), np.exp),
    ):
        theirs = stats.ttest_rel(second, first).confidence_interval(0.95)
        expected = [back(np.mean(second - first)), back(theirs.low), back(theirs.high)]
        assert [ours.value, ours.lower, ours.upper] == pytest.approx(expected, rel=1e-10)
        assert ours.n == 7


def test_intervals_cover_the_planted_value_at_their_rate() -> None:
    rng, hits = np.random.default_rng(2), 0
    for _ in range(600):
        first = rng.normal(size=4)
        interval = paired_difference(first, first + 0.3 + rng.normal(size=4))
        assert interval.lower is not None
        assert interval.upper is not None
        hits += interval.lower <= 0.3 <= interval.upper
    # Three standard errors of a share of .95 over 600 trials; normal instead of t quantiles would give about .85.
    assert abs(hits / 600 - 0.95) < 0.027


def test_unpaired_and_few_values_are_left_out_with_a_reason() -> None:
    nan = float("nan")
    assert paired_difference([1, nan, 3], [2, 5, nan]).n == 1
    assert paired_difference([1, nan], [2, 5]).lower is None
    assert paired_difference([nan], [1]).reason == "no seed has both"
    assert paired_ratio([1, -1], [2, 2]).value is None
    assert summarise([nan, 4.0]).std is None
    assert summarise([1.0, 2.0, 4.0]).std == pytest.approx(np.std([1, 2, 4], ddof=1))


def scipy_tau(x: np.ndarray, y: np.ndarray) -> float:
    result: Any = stats.kendalltau(x, y)
    return result.statistic


def test_kendall_agrees_with_scipy_with_ties_and_is_repeatable() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 5, size=12), rng.integers(0, 4, size=12)
    tau = kendall_tau(x, y)
    assert tau.value == pytest.approx(scipy_tau(x, y))
    assert tau == kendall_tau(x, y)
    assert tau.n == 12
    resamples = [scipy_tau(x[i], y[i]) for i in rng.integers(12, size=(1500, 12))]
    assert [tau.lower, tau.upper] == pytest.approx(np.nanpercentile(resamples, [2.5, 97.5]), abs=0.06)


def test_kendall_says_why_it_is_not_given() -> None:
    assert kendall_tau([1, 2], [1, 2]).reason == "needs at least 3 runs"
    constant = kendall_tau([1, 1, 1], [1, 2, 3])
    assert (constant.value, constant.reason, constant.n) == (None, "one series is constant", 3)
    assert kendall_tau([1, 2, 3, float("nan")], [3, 2, 1, 0]).n == 3

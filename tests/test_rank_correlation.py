"""Kendall's tau agrees with SciPy, and its interval covers where runs come in pairs and where they come in clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import rank_correlation
from analysis.statistics.rank_correlation import kendall_tau, weighted_taus
from analysis.statistics.resampling import Floats, widening
from sharpness.errors import InputError


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
    resamples = np.array([scipy_tau(x[i], y[i]) for i in rng.integers(12, size=(1500, 12))])
    wide = scipy_tau(x, y) + widening(12, 11, 11) * (resamples - scipy_tau(x, y))
    assert [tau.lower, tau.upper] == pytest.approx(np.clip(np.nanpercentile(wide, [2.5, 97.5]), -1, 1), abs=0.07)


def test_a_weighted_tau_is_that_of_the_resample() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(6, size=15).astype(float), rng.random(15)
    x[3] = np.nan
    weights = rng.multinomial(15, np.full(15, 1 / 15), size=20).astype(float)
    for got, each in zip(weighted_taus(x, y, weights), weights, strict=True):
        drawn = [i for i in np.repeat(np.arange(15), each.astype(int)) if i != 3]
        assert got == pytest.approx(scipy_tau(x[drawn], y[drawn]), abs=1e-12)
    assert np.isnan(weighted_taus(np.ones(4), np.arange(4.0), np.ones((1, 4)))).all()


def test_kendall_says_why_it_is_not_given() -> None:
    assert kendall_tau([1, 2], [1, 2]).reason == "needs at least 3 runs"
    constant = kendall_tau([1, 1, 1], [1, 2, 3])
    assert (constant.value, constant.reason, constant.n) == (None, "one series is constant", 3)
    assert kendall_tau([1, 2, 3, float("nan")], [3, 2, 1, 0]).n == 3
    with pytest.raises(InputError, match="one group per x"):
        kendall_tau([1, 2, 3], [1, 2, 3], groups=[0, 1])


def pairs(rng: np.random.Generator, n: int, gap: float, shared: float) -> tuple[Floats, Floats]:
    """Return n pairs whose second members lie ``gap`` higher in both series, with a share of each pair's own."""
    own, rest = rng.normal(size=(2, n, 1)), rng.normal(size=(2, n, 2))
    x, y = np.sqrt(shared) * own + np.sqrt(1 - shared) * rest
    higher = np.array([0, gap])
    return x + higher, y + higher


def coverage(n: int, gap: float, shared: float, truth: float, paired: bool) -> float:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        x, y = pairs(rng, n, gap, shared)
        tau = kendall_tau(x.ravel(), y.ravel(), np.repeat(np.arange(n), 2) if paired else None)
        assert tau.lower is not None and tau.upper is not None
        hits += tau.lower <= truth <= tau.upper
    return hits / 300


def test_intervals_over_pairs_cover_and_those_over_runs_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a pair are alike and nothing goes with anything: taken one by one they are too much evidence."""
    monkeypatch.setattr(rank_correlation, "NUM_RESAMPLES", 500)
    assert coverage(10, 0.0, 0.8, 0.0, paired=True) >= 0.95 - 0.038  # three standard errors of 300
    assert coverage(10, 0.0, 0.8, 0.0, paired=False) < 0.95


def test_two_clusters_make_a_tau_of_one_half_with_nothing_inside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_correlation, "NUM_RESAMPLES", 500)
    assert coverage(10, 8.0, 0.0, 0.5, paired=True) >= 0.95 - 0.038
    x, y = pairs(np.random.default_rng(2), 40, 8.0, 0.0)
    both = kendall_tau(x.ravel(), y.ravel(), np.repeat(np.arange(40), 2))
    assert both.lower is not None and both.lower > 0.4 and both.n == 40
    for inside in (kendall_tau(x[:, member], y[:, member]) for member in (0, 1)):
        assert inside.lower is not None and inside.upper is not None and inside.lower < 0 < inside.upper

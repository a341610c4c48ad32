"""Kendall's rank correlation, with an interval by resampling the pairs or clusters that runs come in."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.statistics.intervals import NUM_RESAMPLES, Interval
from analysis.statistics.resampling import Floats, bounds, spread
from sharpness.errors import InputError


def kendall_tau(x: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, *, seed: int = 0) -> Interval:
    """Return Kendall's tau-b over the runs finite in both, with a bootstrap interval over ``groups`` of runs.

    tau_b = sum_{i<j} sign(x_i - x_j) sign(y_i - y_j) / sqrt(untied pairs in x * untied pairs in y) (Kendall, Biometrika
    33, 1945)

    Runs of one group, such as the small- and the large-batch run of a seed, are no independent evidence: whole groups
    are resampled, and ``n`` counts them. Without ``groups`` each run is one. The percentile interval is that of taus
    widened as few groups ask for (:func:`analysis.statistics.resampling.spread`), cut to [-1, 1]. Resamples in which a
    series is constant have no tau and are left out.

    >>> kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]).value
    0.666...
    >>> kendall_tau([1, 2, 3, 4], [1, 3, 2, 4], groups=["a", "a", "b", "b"]).reason
    'needs at least 3 groups'
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    members = np.arange(len(a)) if groups is None else np.asarray(groups)
    if not a.shape == b.shape == members.shape:
        raise InputError(f"expected one y and one group per x, got {a.shape}, {b.shape}, {members.shape}: match them")
    both = np.isfinite(a) & np.isfinite(b)
    codes, names = pd.factorize(members[both], use_na_sentinel=False)
    a, b, n = a[both], b[both], len(names)
    if n < 3:
        return Interval(None, None, None, n, f"needs at least 3 {'runs' if groups is None else 'groups'}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Interval(None, None, None, n, "one series is constant")
    taus = weighted_taus(a, b, np.vstack([np.ones(len(a)), resamples(n, seed)[:, codes]]))
    value = float(taus[0])
    return tau_interval(value, spread(value, taus[1:], n), n, free=n - 1)


def tau_interval(value: float, draws: Floats, n: int, reason: str | None = None, free: float | None = None) -> Interval:
    """Return the interval of a tau, or of a mean of some, from its draws: within [-1, 1], not without the value."""
    lower, upper = bounds(draws)
    return Interval(value, max(-1.0, min(lower, value)), min(1.0, max(upper, value)), n, reason, free)


@functools.lru_cache(maxsize=4)  # every measure of a study is resampled alike
def resamples(n: int, seed: int = 0) -> Floats:
    """Return how often each of ``n`` groups is in each bootstrap resample, shape (resamples, n), read-only."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=NUM_RESAMPLES).astype(float)
    counts.flags.writeable = False
    return counts


def weighted_taus(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Return Kendall's tau-b of x and y with each point counted ``weights`` times, shape (resamples,).

    sum_ij w_i w_j s_ij t_ij / sqrt(sum_ij w_i w_j |s_ij| sum_ij w_i w_j |t_ij|), s and t the signs of the differences:
    the tau-b of a resample that has point i w_i times, without a matrix of signs for each. Points with NaN do not
    count; NaN where a series is constant.

    >>> weighted_taus(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), np.ones((1, 3)))
    array([0.33333333])
    """
    both = np.isfinite(x) & np.isfinite(y)
    x, y, weights = x[both], y[both], weights[:, both]
    s, t = (np.sign(each[:, None] - each[None, :]) for each in (x, y))
    numerator, of_s, of_t = (np.sum((weights @ m) * weights, axis=1) for m in (s * t, np.abs(s), np.abs(t)))
    untied = of_s * of_t
    return np.divide(numerator, np.sqrt(untied), out=np.full(len(weights), np.nan), where=untied > 0)

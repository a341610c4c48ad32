"""Statistics over seeds and runs: pure functions of arrays, each stating its n and why a number cannot be given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
NUM_RESAMPLES = 5000


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation over ``n`` values; ``None`` where n is too small."""

    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval over ``n`` pairs or runs; what is ``None`` is explained by ``reason``."""

    value: float | None
    lower: float | None
    upper: float | None
    n: int
    reason: str | None = None


def summarise(values: ArrayLike) -> Summary:
    """Return the mean and the sample standard deviation (ddof 1) of the finite values.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(mean=2.0, std=1.0, n=3)
    >>> summarise([5.0])
    Summary(mean=5.0, std=None, n=1)
    """
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    std = float(np.std(x, ddof=1)) if len(x) > 1 else None
    return Summary(float(np.mean(x)) if len(x) else None, std, len(x))


def paired_difference(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return the mean of second - first over the pairs finite in both, with its Student t interval.

    mean(d) +- t_{0.975, n-1} std(d) / sqrt(n), d_i = second_i - first_i

    >>> paired_difference([1.0, 2.0], [2.0, 3.0])
    Interval(value=1.0, lower=1.0, upper=1.0, n=2, reason=None)
    """
    a, b = _finite_pairs(first, second)
    return _student(b - a)


def paired_ratio(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return the geometric mean of second / first over the pairs, with a Student t interval of the logarithms.

    exp(mean(l) +- t_{0.975, n-1} std(l) / sqrt(n)), l_i = log(second_i / first_i); only when every value is positive.

    >>> paired_ratio([1.0, 0.0], [2.0, 3.0]).reason
    'a value is not positive'
    """
    a, b = _finite_pairs(first, second)
    if np.any(a <= 0) or np.any(b <= 0):
        return Interval(None, None, None, len(a), "a value is not positive")
    logs = _student(np.log(b) - np.log(a))
    value, lower, upper = (None if x is None else float(np.exp(x)) for x in (logs.value, logs.lower, logs.upper))
    return Interval(value, lower, upper, logs.n, logs.reason)


def quotient(over: Interval, under: Interval) -> Interval:
    """Return the ratio of two independent positive numbers, the relative errors of both added in quadrature.

    >>> found = quotient(Interval(8.0, 4.0, 16.0, 5), Interval(2.0, 2.0, 2.0, 5))
    >>> round(found.value, 6), round(found.lower, 6), round(found.upper, 6)
    (4.0, 2.0, 8.0)
    """
    n = min(over.n, under.n)
    parts = [x for each in (over, under) for x in (each.lower, each.value, each.upper) if x is not None]
    if len(parts) < 6:
        reasons = [each.reason for each in (over, under) if each.reason]
        return Interval(None, None, None, n, reasons[0] if reasons else "one of the two has no interval")
    a, b = np.log(parts[:3]), np.log(parts[3:])
    middle = a[1] - b[1]
    low, high = np.hypot(a[1] - a[0], b[2] - b[1]), np.hypot(a[2] - a[1], b[1] - b[0])
    value, lower, upper = (float(np.exp(x)) for x in (middle, middle - low, middle + high))
    return Interval(value, lower, upper, n)


def kendall_tau(x: ArrayLike, y: ArrayLike, *, seed: int = 0) -> Interval:
    """Return Kendall's tau-b of the pairs finite in both, with a percentile bootstrap interval over the runs.

    tau_b = sum_{i<j} sign(x_i - x_j) sign(y_i - y_j) / sqrt(untied pairs in x * untied pairs in y) (Kendall, Biometrika
    33, 1945). Resamples in which a series is constant have no tau and are left out. Runs are resampled one by one.

    >>> kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]).value
    0.666...
    >>> kendall_tau([1, 2], [1, 2]).reason
    'needs at least 3 runs'
    """
    a, b = _finite_pairs(x, y)
    n = len(a)
    if n < 3:
        return Interval(None, None, None, n, "needs at least 3 runs")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Interval(None, None, None, n, "one series is constant")
    signs_a, signs_b = (np.sign(s[:, None] - s[None, :]) for s in (a, b))
    draws = np.random.default_rng(seed).integers(n, size=(NUM_RESAMPLES, n))
    times = np.zeros((NUM_RESAMPLES, n))
    np.add.at(times, (np.arange(NUM_RESAMPLES)[:, None], draws), 1)
    taus = _tau_b(signs_a, signs_b, times)
    tail = 100 * (1 - CONFIDENCE) / 2
    lower, upper = np.percentile(taus[np.isfinite(taus)], [tail, 100 - tail])
    return Interval(float(_tau_b(signs_a, signs_b, np.ones((1, n)))[0]), float(lower), float(upper), n)


def _tau_b(
    signs_a: NDArray[np.float64], signs_b: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return tau-b where run i occurs times[r, i] times, for each resample r; NaN where a series is constant.

    Runs count by how often they occur, so that no resample has a matrix of signs of its own: 2,000 runs fit in memory.
    """
    concordance, untied_a, untied_b = (
        np.sum(times @ matrix * times, axis=1) for matrix in (signs_a * signs_b, np.abs(signs_a), np.abs(signs_b))
    )
    untied = untied_a * untied_b
    return np.divide(concordance, np.sqrt(untied), out=np.full(len(untied), np.nan), where=untied > 0)


def _finite_pairs(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    both = np.isfinite(a) & np.isfinite(b)
    return a[both], b[both]


def _student(values: NDArray[np.float64]) -> Interval:
    summary = summarise(values)
    if summary.mean is None:
        return Interval(None, None, None, 0, "no seed has both")
    if summary.std is None:
        return Interval(summary.mean, None, None, summary.n, "an interval needs at least 2 seeds")
    half = float(stdtrit(summary.n - 1, (1 + CONFIDENCE) / 2)) * summary.std / np.sqrt(summary.n)
    return Interval(summary.mean, float(summary.mean - half), float(summary.mean + half), summary.n)

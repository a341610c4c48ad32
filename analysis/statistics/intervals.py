"""Statistics over seeds and runs: pure functions of arrays, each stating its n and why a number cannot be given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

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
    """An estimate with its 95 % interval over ``n`` pairs or runs; what is ``None`` is explained by ``reason``.

    ``free`` are the degrees of freedom of the Student's t that made the interval, or that it was widened by; ``None``
    where no law tells how wide it would be at another confidence, so that it has no p value.
    """

    value: float | None
    lower: float | None
    upper: float | None
    n: int
    reason: str | None = None
    free: float | None = field(default=None, repr=False, compare=False)


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


def incomplete(*numbers: ArrayLike) -> Interval | None:
    """Return the interval that says why there is none, where a seed lacks one of its numbers; else ``None``.

    Leaving seeds out would choose the others.

    >>> incomplete([1.0, 2.0], [3.0, float("nan")]).reason
    '1 of 2 seeds have no number'
    """
    columns = np.array([np.asarray(each, dtype=float) for each in numbers])
    total, gone = columns.shape[1], int(np.isnan(columns).any(axis=0).sum())
    if total and not gone:
        return None
    reason = f"{gone} of {total} seeds have no number" if gone else "nothing was measured"
    return Interval(None, None, None, total - gone, reason)


def paired_difference(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return the mean of second - first over the pairs finite in both, with its Student t interval.

    mean(d) +- t_{0.975, n-1} std(d) / sqrt(n), d_i = second_i - first_i

    >>> paired_difference([1.0, 2.0], [2.0, 3.0])
    Interval(value=1.0, lower=1.0, upper=1.0, n=2, reason=None)
    """
    a, b = finite_pairs(first, second)
    return student(b - a)


def paired_ratio(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return the geometric mean of second / first over the pairs, with a Student t interval of the logarithms.

    exp(mean(l) +- t_{0.975, n-1} std(l) / sqrt(n)), l_i = log(second_i / first_i); only when every value is positive.

    >>> paired_ratio([1.0, 0.0], [2.0, 3.0]).reason
    'a value is not positive'
    """
    a, b = finite_pairs(first, second)
    if np.any(a <= 0) or np.any(b <= 0):
        return Interval(None, None, None, len(a), "a value is not positive")
    logs = student(np.log(b) - np.log(a))
    return exponential(logs)


def exponential(logs: Interval) -> Interval:
    """Return the interval of a positive number from that of its logarithm."""
    value, lower, upper = (None if x is None else float(np.exp(x)) for x in (logs.value, logs.lower, logs.upper))
    return Interval(value, lower, upper, logs.n, logs.reason, logs.free)


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
    free = None if over.free is None or under.free is None else min(over.free, under.free)
    return exponential(Interval(float(middle), float(middle - low), float(middle + high), n, free=free))


def p_value(interval: Interval, null: float, *, log: bool = False) -> float | None:
    """Return the two-sided p value of a true value of ``null``: below 0.05 just where the interval does not hold it.

    2 F(-t_{0.975} |x - null| / |x - bound|), F and t_{0.975} those of Student's t with ``free`` degrees of freedom, the
    bound that on the side of ``null``, and with ``log`` the logarithms of all three. Exact for Student's intervals; of
    a bootstrap the side towards ``null`` is taken as a Student's t of that width, as Altman & Bland (BMJ 343, 2011,
    d2304) do with a normal law. ``None`` without an interval or its law.

    >>> round(p_value(paired_difference([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]), 0.0), 4)
    0.0742
    >>> round(p_value(Interval(2.0, 1.0, 4.0, 5, free=4), 1.0, log=True), 6)
    0.05
    """
    if interval.value is None or interval.lower is None or interval.upper is None or interval.free is None:
        return None
    bound = interval.lower if null < interval.value else interval.upper
    x, null, bound = (float(np.log(each)) if log else each for each in (interval.value, null, bound))
    if x == null:
        return 1.0
    if x == bound:
        return 0.0  # no spread at all
    level = stdtrit(interval.free, (1 + CONFIDENCE) / 2)
    return float(2 * stdtr(interval.free, -level * abs((x - null) / (x - bound))))


def finite_pairs(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pairs in which both are finite."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    both = np.isfinite(a) & np.isfinite(b)
    return a[both], b[both]


def student(values: ArrayLike) -> Interval:
    """Return the mean of the finite values with its Student t interval.

    >>> student([1.0, 1.0, 1.0])
    Interval(value=1.0, lower=1.0, upper=1.0, n=3, reason=None)
    """
    summary = summarise(values)
    if summary.mean is None:
        return Interval(None, None, None, 0, "no seed has both")
    if summary.std is None:
        return Interval(summary.mean, None, None, summary.n, "an interval needs at least 2 seeds")
    free = summary.n - 1
    half = float(stdtrit(free, (1 + CONFIDENCE) / 2)) * summary.std / np.sqrt(summary.n)
    return Interval(summary.mean, float(summary.mean - half), float(summary.mean + half), summary.n, free=free)

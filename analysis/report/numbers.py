"""Numbers as text, rounded to their uncertainty."""

from __future__ import annotations

import math

from analysis.statistics.intervals import Interval, Summary

ABSENT = "–"


def decimals(uncertainty: float) -> int:
    """Return how many decimals an uncertainty deserves: two digits when it starts below 3.55, otherwise one.

    The rule of the Particle Data Group (Review of Particle Physics, introduction, section 5.3).

    >>> decimals(0.195), decimals(0.6), decimals(23.0)
    (2, 1, 0)
    """
    exponent = math.floor(math.log10(uncertainty))
    return (1 if uncertainty / 10**exponent < 3.55 else 0) - exponent


def rounded(value: float, places: int) -> str:
    """Return a number with so many decimals (negative: rounded left of the point), and never a minus zero.

    >>> rounded(-0.001, 2), rounded(1234.0, -2)
    ('0.00', '1200')
    """
    return f"{round(value, places) + 0.0:.{max(places, 0)}f}"


def significant(value: float, digits: int) -> str:
    """Return a number with so many significant digits, as a plain decimal between 0.0001 and a million.

    >>> significant(6.789, 2), significant(342.0, 2), significant(99.99, 3), significant(2.5e9, 2)
    ('6.8', '340', '100', '2.5e+09')
    """
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    # The exponent after rounding: 99.99 with three digits is 100, not 100.0.
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return rounded(value, digits - 1 - exponent)


def mean_and_std(summary: Summary) -> str:
    """Return ``mean ± std``; without a standard deviation the mean alone, with four digits.

    >>> mean_and_std(Summary(1.7321, 0.195, 5)), mean_and_std(Summary(1.7321, None, 1))
    ('1.73 ± 0.20', '1.732')
    """
    if summary.mean is None:
        return ABSENT
    if not summary.std:
        return significant(summary.mean, 4)
    places = decimals(summary.std)
    return f"{rounded(summary.mean, places)} ± {rounded(summary.std, places)}"


def difference(interval: Interval) -> str:
    """Return a signed difference with its interval.

    >>> difference(Interval(0.1234, -0.2, 0.4468, 5))
    '+0.12 [-0.20, +0.45]'
    """
    if interval.value is None:
        return ABSENT
    if interval.lower is None or interval.upper is None or interval.upper == interval.lower:
        return _signed(significant(interval.value, 2))
    places = decimals((interval.upper - interval.lower) / 2)
    value, lower, upper = (_signed(rounded(x, places)) for x in (interval.value, interval.lower, interval.upper))
    return f"{value} [{lower}, {upper}]"


def ratio(interval: Interval) -> str:
    """Return a ratio with its interval: two digits, or as many as an interval narrower than 10 % needs.

    >>> ratio(Interval(6.78, 5.12, 8.97, 5)), ratio(Interval(1.0521, 1.0481, 1.0561, 5))
    ('6.8 [5.1, 9.0]', '1.052 [1.048, 1.056]')
    """
    if interval.value is None:
        return ABSENT
    if interval.lower is None or interval.upper is None or interval.upper == interval.lower:
        return significant(interval.value, 2)
    digits = max(2, 1 + math.ceil(-math.log10(math.log(interval.upper / interval.lower) / 2)))
    value, lower, upper = (significant(x, digits) for x in (interval.value, interval.lower, interval.upper))
    return f"{value} [{lower}, {upper}]"


def correlation(interval: Interval) -> str:
    """Return a correlation with its interval and n, or why there is none, to follow its name.

    >>> correlation(Interval(0.5111, -0.1, 0.9, 10))
    '= 0.51 [-0.10, 0.90], n = 10'
    """
    if interval.value is None or interval.lower is None or interval.upper is None:
        return f"not given: {interval.reason}, n = {interval.n}"
    value, lower, upper = (rounded(x, 2) for x in (interval.value, interval.lower, interval.upper))
    return f"= {value} [{lower}, {upper}], n = {interval.n}"


def _signed(text: str) -> str:
    return text if text.startswith("-") else f"+{text}"

"""The verdict on a claim, from the interval of its number and the smallest effect of interest, by one of two rules.

An interval that resolves nothing is no contradiction: only one that excludes every effect of interest is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from analysis.statistics.intervals import Interval, p_value

Verdict = Literal["reproduced", "reproduced in sign only", "inconclusive", "contradicted", "not testable here"]


class Judged(NamedTuple):
    """A verdict with what it rests on, in the order of the fields of a finding.

    ``p`` is the p value of what "reproduced" rejects, below 0.05 wherever that is the verdict: twice that of the side
    of a claim of a side, and of both ends together for a range. ``None`` where the interval has no law. ``cutoffs`` are
    the verdicts of a range and of :attr:`Range.others`, by the range in words.
    """

    verdict: Verdict
    why: str
    smallest_effect: str
    p: float | None
    cutoffs: Mapping[str, Verdict] = {}


@dataclass(frozen=True)
class Least:
    """The smallest effect of interest, and why it is that: a ``size`` in ``unit``, or of a ``ratio`` a factor.

    >>> print(Least(0.5, "as much as a second seed moves", "pp"))
    0.5 pp: as much as a second seed moves
    """

    size: float
    why: str
    unit: str = ""
    ratio: bool = False

    @property
    def amount(self) -> str:
        """The size in words."""
        return f"a factor of {self.size:.3g}" if self.ratio else f"{self.size:.3g} {self.unit}".rstrip()

    def __str__(self) -> str:
        return f"{self.amount}: {self.why}"


@dataclass(frozen=True)
class Range:
    """The values that a number, which may be a ``ratio``, has by a claim, and why these; an end may be infinite.

    What hangs on the choice of its ends is seen beside ``others``: ranges half and twice as wide, unless ``ends`` names
    other ones, or none where the paper or a definition sets them. The width of a range with two ends is that about its
    middle, that of one with one end its distance from ``about``; that of ratios is one of logarithms unless ``about``
    is 0.

    >>> print(Range(-0.5, float("inf"), "half a point is what a second seed moves", "pp"))
    -0.5 pp or more: half a point is what a second seed moves
    >>> [each.amount for each in Range(0.9, 1.1, "a tenth").others]
    ['0.95 to 1.05', '0.8 to 1.2']
    >>> [each.amount for each in Range(0.5, 2.0, "a factor of 2", ratio=True).others]
    ['0.7071 to 1.414', '0.25 to 4']
    """

    low: float
    high: float
    why: str
    unit: str = ""
    ratio: bool = False
    about: float = 0.0
    ends: tuple[tuple[float, float], ...] | None = None

    @property
    def amount(self) -> str:
        """The range in words."""
        if np.isinf(self.high):
            return f"{self.low:.4g} {self.unit}".rstrip() + " or more"
        if np.isinf(self.low):
            return f"{self.high:.4g} {self.unit}".rstrip() + " or less"
        return f"{self.low:.4g} to {self.high:.4g} {self.unit}".rstrip()

    @property
    def others(self) -> tuple[Range, ...]:
        """The ranges that could have been chosen as well."""
        ends = self.ends if self.ends is not None else (self._times(0.5), self._times(2.0))
        return tuple(replace(self, low=low, high=high) for low, high in ends)

    def _times(self, factor: float) -> tuple[float, float]:
        """Return the ends of a range that is so many times as wide; an infinite end stays."""
        two, about = bool(np.isfinite([self.low, self.high]).all()), self.about
        if two:
            about = (self.low * self.high) ** 0.5 if self.ratio else (self.low + self.high) / 2
        logs = self.ratio and about > 0

        def moved(end: float) -> float:
            if np.isinf(end):
                return end
            return about * (end / about) ** factor if logs else about + factor * (end - about)

        return moved(self.low), moved(self.high)

    def __str__(self) -> str:
        return f"{self.amount}: {self.why}"


def judge(
    interval: Interval, null: float, direction: Literal[-1, 0, 1], least: Least, size: tuple[float, float] | None = None
) -> Judged:
    """Return the verdict on a claim that a number lies on one side of ``null`` (0: off it), and by how much if it says.

    With d the number's distance from ``null`` on the claimed side (of logarithms for a ratio),
    [l, u] its 95 % interval and m the smallest effect of interest: reproduced where l > 0, d >= m and the number has
    the claimed ``size``; in sign only where l > 0 and one of the two fails; contradicted where u < m without l > 0,
    whether the number lies on the other side or as good as on ``null``; inconclusive elsewhere. A claim that a number
    lies off ``null`` has no sign: where l > 0 and d < m it is contradicted if u < m too, and else inconclusive.

    >>> one = Least(1.0, "less is not seen in a figure")
    >>> judge(Interval(5.0, 3.0, 7.0, 5), 0, 1, one)[:2]
    ('reproduced', 'the interval lies above 0, by 1 or more')
    >>> judge(Interval(5.0, 3.0, 7.0, 5), 0, 1, one, (10, 100))[:2]
    ('reproduced in sign only', 'the interval lies above 0 but the number not within 10 to 100')
    >>> judge(Interval(0.5, 0.1, 0.9, 5), 0, 1, one)[:2]
    ('reproduced in sign only', 'the interval lies above 0, but all of it by less than 1')
    >>> judge(Interval(0.5, -1.0, 2.0, 5), 0, 1, one)[:2]
    ('inconclusive', 'the interval reaches both 0 and effects of 1')
    >>> judge(Interval(0.1, -0.7, 0.9, 5), 0, 1, one)[:2]
    ('contradicted', 'the interval excludes an effect of 1: as good as none')
    >>> judge(Interval(-5.0, -7.0, -3.0, 5), 0, 1, one)[:2]
    ('contradicted', 'the interval lies below 0, not above it')
    """
    if (reason := _no_interval(interval)) is not None:
        return Judged("not testable here", reason, str(least), None)
    assert interval.value is not None and interval.lower is not None and interval.upper is not None
    of = np.log if least.ratio else np.asarray
    low, value, high = (float(of(x) - of(null)) for x in (interval.lower, interval.value, interval.upper))
    side = direction or (1 if value >= 0 else -1)
    d = (low, value, high) if side > 0 else (-high, -value, -low)
    p = p_value(interval, null, log=least.ratio)
    p = p if p is None or d[1] > 0 else 1.0
    if d[0] > 0 and size is not None and not size[0] <= interval.value <= size[1]:
        why = f"{_lies(side, null)} but the number not within {size[0]:g} to {size[1]:g}"
        return Judged("reproduced in sign only", why, str(least), p)
    rule = _on_side if direction else _off
    return Judged(*rule(d, float(of(least.size)), least.amount, null, side), str(least), p)


def _lies(side: int, null: float) -> str:
    return f"the interval lies {'above' if side > 0 else 'below'} {null:g}"


def _on_side(d: tuple[float, float, float], m: float, amount: str, null: float, side: int) -> tuple[Verdict, str]:
    low, value, high = d
    if low > 0 and value >= m:
        return "reproduced", _lies(side, null) + (f", by {amount} or more" if low >= m else "")
    if low > 0:
        part = "all of it" if high < m else "the number"
        return "reproduced in sign only", f"{_lies(side, null)}, but {part} by less than {amount}"
    if high < 0:
        return "contradicted", f"{_lies(-side, null)}, not {'above' if side > 0 else 'below'} it"
    if high < m:
        return "contradicted", f"the interval excludes an effect of {amount}: as good as none"
    return "inconclusive", f"the interval reaches both {null:g} and effects of {amount}"


def _off(d: tuple[float, float, float], m: float, amount: str, null: float, side: int) -> tuple[Verdict, str]:
    low, value, high = d
    if low > 0 and value >= m:
        return "reproduced", _lies(side, null) + (f", by {amount} or more" if low >= m else "")
    if high < m and low > -m:
        return "contradicted", f"the interval excludes an effect of {amount} on either side: as good as none"
    return "inconclusive", f"the interval holds both effects smaller than {amount} and larger ones"


def judge_within(interval: Interval, allowed: Range, null: float | None = None) -> Judged:
    """Return the verdict on a claim of a range: a number has a value, two things agree, or a cut-off is passed.

    Reproduced where the whole interval lies in the range, contradicted where it misses the range, inconclusive where it
    is too wide to say. With ``null`` the claim has a sign as well, as that a slope is 1 has: in sign only where the
    interval meets the range without lying within it, and excludes ``null``. The verdicts of other ranges stand beside.

    >>> one = Range(0.75, 1.25, "a square root would have 0.5")
    >>> judge_within(Interval(1.02, 0.9, 1.1, 8), one)[:2]
    ('reproduced', 'the interval lies within 0.75 to 1.25')
    >>> judge_within(Interval(0.7, 0.5, 0.9, 8), one)[:2]
    ('inconclusive', 'part of the interval does not lie within 0.75 to 1.25: too wide to say')
    >>> judge_within(Interval(0.7, 0.5, 0.9, 8), one, null=0)[:2]
    ('reproduced in sign only', 'the interval excludes 0, but part of it does not lie within 0.75 to 1.25')
    >>> judge_within(Interval(0.3, 0.2, 0.4, 8), one, null=0)[:2]
    ('contradicted', 'no part of the interval lies within 0.75 to 1.25')
    >>> judge_within(Interval(1.02, 0.9, 1.1, 8), one).cutoffs
    {'0.75 to 1.25': 'reproduced', '0.875 to 1.125': 'reproduced', '0.5 to 1.5': 'reproduced'}
    """
    if (reason := _no_interval(interval)) is not None:
        return Judged("not testable here", reason, str(allowed), None)
    verdict, why = _of_range(interval, allowed, null)
    ranges = (allowed, *allowed.others) if allowed.others else ()
    cutoffs: dict[str, Verdict] = {each.amount: _of_range(interval, each, null)[0] for each in ranges}
    return Judged(verdict, why, str(allowed), _p_outside(interval, allowed), cutoffs)


def _of_range(interval: Interval, allowed: Range, null: float | None) -> tuple[Verdict, str]:
    assert interval.lower is not None and interval.upper is not None  # checked by the caller
    place = f"within {allowed.amount}" if np.isfinite([allowed.low, allowed.high]).all() else f"at {allowed.amount}"
    if allowed.low <= interval.lower and interval.upper <= allowed.high:
        return "reproduced", f"the interval lies {place}"
    if interval.upper < allowed.low or interval.lower > allowed.high:
        return "contradicted", f"no part of the interval lies {place}"
    if null is not None and not interval.lower <= null <= interval.upper:
        return "reproduced in sign only", f"the interval excludes {null:g}, but part of it does not lie {place}"
    return "inconclusive", f"part of the interval does not lie {place}: too wide to say"


def _p_outside(interval: Interval, allowed: Range) -> float | None:
    """Return the p value of a number outside the range: the larger of those of the ends, as both must be rejected."""
    assert interval.value is not None
    if interval.free is None:
        return None
    if not allowed.low < interval.value < allowed.high:
        return 1.0
    ends = [end for end in (allowed.low, allowed.high) if np.isfinite(end)]
    return max((p_value(interval, end, log=allowed.ratio) or 0.0 for end in ends), default=0.0)


def _no_interval(interval: Interval) -> str | None:
    if interval.value is None or interval.lower is None or interval.upper is None:
        return interval.reason or "no interval can be given"
    return None

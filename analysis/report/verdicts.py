"""The findings of a study: each claim with its number and a verdict by one rule.

A difference that is not resolved is no proof that there is none: claims of equality have a rule of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from analysis.statistics.intervals import Interval

Verdict = Literal["reproduced", "reproduced in sign only", "not reproduced", "not testable here"]


@dataclass(frozen=True)
class Finding:
    """One claim of a paper and what came of it here.

    ``setting`` says on what it was tested, ``figure`` is the stem of the figure or table that shows it, ``number`` the
    number with its interval as text, and ``why`` what the verdict rests on or what keeps it from being better.
    """

    claim: str
    setting: str
    figure: str
    number: str
    verdict: Verdict
    why: str

    @property
    def line(self) -> str:
        """The finding as one line of a terminal."""
        return f"{self.claim}: {self.number}: {self.verdict} ({self.why})"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def judge(
    interval: Interval, null: float, direction: Literal[-1, 1], size: tuple[float, float] | None = None
) -> tuple[Verdict, str]:
    """Return the verdict on a claim that a number lies on one side of ``null``, and by how much, with the reason.

    Reproduced: the whole 95 % interval lies on the claimed side and, where the claim has a size, the number has it.
    In sign only: the interval lies on the claimed side but the number misses the size. Not reproduced: it reaches the
    null, or lies beyond it. Not testable: there is no interval.

    >>> judge(Interval(5.0, 3.0, 9.0, 5), 1, 1)
    ('reproduced', 'the interval lies above 1')
    >>> judge(Interval(1.4, 1.2, 1.6, 5), 1, 1, (10, 100))
    ('reproduced in sign only', 'the interval lies above 1 but the number not within 10 to 100')
    >>> judge(Interval(1.4, 0.9, 2.0, 5), 1, 1)
    ('not reproduced', 'the interval reaches 1: no difference is resolved')
    >>> judge(Interval(0.5, 0.4, 0.6, 5), 1, 1)
    ('not reproduced', 'the interval lies below 1, not above it')
    """
    lower, upper = interval.lower, interval.upper
    if interval.value is None or lower is None or upper is None:
        return "not testable here", interval.reason or "no interval can be given"
    sides = ("below", "above")
    if lower > null or upper < null:
        side: Literal[-1, 1] = 1 if lower > null else -1
        lies = f"the interval lies {sides[side > 0]} {null:g}"
        if side != direction:
            return "not reproduced", f"{lies}, not {sides[direction > 0]} it"
        if size is not None and not size[0] <= interval.value <= size[1]:
            return "reproduced in sign only", f"{lies} but the number not within {size[0]:g} to {size[1]:g}"
        return "reproduced", lies
    return "not reproduced", f"the interval reaches {null:g}: no difference is resolved"


def judge_value(interval: Interval, low: float, high: float) -> tuple[Verdict, str]:
    """Return the verdict on a claim that a number is between two values: a slope of 1, say, as 0.75 to 1.25.

    Reproduced: the whole interval lies within. In sign only: it meets the range, lies on the range's side of 0, and is
    not within. Not reproduced: it misses the range, or reaches 0 where the range does not.

    >>> judge_value(Interval(1.02, 0.9, 1.1, 8), 0.75, 1.25)
    ('reproduced', 'the interval lies within 0.75 to 1.25')
    >>> judge_value(Interval(0.7, 0.5, 0.9, 8), 0.75, 1.25)
    ('reproduced in sign only', 'the interval meets 0.75 to 1.25 without lying within it')
    >>> judge_value(Interval(0.3, 0.2, 0.4, 8), 0.75, 1.25)
    ('not reproduced', 'the interval misses 0.75 to 1.25')
    """
    lower, upper = interval.lower, interval.upper
    if interval.value is None or lower is None or upper is None:
        return "not testable here", interval.reason or "no interval can be given"
    if low <= lower and upper <= high:
        return "reproduced", f"the interval lies within {low:g} to {high:g}"
    if upper < low or lower > high:
        return "not reproduced", f"the interval misses {low:g} to {high:g}"
    if (low > 0 and lower <= 0) or (high < 0 and upper >= 0):
        return "not reproduced", "the interval reaches 0: it is too wide to say"
    return "reproduced in sign only", f"the interval meets {low:g} to {high:g} without lying within it"


def judge_within(interval: Interval, low: float, high: float) -> tuple[Verdict, str]:
    """Return the verdict on a claim that two things agree to a factor: their ratio is between two values.

    Reproduced: the whole interval lies within. Not reproduced: it misses the range, or is too wide to say; agreement
    has no sign that could be right alone.

    >>> judge_within(Interval(1.1, 0.8, 1.6, 5), 0.5, 2)
    ('reproduced', 'the interval lies within 0.5 to 2')
    >>> judge_within(Interval(1.7, 0.9, 3.0, 5), 0.5, 2)
    ('not reproduced', 'the interval reaches beyond 0.5 to 2: too wide to say')
    """
    verdict, why = judge_value(interval, low, high)
    if verdict == "reproduced in sign only":
        return "not reproduced", f"the interval reaches beyond {low:g} to {high:g}: too wide to say"
    return verdict, why


def judge_equivalent(intervals: Mapping[str, Interval], margin: float) -> tuple[Verdict, str]:
    """Return the verdict on a claim that differences are nil but for ``margin``, fixed beforehand, with the reason.

    Reproduced: every 95 % interval lies within +-margin (two one-sided tests at 2.5 % each; of several differences all
    must pass, so none needs a correction). Not reproduced: one lies beyond the margin, or is too wide to say. Not
    testable: one has no interval.

    >>> judge_equivalent({"hybrid": Interval(0.1, -0.2, 0.4, 5)}, 0.5)
    ('reproduced', 'the interval lies within ±0.5')
    >>> judge_equivalent({"hybrid": Interval(0.1, -0.6, 0.8, 5)}, 0.5)
    ('not reproduced', 'hybrid: the interval reaches beyond ±0.5, too wide to say')
    >>> judge_equivalent({"hybrid": Interval(0.9, 0.7, 1.1, 5)}, 0.5)
    ('not reproduced', 'hybrid: beyond ±0.5, they differ')
    """
    for name, each in intervals.items():
        if each.value is None or each.lower is None or each.upper is None:
            return "not testable here", f"{name}: {each.reason or 'no interval can be given'}"
    reasons: dict[str, list[str]] = {}
    for name, each in intervals.items():
        if why := _why_not(each, margin):
            reasons.setdefault(why, []).append(name)
    if reasons:
        return "not reproduced", "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
    every = "the interval lies" if len(intervals) == 1 else "the intervals lie"
    return "reproduced", f"{every} within ±{margin:.3g}"


def _why_not(interval: Interval, margin: float) -> str | None:
    assert interval.lower is not None and interval.upper is not None  # checked by the caller
    if interval.lower > margin or interval.upper < -margin:
        return f"beyond ±{margin:.3g}, they differ"
    if interval.lower < -margin or interval.upper > margin:
        return f"the interval reaches beyond ±{margin:.3g}, too wide to say"
    return None

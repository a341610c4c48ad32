"""Verdicts on claims that numbers are the same: a difference that is not resolved is no proof that there is none."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.report.verdicts import Verdict
from analysis.statistics.intervals import Interval


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

"""One number of a claim that was tested in several settings, such as networks or optimisers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.statistics.intervals import Interval, exponential, student

FEWEST = 3
"""Settings from which an interval for settings at large can be given; of two, t has one degree of freedom."""


def over_settings(intervals: Mapping[str, Interval], *, log: bool = False) -> Interval:
    """Return the mean over settings with Student's t interval over them; of fewer than three the first setting's own.

    mean(y) +- t_{0.975, k-1} std(y) / sqrt(k), y_i the number of setting i, with ``log`` its logarithm

    A hierarchical model: the truth differs by setting, and y_i is that with the error of its runs, so that the spread
    of the y_i holds both. Settings count alike. Weights by precision with the interval of Hartung & Knapp (Statistics
    in Medicine 20, 2001) would be narrower, but where the errors are told from as few runs as here and differ by
    setting it holds the mean in 89 to 93 % of the cases only, this one in 95 % or more (``tests/test_settings.py``).
    None, and the reason, where a setting has no interval. ``n`` counts the settings.

    >>> over_settings({"A": Interval(1.0, 0, 2, 5), "B": Interval(2.0, 1, 3, 5), "C": Interval(3.0, 2, 4, 5)}).value
    2.0
    >>> over_settings({"A": Interval(1.0, 0, 2, 5), "B": Interval(2.0, 1, 3, 5)}).n
    5
    """
    for name, each in intervals.items():
        if each.value is None or each.lower is None or each.upper is None:
            why = f"{name}: {each.reason or 'no interval can be given'}"
            return Interval(None, None, None, each.n, why if len(intervals) > 1 else each.reason)
    if len(intervals) < FEWEST:
        return next(iter(intervals.values()), Interval(None, None, None, 0, "no setting was tested"))
    values = np.array([each.value for each in intervals.values()], dtype=float)
    return exponential(student(np.log(values))) if log else student(values)

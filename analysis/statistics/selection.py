"""The difference of two ways whose settings were chosen on the same seeds, with the choice in the interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.statistics.intervals import Interval
from analysis.statistics.rank_correlation import resamples
from analysis.statistics.resampling import Floats, bounds, spread


def chosen_difference(scores: Sequence[Floats], values: Sequence[Floats]) -> Interval:
    """Return the mean of the second way's values less the first's, each at the setting with the best mean score.

    ``scores`` and ``values`` are the two ways', each (seeds, settings). The interval resamples the seeds and chooses
    anew in each resample, so that settings with about the same score all have a part in it, whatever their values. An
    interval at the settings chosen once would take the choice for known.

    >>> scores = np.array([[0.7, 0.5], [0.5, 0.7], [0.7, 0.6], [0.6, 0.7]])  # a tie, by four seeds
    >>> values = np.tile([0.0, 9.0], (4, 1))
    >>> found = chosen_difference((np.zeros((4, 1)), scores), (np.zeros((4, 1)), values))
    >>> found.lower == 0 and found.upper > 8
    True
    """
    n = len(scores[0])
    if n < 2:
        return Interval(None, None, None, n, "an interval needs at least 2 seeds")
    if not all(np.isfinite(table).all() for table in (*scores, *values)):
        return Interval(None, None, None, n, "a run among those to choose from has no such number")
    weights = np.vstack([np.ones(n), resamples(n)])
    first, second = (_at_best(weights, *way) for way in zip(scores, values, strict=True))
    draws = second - first
    value = float(draws[0])
    lower, upper = bounds(spread(value, draws[1:], n))
    return Interval(value, min(lower, value), max(upper, value), n, None, n - 1)


def _at_best(weights: Floats, scores: Floats, values: Floats) -> Floats:
    """Return for each row of weights the weighted mean of the values at the setting with the best weighted score."""
    best = np.argmax(weights @ scores, axis=1)
    return np.take_along_axis(weights @ values, best[:, None], axis=1)[:, 0] / weights.sum(axis=1)

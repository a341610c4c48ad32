"""The best batch size of accuracies over a grid of batch sizes and seeds, and whether there is a peak at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from analysis.statistics.intervals import CONFIDENCE, NUM_RESAMPLES, Interval, paired_difference

Array = NDArray[np.float64]
REACH = 2
"""Grid points to either side of the best one that the parabola is fitted to."""
MOST_WITHOUT = 1 - CONFIDENCE
"""A peak that more than this share of the resamples do not have is none."""

COSTS = 2.0
"""Percentage points of accuracy that the onset of noise costs."""


@dataclass(frozen=True)
class Peak:
    """Where the mean accuracy is highest, as a batch size with its interval over seeds, or why there is no peak.

    ``by_seed`` holds the best batch size of each seed whose own curve has a peak beside that of the mean.
    """

    batch: Interval
    by_seed: Mapping[int, float]

    @property
    def found(self) -> bool:
        """Whether the peak lies inside the grid for sure."""
        return self.batch.lower is not None


def peak_of(batches: Sequence[float], accuracy: Array, seeds: Sequence[int], *, seed: int = 0) -> Peak:
    """Return the peak of accuracies, seeds x batches, over growing batch sizes.

    The vertex of the least-squares parabola in log B through the grid points around the best mean accuracy, two to
    either side. A best point at an end of the grid is no peak, nor is a parabola that opens upwards or has its vertex
    outside its points. The interval is a bootstrap over seeds of all that: percentiles of log B, spread about the peak
    by ``t_{0.975, n-1} / z_{0.975} sqrt(n / (n - 1))`` (Hesterberg, The American Statistician 69, 2015), since plain
    ones of few seeds are too narrow. Where more than 5 % of the resamples have no peak there is none. Each seed's own
    peak is fitted to the points of the mean's.

    >>> curve = -np.log(np.array([4.0, 8, 16, 32, 64]) / 16) ** 2
    >>> peak = peak_of([4, 8, 16, 32, 64], np.array([curve, curve - 1]), [0, 1])
    >>> round(peak.batch.value, 6), peak.found, sorted(peak.by_seed)
    (16.0, True, [0, 1])
    """
    logs, count = np.log(np.asarray(batches, dtype=float)), len(accuracy)
    if count < 2 or len(logs) < 3:
        return Peak(Interval(None, None, None, count, "needs 2 seeds and 3 batch sizes at least"), {})
    mean = accuracy.mean(axis=0)
    best = int(np.argmax(mean))
    if best in (0, len(logs) - 1):
        end = "smallest" if best == 0 else "largest"
        return Peak(Interval(None, None, None, count, f"the best batch, {batches[best]:g}, is the {end} tried"), {})
    (value,) = _vertices(logs, mean[None])
    if not np.isfinite(value):
        return Peak(Interval(None, None, None, count, "the parabola has no highest point among its batches"), {})
    draws = np.random.default_rng(seed).integers(count, size=(NUM_RESAMPLES, count))
    resampled = _vertices(logs, accuracy[draws].mean(axis=1))
    without = float(np.mean(~np.isfinite(resampled)))
    if without > MOST_WITHOUT:
        reason = f"{100 * without:.0f} % of the resamples of seeds have no peak inside the grid"
        return Peak(Interval(float(np.exp(value)), None, None, count, reason), {})
    level = (1 + CONFIDENCE) / 2
    wider = stdtrit(count - 1, level) / ndtri(level) * np.sqrt(count / (count - 1))
    spread = value + wider * (resampled[np.isfinite(resampled)] - value)
    lower, upper = np.exp(np.percentile(spread, [100 * (1 - level), 100 * level]))
    own = _vertex(logs, accuracy, best)
    by_seed = {number: float(np.exp(v)) for number, v in zip(seeds, own, strict=True) if np.isfinite(v)}
    return Peak(Interval(float(np.exp(value)), float(lower), float(upper), count), by_seed)


def _vertices(logs: Array, curves: Array) -> Array:
    """Return where each curve, in a row, has its peak in log B; NaN where it has none inside the grid."""
    best = np.argmax(curves, axis=1)
    found = np.full(len(curves), np.nan)
    for point in range(1, len(logs) - 1):
        rows = best == point
        if rows.any():
            found[rows] = _vertex(logs, curves[rows], point)
    return found


def _vertex(logs: Array, curves: Array, point: int) -> Array:
    """Return the vertices of the parabolas through each curve's points around one; NaN where there is no maximum."""
    window = slice(max(point - REACH, 0), point + REACH + 1)
    x = logs[window]
    square, linear, _ = np.polyfit(x - x.mean(), curves[:, window].T, 2)
    at = x.mean() + np.divide(-linear, 2 * square, out=np.full(len(curves), np.nan), where=square < 0)
    return np.where((at >= x[0]) & (at <= x[-1]), at, np.nan)


def rise_over_ends(accuracy: Array) -> Interval:
    """Return by how much the best batch beats both ends of the grid: the smaller of the two differences, over seeds.

    ``accuracy`` is seeds x batches. The best batch of a seed is chosen by the other seeds' mean, so that no seed's
    chance makes its own best; Student t interval.

    >>> rise_over_ends(np.array([[0.5, 0.8, 0.6], [0.5, 0.8, 0.6], [0.5, 0.8, 0.6]])).value
    0.2...
    """
    count = len(accuracy)
    if count < 2 or accuracy.shape[1] < 3:
        return Interval(None, None, None, count, "needs 2 seeds and 3 batch sizes at least")
    best = [int(np.argmax(np.delete(accuracy, number, axis=0).mean(axis=0))) for number in range(count)]
    top = accuracy[np.arange(count), best]
    return paired_difference(np.maximum(accuracy[:, 0], accuracy[:, -1]), top)


def onsets(batches: Sequence[float], accuracy: Array) -> Array:
    """Return each seed's batch size below which its accuracy (%) lies more than 2 points under its best.

    ``accuracy`` is seeds x batches, batches growing; between grid points accuracy is linear in log B. NaN where even
    the smallest batch costs less.

    >>> onsets([2, 4, 8, 16], np.array([[10.0, 76, 80, 79], [79, 79, 80, 79]])).round(3)
    array([5.657, nan])
    """
    logs, found = np.log(np.asarray(batches, dtype=float)), np.full(len(accuracy), np.nan)
    for number, curve in enumerate(accuracy if len(logs) else []):
        level, best = curve.max() - COSTS, int(np.argmax(curve))
        below = np.flatnonzero(curve[:best] < level)
        if len(below):
            at = below[-1]
            share = (level - curve[at]) / (curve[at + 1] - curve[at])
            found[number] = np.exp(logs[at] + share * (logs[at + 1] - logs[at]))
    return found

"""The batch size beyond which accuracy falls (Keskar et al. 2017, Figure 4), with a test of whether it falls at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.statistics.intervals import Interval
from analysis.statistics.resampling import Floats, bounds, spread

NUM_POSITIONS = 200
"""Places of the bend that are tried, evenly from the smallest batch size to the second largest."""
NUM_DRAWS = 2000
"""Permutations of the test and resamples of the intervals."""
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Threshold:
    """The batch size from which the accuracy falls, and its fall per doubling; ``p`` is the p value of no fall at all.

    Where ``p`` is 0.05 or more the batch size is empty, with the reason, and the interval of the fall reaches 0: the
    best bend always falls a little, so that its own resamples do not tell.
    """

    batch: Interval
    fall: Interval
    p: float | None


def threshold(batches: ArrayLike, values: ArrayLike, *, seed: int = 0) -> Threshold:
    """Return the change point of a mean that is constant up to a batch size T and then falls with log2 of it.

    ``values`` has a row per seed and a column per batch size; the model ``a - b max(0, log2 B - log2 T)`` with b >= 0
    is fitted to the means over the seeds by least squares over a grid of T. Whether it falls at all is told by a
    permutation test: the batch sizes of each seed are shuffled, and the statistic is by how much the bend lowers the
    sum of squares. The intervals are of a bootstrap over the seeds, widened for few of them by
    :func:`analysis.statistics.resampling.spread`; that of T ends where the places that are tried do. Seeds with a hole
    are left out.

    >>> found = threshold([1, 2, 4, 8, 16], [[9, 9, 9, 7, 5], [9.1, 9, 9, 7, 5], [9, 9.1, 9, 7, 5]])
    >>> round(found.batch.value), round(found.fall.value, 1)
    (4, 2.0)
    """
    x, table = np.log2(np.asarray(batches, dtype=float)), np.asarray(values, dtype=float)
    table = table[np.isfinite(table).all(axis=1)] if table.size else table.reshape(0, len(x))
    n = len(table)
    if n < 2 or len(x) < 4:
        none = Interval(None, None, None, n, "needs at least 2 seeds with at least 4 batch sizes")
        return Threshold(none, none, None)
    rng, bends = np.random.default_rng(seed), _bends(x)
    gain = _best(bends, table.mean(0)[None])[2][0]
    shuffled = rng.permuted(np.broadcast_to(table, (NUM_DRAWS, *table.shape)), axis=2).mean(1)
    # A shuffle that equals the data up to rounding counts as one that is as good.
    p = float((1 + np.sum(_best(bends, shuffled)[2] >= gain * (1 - 1e-9))) / (NUM_DRAWS + 1))
    resampled = table[rng.integers(n, size=(NUM_DRAWS, n))].mean(1)
    where, fall, _ = _best(bends, np.concatenate([table.mean(0)[None], resampled]))
    value, low, high = _interval(fall, n)
    if p >= SIGNIFICANCE:
        none = Interval(None, None, None, n, f"no fall with the batch size is resolved (permutation test, p = {p:.2g})")
        return Threshold(none, Interval(value, min(low, 0.0), high, n, free=n - 1), p)
    batch, lower, upper = (float(2.0 ** np.clip(each, x[0], x[-2])) for each in _interval(bends.positions[where], n))
    return Threshold(Interval(batch, lower, upper, n), Interval(value, low, high, n, free=n - 1), p)


@dataclass(frozen=True)
class _Bends:
    """The bends that are tried: their positions (log2 B), and their shapes, centred and of unit length."""

    positions: Floats
    shapes: Floats
    lengths: Floats


def _bends(x: Floats) -> _Bends:
    positions = np.linspace(x[0], x[-2], NUM_POSITIONS)
    positions = np.unique(np.concatenate([positions, x[:-1]]))
    hinges = np.maximum(0.0, x[None] - positions[:, None])
    centred = hinges - hinges.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    return _Bends(positions, centred / lengths[:, None], lengths)


def _best(bends: _Bends, means: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return for each row of means the number of the best bend, its fall per doubling, and the squares it explains."""
    explained = np.maximum(0.0, -means @ bends.shapes.T)
    where = explained.argmax(1)
    height = np.take_along_axis(explained, where[:, None], 1)[:, 0]
    return where, height / bends.lengths[where], height**2


def _interval(values: Floats, n: int) -> tuple[float, float, float]:
    """Return the first value with the bounds of the others, which are spread about it as few seeds ask for."""
    return float(values[0]), *bounds(spread(float(values[0]), values[1:], n))

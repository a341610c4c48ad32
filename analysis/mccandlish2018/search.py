"""Line searches of McCandlish et al. 2018: the best step and what it brings, predicted and found, as pure functions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics.intervals import CONFIDENCE
from sharpness.plots.frames import floats

Array = NDArray[np.float64]
NUM_BOOTSTRAPS = 1000
SEARCHED = ("rate", "fall", "change_at_2", "change_at_4")
ENDS = ("", "_lower", "_upper")


def predicted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return line searches with what equations 2.6 and 2.7 predict for the examples searched on, as all there is.

    ``rate = |G|^2 / (G^T H G + tr(H Sigma) / B)`` and ``fall = |G|^2 rate / 2``; NaN where the curvature is negative.
    The moments measured are unbiased for a distribution that the n examples are drawn from: that of |G|^2 is less than
    the square of their own gradient by tr Sigma / n, and of G^T H G likewise; Sigma of the n is 1 - 1/n times theirs.
    """
    count, noise = floats(rows, "examples"), floats(rows, "noise_curvature")
    square = floats(rows, "gradient_square") + floats(rows, "noise_trace") / count
    along = floats(rows, "gradient_curvature") + noise / count
    felt = along + (1 - 1 / count) * noise / floats(rows, "batch_size")
    rate = np.divide(square, felt, out=np.full(len(rows), np.nan), where=felt > 0)
    scale = np.divide((1 - 1 / count) * noise, along, out=np.full(len(rows), np.nan), where=along > 0)
    return rows.assign(predicted_rate=rate, predicted_fall=square * rate / 2, curved_noise_scale=scale)


def lowest(rates: Array, changes: Array) -> tuple[Array, Array]:
    """Return rate and change of the lowest point of curves, shape ``(k, rates)``, by the parabola through three points.

    NaN where the lowest of the points is the first or the last, or a neighbour is not finite.

    >>> rates = np.array([1.0, 2.0, 4.0, 8.0])
    >>> [float(x[0]) for x in lowest(rates, (rates**2 - 6 * rates)[None])]
    [3.0, -9.0]
    """
    best = np.argmin(changes, axis=1)
    inside = (best > 0) & (best < len(rates) - 1)
    middle = np.where(inside, best, 1)
    places = middle[:, None] + np.array([-1, 0, 1])
    x, y = rates[places], np.take_along_axis(changes, places, axis=1)
    inside &= np.isfinite(y).all(axis=1)
    y = np.where(inside[:, None], y, x**2)
    first, second = (y[:, 1] - y[:, 0]) / (x[:, 1] - x[:, 0]), (y[:, 2] - y[:, 1]) / (x[:, 2] - x[:, 1])
    curvature = (second - first) / (x[:, 2] - x[:, 0])
    rate = (x[:, 0] + x[:, 1]) / 2 - first / np.where(inside, 2 * curvature, 1.0)
    value = y[:, 1] + (rate - x[:, 1]) * (first + curvature * (rate - x[:, 0]))
    return np.where(inside, rate, np.nan), np.where(inside, value, np.nan)


def at_rate(rates: Array, changes: Array, rate: Array) -> Array:
    """Return the values of curves, shape ``(k, rates)``, at one rate each, by the parabola through the points nearest.

    NaN beyond the rates, and where one of the points is not finite.

    >>> rates = np.array([1.0, 2.0, 4.0, 8.0])
    >>> at_rate(rates, (rates**2)[None], np.array([5.0])), at_rate(rates, (rates**2)[None], np.array([9.0]))
    (array([25.]), array([nan]))
    """
    known = np.isfinite(rate) & (rate >= rates[0]) & (rate <= rates[-1])
    target = np.where(known, rate, rates[0])
    first = np.clip(np.searchsorted(rates, target) - 1, 0, len(rates) - 3)
    places = first[:, None] + np.arange(3)
    x, y = rates[places], np.take_along_axis(changes, places, axis=1)
    known &= np.isfinite(y).all(axis=1)
    y, total = np.where(known[:, None], y, 0.0), np.zeros(len(target))
    for i in range(3):
        others = [j for j in range(3) if j != i]
        basis = np.prod([(target - x[:, j]) / (x[:, i] - x[:, j]) for j in others], axis=0)
        total += y[:, i] * basis
    return np.where(known, total, np.nan)


def searched(rows: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Return line searches with the best rate, the fall of the loss there and its change at 2 and 4 times the rate.

    All of the mean over batches, with 95 % percentile bootstrap intervals over the batches; NaN where the grid of rates
    does not hold them. A loss that was not finite counts as infinite.
    """
    rng, found = np.random.default_rng(seed), []
    for row in rows.to_dict("records"):
        rates, changes = np.asarray(row["rates"], dtype=float), np.array(row["changes"], dtype=float)
        if len(rates) < 3:
            found.append({f"{name}{end}": np.nan for name in SEARCHED for end in ENDS})
            continue
        changes = np.where(np.isfinite(changes), changes, np.inf)
        draws = rng.integers(len(changes), size=(NUM_BOOTSTRAPS, len(changes)))
        curves = np.concatenate([changes.mean(0)[None], changes[draws].mean(1)])
        rate, value = lowest(rates, curves)
        numbers = (rate, -value, at_rate(rates, curves, 2 * rate), at_rate(rates, curves, 4 * rate))
        bounds = {name: _bounds(values) for name, values in zip(SEARCHED, numbers, strict=True)}
        found.append({f"{n}{end}": x for n, each in bounds.items() for end, x in zip(ENDS, each, strict=True)})
    names = [f"{name}{end}" for name in SEARCHED for end in ENDS]
    return rows.assign(**{name: np.array([row[name] for row in found], dtype=float) for name in names})


def _bounds(values: Array) -> tuple[float, float, float]:
    """Return the first of some values and the 95 % interval of the others, NaN where most of them are not there."""
    first, resampled = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not np.isfinite(first) or len(resampled) < NUM_BOOTSTRAPS / 2:
        return first, np.nan, np.nan
    tail = 100 * (1 - CONFIDENCE) / 2
    lower, upper = np.percentile(resampled, [tail, 100 - tail])
    return first, float(lower), float(upper)

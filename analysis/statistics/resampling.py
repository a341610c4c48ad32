"""Redrawn means and curves, and percentile intervals that stay honest where there is little to draw from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from analysis.statistics.intervals import CONFIDENCE, Interval
from sharpness.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StepsCurve:
    """Steps against batch size: per batch size, ascending, the logarithms of the steps of its runs."""

    batches: Floats
    values: tuple[Floats, ...]

    @property
    def logs(self) -> Floats:
        """The mean logarithm of the steps at each batch size."""
        return np.array([float(np.mean(values)) for values in self.values])

    @property
    def counts(self) -> Floats:
        """The number of runs at each batch size."""
        return np.array([len(values) for values in self.values], dtype=float)

    @property
    def n(self) -> int:
        """The number of runs."""
        return sum(map(len, self.values))


def curve_of(batches: ArrayLike, steps: ArrayLike, least: int) -> StepsCurve | str:
    """Return the steps by batch size, or why there is no curve to fit; steps that are not finite are left out.

    ``steps`` has one value per entry of ``batches``, which may repeat, or is (replicates, batch sizes).

    >>> curve_of([8, 2, 4], [[1, 4, 2], [1, 4, float("nan")]], least=3).counts
    array([2., 1., 2.])
    >>> curve_of([2, 4], [4, 2], least=3)
    'needs at least 3 batch sizes'
    """
    sizes, table = np.asarray(batches, dtype=float), np.atleast_2d(np.asarray(steps, dtype=float))
    if sizes.ndim != 1 or table.ndim != 2 or table.shape[1] != len(sizes):
        raise InputError(f"expected steps for {sizes.size} batch sizes, got {table.shape}: one column per batch size")
    if not np.all(sizes > 0):
        raise InputError(f"expected positive batch sizes, got {sizes.tolist()}: leave the others out")
    finite = np.isfinite(table)
    if np.any(table[finite] <= 0):
        return "a number of steps is not positive"
    measured = np.unique(sizes[finite.any(axis=0)])
    if len(measured) < least:
        return f"needs at least {least} batch sizes"
    columns = [sizes == size for size in measured]
    values = tuple(np.log(table[:, column][finite[:, column]]) for column in columns)
    return StepsCurve(measured, values)


@dataclass(frozen=True)
class Redrawn:
    """Redrawn curves of mean log steps, (num, batch sizes), and the degrees of freedom that they were widened by."""

    curves: Floats
    free: int


def redraw(
    curve: StepsCurve, fitted: Floats | None, parameters: int, num: int, rng: np.random.Generator
) -> Redrawn | str:
    """Return redrawn curves, or why none can be drawn.

    With two runs or more at every batch size the runs are resampled within each batch size, as independent. Otherwise
    the residuals of all runs from the ``fitted`` curve are. Either way they are spread by :func:`widening`.
    """
    free = int(np.sum(curve.counts - 1))
    if np.all(curve.counts >= 2):
        return Redrawn(np.stack([resampled_means(values, num, rng, free) for values in curve.values], axis=1), free)
    if fitted is None:
        return "an interval needs at least 2 runs at every batch size"
    free = curve.n - parameters
    if free < 1:
        return f"an interval needs more than {parameters} runs or at least 2 at every batch size"
    residuals = np.concatenate([values - level for values, level in zip(curve.values, fitted, strict=True)])
    residuals = (residuals - np.mean(residuals)) * widening(curve.n, free, free)
    noise = [np.mean(rng.choice(residuals, (num, len(values))), axis=1) for values in curve.values]
    return Redrawn(fitted + np.stack(noise, axis=1), free)


def redraw_seeds(curve: StepsCurve, logs: Floats, num: int, rng: np.random.Generator) -> Redrawn | str:
    """Return redrawn curves with whole seeds resampled, ``logs`` (seeds, batch sizes) being those of the curve.

    For runs of which one seed has one at every batch size: from equal initial weights, they are no independent
    evidence. A seed without a run at a batch size is left out of the mean there, a resample without any altogether.
    """
    n = len(logs)
    if n < 2:
        return "an interval needs at least 2 seeds"
    weights = rng.multinomial(n, np.full(n, 1 / n), size=num).astype(float)
    there = np.isfinite(logs).astype(float)
    counts = weights @ there
    means = np.divide(weights @ np.nan_to_num(logs), counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    means = means[np.isfinite(means).all(axis=1)]
    return Redrawn(curve.logs + widening(n, n - 1, n - 1) * (means - curve.logs), n - 1)


def resampled_means(values: Floats, num: int, rng: np.random.Generator, free: int | None = None) -> Floats:
    """Return the means of ``num`` resamples of n >= 2 values, spread about their mean by :func:`widening`.

    ``free`` are the degrees of freedom of the spread, n - 1 unless values of other groups tell of it too.
    """
    n = len(values)
    means = np.mean(values[rng.integers(n, size=(num, n))], axis=1)
    return np.mean(values) + widening(n, n - 1, free or n - 1) * (means - np.mean(values))


def widening(n: int, unbiased: int, free: int) -> float:
    """Return how much wider than resamples of n values an honest interval is: sqrt(n / unbiased) t_{0.975, free} / z.

    Resampling divides the sum of squares by n, not by the degrees of freedom ``unbiased``, and takes the spread as
    known where Student's t, over z_{0.975} = 1.96, does not. A percentile interval so widened is Student's where
    resamples are normal, and keeps their skewness. Hesterberg (The American Statistician 69, 2015, section 4) makes the
    same correction by cutting off less of each tail, which cannot reach beyond the most extreme resample of few values.

    >>> round(widening(5, 4, 4), 3), round(widening(10**9, 10**9, 10**9), 3)
    (1.584, 1.0)
    """
    level = (1 + CONFIDENCE) / 2
    return float(np.sqrt(n / unbiased) * stdtrit(free, level) / ndtri(level))


def spread(value: float, draws: Floats, n: int) -> Floats:
    """Return the finite draws of a statistic over n resampled groups, spread about its value by :func:`widening`.

    >>> spread(1.0, np.array([1.0, 2.0, np.nan]), 5).round(3)
    array([1.   , 2.584])
    """
    return value + widening(n, n - 1, n - 1) * (draws[np.isfinite(draws)] - value)


def bounds(draws: Floats) -> tuple[float, float]:
    """Return the values with 2.5 % of the draws beyond on either side, infinite where the draws are.

    >>> bounds(np.arange(100.0))
    (2.0, 97.0)
    """
    ordered = np.sort(draws)
    skipped = int((1 - CONFIDENCE) / 2 * len(ordered))
    return float(ordered[skipped]), float(ordered[-1 - skipped])


def log_interval(
    value: float, draws: Floats | str, n: int, ends: tuple[str, str], free: float | None = None
) -> Interval:
    """Return the interval of exp(value) from draws of its logarithm, or without one, for the reason given instead.

    ``ends`` says what it means that the logarithm is minus or plus infinity: such a value, and such a bound, is None.

    >>> log_interval(0.0, np.array([-1.0, 0.0, np.inf, np.inf]), 4, ("nothing", "no end")).reason
    'no upper bound, 50 % of the resamples: no end'
    >>> log_interval(np.inf, "one run", 4, ("nothing", "no end"))
    Interval(value=None, lower=None, upper=None, n=4, reason='no end')
    """
    if np.isinf(value):
        return Interval(None, None, None, n, ends[int(value > 0)])
    if isinstance(draws, str):
        return Interval(float(np.exp(value)), None, None, n, draws)
    exact, reasons = [], []
    for name, bound in zip(("lower", "upper"), bounds(draws), strict=True):
        exact.append(None if np.isinf(bound) else float(np.exp(bound)))
        if np.isinf(bound):
            part = f"{100 * np.mean(draws == bound):.0f} % of the resamples"
            reasons.append(f"no {name} bound, {part}: {ends[int(bound > 0)]}")
    return Interval(float(np.exp(value)), exact[0], exact[1], n, "; ".join(reasons) or None, free)

"""Laws fitted to runs: power laws, steps against batch size, and where larger batches stop to save steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.statistics.hyperbolas import hyperbolas
from analysis.statistics.intervals import NUM_RESAMPLES, Interval
from analysis.statistics.piecewise import kinks, line
from analysis.statistics.resampling import (
    Floats,
    StepsCurve,
    bounds,
    curve_of,
    log_interval,
    redraw,
    redraw_seeds,
    spread,
)
from sharpness.errors import InputError

NUM_CURVES = 2000
ALL_PERFECT, NO_GAIN = "perfect scaling throughout: no S_min can be told", "no scaling at all: no E_min can be told"
NEVER_PERFECT = "perfect scaling does not hold even between the smallest batch sizes"
STILL_PERFECT = "perfect scaling does not end within the batch sizes measured"
NEVER_FALLING = "steps do not fall even between the smallest batch sizes"
STILL_FALLING = "steps still fall at the largest batch size measured"


@dataclass(frozen=True)
class Hyperbola:
    """S = S_min + E_min / B: the fewest steps, the fewest examples and the critical batch size E_min / S_min."""

    s_min: Interval
    e_min: Interval
    b_crit: Interval


@dataclass(frozen=True)
class Regimes:
    """The batch size up to which steps fall as 1/B, and the one from which they do not fall any more."""

    perfect_until: Interval
    flat_from: Interval


def power_law_by(x: ArrayLike, y: ArrayLike, group: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the slope of log y on log x over all points, with a bootstrap interval over groups such as seeds.

    Whole groups are resampled and the slope refitted; the percentile interval is that of slopes spread about the
    estimate by :func:`analysis.statistics.resampling.spread`. ``n`` is the number of groups.

    >>> power_law_by([1, 2, 4] * 2, [3, 6, 12] * 2, [0, 0, 0, 1, 1, 1]).reason
    'needs at least 3 groups'
    """
    a, b, members = _finite(x, y, group)
    codes, names = pd.factorize(members, use_na_sentinel=False)
    n = len(names)
    reason = _no_slope(a, b) or ("needs at least 3 groups" if n < 3 else None)
    if reason:
        return _none(n, reason)
    u, v = (np.log(each) - np.mean(np.log(each)) for each in (a, b))
    sums = np.stack([np.bincount(codes, part) for part in (np.ones_like(u), u, v, u * u, u * v)], axis=1).astype(float)
    slope = float(_slopes(np.sum(sums, axis=0, keepdims=True))[0])
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=NUM_RESAMPLES).astype(float)
    slopes = _slopes(times @ sums)
    lower, upper = bounds(spread(slope, slopes, n))
    return Interval(slope, lower, upper, n, free=n - 1)


def _slopes(sums: Floats) -> Floats:
    """Return slopes from the sums of 1, u, v, u^2 and uv, (resamples, 5); NaN where all u are one."""
    n, u, v, uu, uv = sums.T
    square = n * uu - u * u
    return np.divide(n * uv - u * v, square, out=np.full(len(n), np.nan), where=square > 1e-9 * n * uu)


def _finite(x: ArrayLike, y: ArrayLike, group: ArrayLike) -> tuple[Floats, Floats, np.ndarray]:
    a, b, members = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(group)
    if not (a.ndim == 1 and a.shape == b.shape == members.shape):
        raise InputError(
            f"expected one y and one group per x, got {a.shape}, {b.shape} and {members.shape}: match them"
        )
    both = np.isfinite(a) & np.isfinite(b)
    return a[both], b[both], members[both]


def _no_slope(x: Floats, y: Floats) -> str | None:
    if np.any(x <= 0) or np.any(y <= 0):
        return "a value is not positive"
    return "needs at least 3 different x" if len(np.unique(x)) < 3 else None


def _none(n: int, reason: str) -> Interval:
    return Interval(None, None, None, n, reason)


def hyperbola(batches: ArrayLike, steps: ArrayLike, *, paired: bool = False, seed: int = 0) -> Hyperbola:
    """Return the fit of S = S_min + E_min / B to relative errors, with bootstrap intervals.

    (S / S_min - 1)(E / E_min - 1) = 1 with E = B S examples (McCandlish et al. 2018, eq. 2.11), B_crit = E_min / S_min
    (eq. 2.12), fitted to the geometric mean of the runs at each batch size (see ``hyperbolas``). ``steps`` is one curve
    or (replicates, batch sizes), NaN where the goal was not reached; a batch size that only some reached looks better
    than it is. Replicates are independent runs or searches, not resamples of one: ``redraw`` resamples them. With
    ``paired`` a row holds the runs of one seed, which share their initial weights, and whole rows are resampled.

    >>> fit = hyperbola([10, 100, 1000], [1100, 200, 110])
    >>> round(fit.s_min.value), round(fit.e_min.value), round(fit.b_crit.value)
    (100, 10000, 100)
    >>> hyperbola([1, 2, 4], [8, 4, 2]).b_crit.reason
    'perfect scaling throughout: no S_min can be told'
    >>> hyperbola([1, 2, 4], [8, 8, 8]).b_crit.reason
    'no scaling at all: no E_min can be told'
    """
    curve = curve_of(batches, steps, 3)
    if isinstance(curve, str):
        none = _none(_measured(steps), curve)
        return Hyperbola(none, none, none)
    fit = hyperbolas(curve.batches, curve.logs[None], curve.counts)[:, 0]
    fitted = np.log(np.exp(fit[0]) + np.exp(fit[1]) / curve.batches)
    rng = np.random.default_rng(seed)
    if paired:
        redrawn = redraw_seeds(curve, _by_seed(curve, batches, steps), NUM_CURVES, rng)
    else:
        redrawn = redraw(curve, fitted, 2, NUM_CURVES, rng)
    ends = ((ALL_PERFECT, ""), (NO_GAIN, ""), (NO_GAIN, ALL_PERFECT))
    if isinstance(redrawn, str):
        return Hyperbola(*(log_interval(float(fit[k]), redrawn, curve.n, ends[k]) for k in range(3)))
    fits = hyperbolas(curve.batches, redrawn.curves, curve.counts)
    return Hyperbola(*(log_interval(float(fit[k]), fits[k], curve.n, ends[k], redrawn.free) for k in range(3)))


def _by_seed(curve: StepsCurve, batches: ArrayLike, steps: ArrayLike) -> Floats:
    """Return the log steps (seeds, batch sizes) at the batch sizes of a curve, ascending, NaN where there are none."""
    sizes, table = np.asarray(batches, dtype=float), np.atleast_2d(np.asarray(steps, dtype=float))
    order = [int(np.flatnonzero(sizes == size)[0]) for size in curve.batches]
    return np.log(np.where(np.isfinite(table), table, np.nan))[:, order]


def regimes(batches: ArrayLike, samples: ArrayLike, *, seed: int = 0) -> Regimes:
    """Return where perfect scaling ends and where steps stop to fall, with bootstrap intervals.

    The three regimes of Shallue et al. (2019): a continuous line of log S on log B with slope -1, a slope between and
    slope 0, fitted by least squares to the mean log steps (see ``kinks``). ``samples`` are like the ``steps`` of
    :func:`hyperbola`. None with the reason where a regime is not there or does not end within the batch sizes measured.

    >>> found = regimes([1, 2, 4, 8, 16, 32, 64, 128, 256], [512, 256, 128, 64, 32, 32, 32, 32, 32])
    >>> round(found.perfect_until.value, 6), round(found.flat_from.value, 6)
    (16.0, 16.0)
    >>> regimes([1, 2, 4, 8], [8, 4, 2, 1]).perfect_until.reason
    'perfect scaling does not end within the batch sizes measured'
    """
    curve = curve_of(batches, samples, 4)
    if isinstance(curve, str):
        none = _none(_measured(samples), curve)
        return Regimes(none, none)
    x = np.log(curve.batches)
    found = kinks(x, curve.logs[None], curve.counts)
    fitted = line(x, curve.logs, curve.counts, found[0, 0], found[1, 0])
    redrawn = redraw(curve, fitted, 4, NUM_CURVES, np.random.default_rng(seed))
    places = [redrawn] * 2 if isinstance(redrawn, str) else [*_open_ends(x, kinks(x, redrawn.curves, curve.counts))]
    values = _open_ends(x, found)[:, 0]
    ends = ((NEVER_PERFECT, STILL_PERFECT), (NEVER_FALLING, STILL_FALLING))
    return Regimes(*(log_interval(float(values[k]), places[k], curve.n, ends[k]) for k in range(2)))


def _open_ends(x: Floats, places: Floats) -> Floats:
    """Return the kinks with those at the ends of x moved to infinity: they lie somewhere beyond."""
    return np.where(places <= x[0], -np.inf, np.where(places >= x[-1], np.inf, places))


def scaling_overhead(batches: ArrayLike, steps: ArrayLike, tolerance: float = 1.2, *, seed: int = 0) -> Interval:
    """Return the largest batch size up to which S(B) <= tolerance * S(B_0) B_0 / B for all B, B_0 the smallest.

    The critical batch size of Zhang et al. (2025) with their overhead of 20 %, except that perfect scaling starts at
    the smallest batch size here, where theirs starts at the best one. It is one of the batch sizes measured; where it
    is the largest of them it has no upper bound. On a hyperbola, and B_0 far below, it is a fifth of B_crit. ``steps``
    as for :func:`hyperbola`.

    >>> scaling_overhead([1, 2, 4, 8], [80, 42, 23, 18]).value
    4.0
    """
    curve = curve_of(batches, steps, 2)
    if isinstance(curve, str):
        return _none(_measured(steps), curve)
    value, largest = float(_within(curve, curve.logs[None], tolerance)[0]), float(curve.batches[-1])
    redrawn = redraw(curve, None, 0, NUM_CURVES, np.random.default_rng(seed))
    if isinstance(redrawn, str):
        return Interval(value, None, None, curve.n, redrawn)
    reached = _within(curve, redrawn.curves, tolerance)
    lower, upper = bounds(reached)
    if upper < largest:
        return Interval(value, lower, upper, curve.n)
    part = f"{100 * np.mean(reached == largest):.0f} % of the resamples"
    return Interval(value, lower, None, curve.n, f"no upper bound, {part}: no end within the batch sizes measured")


def _within(curve: StepsCurve, logs: Floats, tolerance: float) -> Floats:
    """Return for each curve the last batch size before the first that needs more than the tolerated steps."""
    examples = logs + np.log(curve.batches)
    fine = examples <= examples[:, :1] + np.log(tolerance) + 1e-12
    return curve.batches[np.sum(np.cumprod(fine, axis=1), axis=1) - 1]


def _measured(steps: ArrayLike) -> int:
    return int(np.sum(np.isfinite(np.asarray(steps, dtype=float))))

"""The numbers of Smith & Le 2018: accuracies by setting and batch size, their peaks, and how these scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from analysis.runs import Tables
from analysis.statistics.intervals import CONFIDENCE, NUM_RESAMPLES, Interval, paired_difference, summarise
from analysis.statistics.resampling import Floats, bounds, spread
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

REACH = 4.2
"""The parabola is fitted to the batch sizes within this factor of the best one: four, and their rounding. With half of
it the peak of many resamples of pilot seeds lay elsewhere."""
MOST_WITHOUT = 1 - CONFIDENCE
"""A peak that more than this share of the resamples do not have is none."""
KNOBS = ("learning_rate", "num_train", "momentum")
TESTED = (*KNOBS, "batch_size", "seed", "updates", "accuracy", "train_loss", "diverged")
FEWEST_SETTINGS = 3
"""A slope needs at least so many settings that have a peak."""


def peak_of(batches: Sequence[float], accuracy: Floats, *, seed: int = 0) -> Interval:
    """Return the best batch size of accuracies, seeds x batches, over growing batch sizes, or why there is no peak.

    The vertex of the least-squares parabola in log B through the grid points around the best mean accuracy, up to a
    factor of :data:`REACH` to either side. A best point at an end of the grid is no peak, nor is a parabola that opens
    upwards or has its vertex outside its points. The interval is a bootstrap over seeds of all that: percentiles of log
    B, spread about the peak by ``t_{0.975, n-1} / z_{0.975} sqrt(n / (n - 1))`` (Hesterberg, The American Statistician
    69, 2015), since plain ones of few seeds are too narrow. Where more than 5 % of the resamples have no peak there is
    none: ``lower`` is ``None``.

    >>> curve = -np.log(np.array([4.0, 8, 16, 32, 64]) / 16) ** 2
    >>> round(peak_of([4, 8, 16, 32, 64], np.array([curve, curve - 1])).value, 6)
    16.0
    """
    logs, count = np.log(np.asarray(batches, dtype=float)), len(accuracy)
    if count < 2 or len(logs) < 3:
        return Interval(None, None, None, count, "needs 2 seeds and 3 batch sizes at least")
    mean = accuracy.mean(axis=0)
    best = int(np.argmax(mean))
    if best in (0, len(logs) - 1):
        end = "smallest" if best == 0 else "largest"
        return Interval(None, None, None, count, f"the best batch, {batches[best]:g}, is the {end} tried")
    (value,) = _vertices(logs, mean[None])
    if not np.isfinite(value):
        return Interval(None, None, None, count, "the parabola has no highest point among its batches")
    resampled = _vertices(logs, accuracy[resamples(count, seed)].mean(axis=1))
    without = float(np.mean(~np.isfinite(resampled)))
    if without > MOST_WITHOUT:
        reason = f"{100 * without:.0f} % of the resamples of seeds have no peak inside the grid"
        return Interval(float(np.exp(value)), None, None, count, reason)
    level = (1 + CONFIDENCE) / 2
    wider = stdtrit(count - 1, level) / ndtri(level) * np.sqrt(count / (count - 1))
    around = value + wider * (resampled[np.isfinite(resampled)] - value)
    lower, upper = np.exp(np.percentile(around, [100 * (1 - level), 100 * level]))
    return Interval(float(np.exp(value)), float(lower), float(upper), count)


def resamples(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the seeds of each resample, the same for every setting: networks of a seed start from the same weights."""
    return np.random.default_rng(seed).integers(count, size=(NUM_RESAMPLES, count))


def _vertices(logs: Floats, curves: Floats) -> Floats:
    """Return where each curve, in a row, has its peak in log B; NaN where it has none inside the grid."""
    best = np.argmax(curves, axis=1)
    found = np.full(len(curves), np.nan)
    for point in range(1, len(logs) - 1):
        rows = best == point
        if rows.any():
            found[rows] = _vertex(logs, curves[rows], point)
    return found


def _vertex(logs: Floats, curves: Floats, point: int) -> Floats:
    """Return the vertices of the parabolas through each curve's points around one; NaN where there is no maximum."""
    window = np.abs(logs - logs[point]) <= np.log(REACH)
    x = logs[window]
    square, linear, _ = np.polyfit(x - x.mean(), curves[:, window].T, 2)
    at = x.mean() + np.divide(-linear, 2 * square, out=np.full(len(curves), np.nan), where=square < 0)
    return np.where((at >= x[0]) & (at <= x[-1]), at, np.nan)


def rise_over_ends(accuracy: Floats) -> Interval:
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


@dataclass(frozen=True)
class Sweep:
    """A setting that is varied, its name, and the quantity that the best batch size is to be proportional to."""

    name: str
    label: str
    x: Callable[[float], float] = float


SWEEPS = {
    "learning_rate": Sweep("learning rate", "Learning rate"),
    "num_train": Sweep("training images", "Training images N"),
    "momentum": Sweep("momentum", "1/(1 - m), m the momentum", lambda m: 1 / (1 - m)),
}


@dataclass(frozen=True)
class Accuracies:
    """The accuracies (%) of one setting, seeds x batches, and which batches lack a seed and are left out of them."""

    batches: list[int]
    seeds: list[int]
    accuracy: Floats
    left_out: str


def base_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the learning rate, the number of images and the momentum that the sweeps go out from."""
    return dict(zip(KNOBS, (settings["rate"], settings["images"], settings["momentum"]), strict=True))


def at_the_end(tables: Tables) -> pd.DataFrame:
    """Return the accuracies after the last of the numbers of updates."""
    rows = tables.rows("test_accuracy", *TESTED)
    return rows_where(rows, updates=rows["updates"].max()) if len(rows) else rows


def accuracy_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each setting and batch size what noise gains: the accuracy less the full batch's of the same seed.

    ``mean``, ``std`` and ``n`` are of the accuracies (%), ``gain``, ``lower`` and ``upper`` of the differences (pp).
    """
    table = []
    for setting in settings_in(rows):
        own = rows_where(rows, **setting)
        full = by_seed(rows_where(own, batch_size=setting["num_train"]))
        for batch, here in groups(own, "batch_size"):
            values = by_seed(here)
            found = summarise(list(values.values()))
            both = sorted(values.keys() & full.keys())
            gain = paired_difference([full[seed] for seed in both], [values[seed] for seed in both])
            row = {**setting, "batch_size": batch, "mean": found.mean, "std": found.std, "n": found.n}
            row |= {"gain": gain.value, "lower": gain.lower, "upper": gain.upper}
            table.append(row | {"diverged": int(np.sum(np.asarray(here["diverged"], dtype=bool)))})
    columns = (*KNOBS, "batch_size", "mean", "std", "n", "gain", "lower", "upper", "diverged")
    return pd.DataFrame(table, columns=pd.Index(columns))


def settings_in(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the settings that there are accuracies of."""
    return records(rows.filter(list(KNOBS)).drop_duplicates().sort_values(list(KNOBS)))


def by_seed(rows: pd.DataFrame) -> dict[int, float]:
    """Return the accuracy (%) of each seed whose network did not diverge."""
    known = rows_if(rows, np.isfinite(floats(rows, "accuracy")))
    return {int(seed): 100 * value for seed, value in zip(known["seed"], floats(known, "accuracy"), strict=True)}


def curve_of(rows: pd.DataFrame, setting: Mapping[str, Any]) -> Accuracies:
    """Return the accuracies of a setting at the batch sizes at which no network diverged."""
    own = rows_where(rows, **setting)
    seeds = sorted({int(seed) for seed in own["seed"]})
    batches, columns, left_out = [], [], []
    for batch, here in groups(own, "batch_size"):
        values = by_seed(here)
        if len(values) == len(seeds):
            batches.append(int(batch))
            columns.append([values[seed] for seed in seeds])
        else:
            left_out.append(f"batch {batch} ({len(seeds) - len(values)} of {len(seeds)} diverged)")
    accuracy = np.array(columns, dtype=float).T if columns else np.empty((len(seeds), 0))
    return Accuracies(batches, seeds, accuracy, ", ".join(left_out))


@dataclass(frozen=True)
class SweepPoint:
    """One value of a sweep with its setting, its accuracies and their peak."""

    name: str
    value: float
    setting: Mapping[str, Any]
    curve: Accuracies
    peak: Interval

    @property
    def has_peak(self) -> bool:
        """True if the peak lies inside the grid for sure."""
        return self.peak.lower is not None

    @property
    def x(self) -> float:
        """The quantity that the best batch size is to be proportional to."""
        return SWEEPS[self.name].x(self.value)


def settings_found(rows: pd.DataFrame, base: Mapping[str, Any]) -> list[SweepPoint]:
    """Return every sweep's settings with their curves and peaks; the base setting is in all of them."""
    found = []
    for name in SWEEPS:
        for value in sorted(set(rows[name])):
            setting = {**base, name: value}
            if len(rows_where(rows, **setting)):
                curve = curve_of(rows, setting)
                found.append(SweepPoint(name, value, setting, curve, peak_of(curve.batches, curve.accuracy)))
    return found


def peak_table(found: Sequence[SweepPoint], base: Mapping[str, Any]) -> pd.DataFrame:
    """Return the best batch size of every setting with its interval, or why it has none, and the noise scale there.

    ``g = rate (N / B - 1) / (1 - m)`` (Smith & Le 2018, section 5, and Smith et al. 2018 for the momentum); ``times``
    is how many times as large as in the base setting the best batch is to be.
    """
    rows = []
    for each in found:
        curve, peak, setting = each.curve, each.peak, each.setting
        best, scale = peak.value if each.has_peak else None, setting["learning_rate"] / (1 - setting["momentum"])
        top = summarise(curve.accuracy.max(axis=1) if curve.batches else [])
        times = each.x / SWEEPS[each.name].x(base[each.name])
        rise = rise_over_ends(curve.accuracy)
        rows.append(
            {"varied": each.name, "value": each.value, "times": times, "found": each.has_peak, "batch": peak.value}
            | {"lower": peak.lower, "upper": peak.upper, "reason": peak.reason}
            | {"g": None if best is None else scale * (setting["num_train"] / best - 1)}
            | {"seeds": len(curve.seeds), "best_accuracy": top.mean, "best_accuracy_std": top.std}
            | {"rise": rise.value, "rise_lower": rise.lower, "rise_upper": rise.upper, "left_out": curve.left_out}
        )
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=pd.Index(["varied", "found"]))


def slope_of(found: Sequence[SweepPoint], name: str) -> Interval:
    """Return the slope of log best batch on log x over the settings of a sweep that have a peak, 1 by the theory.

    A bootstrap over seeds: each resample has its own peaks in all settings, and its own slope.
    """
    own = [each for each in found if each.name == name]
    with_peak = [each for each in own if each.has_peak]
    if len(with_peak) < FEWEST_SETTINGS:
        reason = f"{len(with_peak)} of {len(own)} settings have a peak inside the grid: a slope needs {FEWEST_SETTINGS}"
        return Interval(None, None, None, len(with_peak), reason)
    x, count = np.log([each.x for each in with_peak]), len(with_peak[0].curve.seeds)
    draws = resamples(count)
    peaks = np.array([each.peak.value for each in with_peak], dtype=float)
    vertices = [_vertices(np.log(each.curve.batches), each.curve.accuracy[draws].mean(axis=1)) for each in with_peak]
    drawn = np.array(vertices)
    value, slopes = (np.polyfit(x, y, 1)[0] for y in (np.log(peaks), drawn[:, np.isfinite(drawn).all(axis=0)]))
    lower, upper = bounds(spread(float(value), slopes, count))
    return Interval(float(value), lower, upper, count, free=count - 1)

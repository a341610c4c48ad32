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
from analysis.statistics.fits import power_law_by
from analysis.statistics.intervals import CONFIDENCE, NUM_RESAMPLES, Interval, paired_difference, summarise
from sharpness.plots.frames import floats, groups, records, rows_where

Array = NDArray[np.float64]
REACH = 2
"""Grid points to either side of the best one that the parabola is fitted to."""
MOST_WITHOUT = 1 - CONFIDENCE
"""A peak that more than this share of the resamples do not have is none."""

COSTS = 2.0
"""Percentage points of accuracy that the onset of noise costs."""
KNOBS = ("learning_rate", "num_train", "momentum")
TESTED = (*KNOBS, "batch_size", "seed", "accuracy")
FEWEST_SETTINGS = 3
"""A slope needs at least so many settings that have a peak."""


@dataclass(frozen=True)
class Peak:
    """The batch size of the highest mean accuracy with its interval over seeds, or the reason why there is no peak.

    ``by_seed`` holds the best batch size of each seed whose own curve has a peak beside that of the mean.
    """

    batch: Interval
    by_seed: Mapping[int, float]

    @property
    def found(self) -> bool:
        """True if the peak lies inside the grid for sure."""
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
class Curve:
    """The accuracies (%) of one setting, seeds x batches, and which batches lack a seed and are left out of them."""

    batches: list[int]
    seeds: list[int]
    accuracy: NDArray[np.float64]
    left_out: str


def base_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the learning rate, the number of images and the momentum that the sweeps go out from."""
    training = settings["base"]["training"]
    values = (training["learning_rate"], settings["base"]["data"]["num_train"], training["momentum"])
    return dict(zip(KNOBS, values, strict=True))


def accuracy_table(tables: Tables) -> pd.DataFrame:
    """Return mean, standard deviation and number of the accuracies (%) of each setting and batch size."""
    rows = tables.rows("test_accuracy", *TESTED)
    table = []
    for setting in _settings(tables):
        mine = rows_where(rows, **setting)
        for batch, runs in groups(rows_where(tables.runs, **setting), "batch_size"):
            found = summarise(100 * floats(rows_where(mine, batch_size=batch), "accuracy"))
            table.append({**setting, "batch_size": batch, "mean": found.mean, "std": found.std, "n": found.n})
            table[-1] |= {s: len(rows_where(runs, status=s)) for s in ("diverged", "missing")}
    return pd.DataFrame(table)


def _settings(tables: Tables) -> list[dict[str, Any]]:
    return records(tables.runs.filter(list(KNOBS)).drop_duplicates().sort_values(list(KNOBS)))


def curve_of(tables: Tables, setting: Mapping[str, Any]) -> Curve:
    """Return the accuracies of a setting at the batch sizes at which every seed was measured."""
    runs, rows = rows_where(tables.runs, **setting), tables.rows("test_accuracy", *TESTED)
    seeds = sorted(int(seed) for seed in set(runs["seed"]))
    batches, columns, left_out = [], [], []
    for batch, _ in groups(runs, "batch_size"):
        here = rows_where(rows, **setting, batch_size=batch)
        values = dict(zip(here["seed"], 100 * floats(here, "accuracy"), strict=True))
        if len(values) == len(seeds):
            batches.append(int(batch))
            columns.append([values[seed] for seed in seeds])
        else:
            left_out.append(f"batch {batch} ({len(values)} of {len(seeds)} seeds)")
    accuracy = np.array(columns, dtype=float).T if columns else np.empty((len(seeds), 0))
    return Curve(batches, seeds, accuracy, ", ".join(left_out))


@dataclass(frozen=True)
class Found:
    """One value of a sweep with its setting, its accuracies and their peak."""

    name: str
    value: float
    setting: Mapping[str, Any]
    curve: Curve
    peak: Peak

    @property
    def labels(self) -> dict[str, Any]:
        """The setting that is varied, its value, and the quantity that the best batch size is to be proportional to."""
        return {"varied": self.name, "value": self.value, "x": SWEEPS[self.name].x(self.value)}


def settings_found(tables: Tables, base: Mapping[str, Any]) -> list[Found]:
    """Return every sweep's settings with their curves and peaks; the base setting is in all of them."""
    found = []
    for name in SWEEPS:
        for value in sorted(set(tables.runs[name])):
            setting = {**base, name: value}
            if len(rows_where(tables.runs, **setting)):
                curve = curve_of(tables, setting)
                peak = peak_of(curve.batches, curve.accuracy, curve.seeds)
                found.append(Found(name, value, setting, curve, peak))
    return found


def peak_table(found: Sequence[Found]) -> pd.DataFrame:
    """Return the best batch size of every setting with its interval, or why it has none, and the noise scale there.

    ``g = rate (N / B - 1) / (1 - m)`` (Smith & Le 2018, section 5, and Smith et al. 2018 for the momentum).
    """
    rows = []
    for each in found:
        curve, peak, setting = each.curve, each.peak, each.setting
        best, scale = peak.batch.value if peak.found else None, setting["learning_rate"] / (1 - setting["momentum"])
        top = summarise(curve.accuracy.max(axis=1) if curve.batches else [])
        rows.append(
            each.labels
            | {
                "found": peak.found,
                "batch": peak.batch.value,
                "lower": peak.batch.lower,
                "upper": peak.batch.upper,
                "reason": peak.batch.reason,
            }
            | {"g": None if best is None else scale * (setting["num_train"] / best - 1)}
            | {"seeds": len(curve.seeds), "seeds_with_peak": len(peak.by_seed)}
            | {"best_accuracy": top.mean, "best_accuracy_std": top.std, "left_out": curve.left_out}
        )
    return pd.DataFrame(rows)


def optimum_table(found: Sequence[Found]) -> pd.DataFrame:
    """Return each seed's own best batch size at the settings that have a peak."""
    rows = [
        {**each.labels, "seed": seed, "batch": batch} for each in found for seed, batch in each.peak.by_seed.items()
    ]
    return pd.DataFrame(rows, columns=pd.Index(["varied", "value", "x", "seed", "batch"]))


def slope_of(peaks: pd.DataFrame, optima: pd.DataFrame, name: str) -> Interval:
    """Return the slope of log best batch on log x over the settings of a sweep that have a peak, 1 by the theory."""
    settings = rows_where(peaks, varied=name)
    found = int(np.sum(np.asarray(settings["found"], dtype=bool)))
    if found < FEWEST_SETTINGS:
        reason = f"{found} of {len(settings)} settings have a peak inside the grid: a slope needs {FEWEST_SETTINGS}"
        return Interval(None, None, None, found, reason)
    return _slope(rows_where(optima, varied=name), "batch")


def _slope(rows: pd.DataFrame, name: str) -> Interval:
    return power_law_by(floats(rows, "x"), floats(rows, name), np.asarray(rows["seed"]))


def onset_table(found: Sequence[Found]) -> pd.DataFrame:
    """Return each seed's batch size below which it loses more than a few points to its best; see ``onsets``."""
    rows = [
        {**each.labels, "seed": seed, "onset": onset}
        for each in found
        for seed, onset in zip(each.curve.seeds, onsets(each.curve.batches, each.curve.accuracy), strict=True)
    ]
    table = pd.DataFrame(rows, columns=pd.Index(["varied", "value", "x", "seed", "onset"]))
    return rows_where(table.assign(known=np.isfinite(floats(table, "onset"))), known=True)


def onset_slope(onset: pd.DataFrame, name: str) -> Interval:
    """Return the slope of the log of that batch size on log x, 1 where the noise scale alone counts."""
    rows = rows_where(onset, varied=name)
    values = len(set(rows["x"]))
    if values < FEWEST_SETTINGS:
        return Interval(None, None, None, values, f"it lies inside the grid for {values} values only")
    return _slope(rows, "onset")

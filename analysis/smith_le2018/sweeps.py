"""The sweeps of Smith & Le 2018: accuracies by setting and batch size, their peaks, and how these scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs import Tables
from analysis.smith_le2018.peaks import Peak, onsets, peak_of
from analysis.statistics.fits import power_law_by
from analysis.statistics.intervals import Interval, summarise
from sharpness.plots.frames import floats, groups, records, rows_where

KNOBS = ("learning_rate", "num_train", "momentum")
TESTED = (*KNOBS, "batch_size", "seed", "accuracy")
FEWEST_SETTINGS = 3
"""A slope needs at least so many settings that have a peak."""


@dataclass(frozen=True)
class Sweep:
    """What is varied, how it is called, and the quantity that the best batch size is to be proportional to."""

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
        """What is varied, its value, and the quantity that the best batch size is to be proportional to."""
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

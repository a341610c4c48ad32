"""Kendall's tau of every measure with every kind of generalisation gap, over all settings and one setting at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs import Tables
from analysis.statistics.granulated import granulated_tau
from analysis.statistics.intervals import Interval, summarise
from analysis.statistics.rank_correlation import kendall_tau, resamples, weighted_taus
from analysis.statistics.resampling import bounds, spread
from sharpness.plots.frames import floats, records, rows_where

FAMILIES = {
    "norm": ("weight_norm", "spectral_product", "distance"),
    "plain": (
        "eigenvalue",
        "trace",
        "fisher_trace",
        "directional",
        "keskar",
        "sam_plain",
        "pac_bayes_plain",
        "worst_l2_plain",
        "worst_linf_plain",
        "average_plain",
    ),
    "adaptive": (
        "worst_l2_adaptive",
        "worst_linf_adaptive",
        "average_adaptive",
        "sam_adaptive",
        "pac_bayes_adaptive",
        "radius_adaptive",
        "relative_flatness",
        "fisher_rao_norm",
    ),
    "normalised": (
        "worst_l2_plain_normalised",
        "worst_linf_plain_normalised",
        "average_plain_normalised",
        "worst_l2_adaptive_normalised",
        "worst_linf_adaptive_normalised",
        "average_adaptive_normalised",
    ),
}
"""The measures by kind: norms, sharpness that ignores how large the weights are, that knows, and of unit logits."""
MEASURES = tuple(name for family in FAMILIES.values() for name in family)
SHARPNESS = tuple(name for name in MEASURES if name not in FAMILIES["norm"])
TARGETS = {
    "accuracy_gap": "train - test accuracy",
    "loss_gap": "test - train loss",
    "test_error": "test error",
    "shifted_error": "error on corrupted test images",
    "learning_rate": "learning rate",
}
"""The quantities that the measures are correlated with; the learning rate over all settings alone."""
VARIED = ("learning_rate", "batch_size", "weight_decay", "augmentation", "network")


def measured_runs(tables: Tables) -> pd.DataFrame:
    """Return the runs that ended at the training loss, the only ones that are compared, with gaps and measures.

    ``shifted_error`` is the mean over corruptions and severities. What was not measured is NaN.
    """
    runs = rows_where(tables.finished, ended_by="train_loss").copy()
    values = tables.rows("measures", "run_id", "measure", "value")
    for name in MEASURES:
        of_run = {row["run_id"]: row["value"] for row in records(rows_where(values, measure=name))}
        runs[name] = np.array([of_run.get(run) for run in runs["run_id"]], dtype=float)
    runs["accuracy_gap"] = floats(runs, "train_accuracy") - floats(runs, "test_accuracy")
    runs["loss_gap"] = floats(runs, "test_loss") - floats(runs, "train_loss")
    runs["test_error"] = 1 - floats(runs, "test_accuracy")
    shifted = tables.rows("shifted", "run_id", "accuracy")
    errors = {run: float(np.mean(1 - floats(rows, "accuracy"))) for run, rows in shifted.groupby("run_id")}
    runs["shifted_error"] = np.array([errors.get(run) for run in runs["run_id"]], dtype=float)
    return runs


def varied_in(runs: pd.DataFrame) -> list[str]:
    """Return the settings that have more than one value among the runs."""
    return [name for name in VARIED if len(set(runs[name])) > 1]


def settings_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting, gaps and measures averaged over its seeds.

    Runs that differ in their seed alone are no independent evidence on settings.
    """
    numbers = [*MEASURES, *(name for name in TARGETS if name not in VARIED)]
    rows = []
    for _, group in runs.groupby(list(VARIED), sort=False):
        setting = {name: group[name].iloc[0] for name in VARIED}
        rows.append(setting | {name: summarise(floats(group, name)).mean for name in numbers})
    return pd.DataFrame(rows, columns=pd.Index([*VARIED, *numbers]))


def all_taus(runs: pd.DataFrame) -> pd.DataFrame:
    """Return tau with its interval for every measure and target: ``over`` all settings, one setting each, their mean.

    The granulated ones are those of :func:`analysis.statistics.granulated.granulated_tau`, seeds averaged.
    """
    varied, settings = varied_in(runs), settings_of(runs)
    rows: list[dict[str, Any]] = []
    for measure in MEASURES:
        family = next(name for name, members in FAMILIES.items() if measure in members)
        for target in TARGETS:
            if target in VARIED:
                found = {"all": kendall_tau(floats(settings, measure), floats(settings, target))}
            elif varied:
                granulated = granulated_tau(runs, measure, target, varied, average=["seed"])
                found = {"all": granulated.overall, **granulated.by_hyper, "mean": granulated.mean}
            else:
                found = {"all": kendall_tau(floats(settings, measure), floats(settings, target))}
            shared = {"measure": measure, "family": family, "target": target}
            rows += [shared | {"over": over, **asdict(interval)} for over, interval in found.items()]
    columns = ["measure", "family", "target", "over", "value", "lower", "upper", "n", "reason", "free"]
    numbers = dict.fromkeys(("value", "lower", "upper", "free"), float)
    return pd.DataFrame(rows, columns=pd.Index(columns)).astype(numbers)


def tau_of(taus: pd.DataFrame, measure: str, target: str, over: str = "all") -> Interval:
    """Return one tau of the table."""
    rows = records(rows_where(taus, measure=measure, target=target, over=over))
    if not rows:
        return Interval(None, None, None, 0, "no run reached the training loss")
    return Interval(**{name: rows[0][name] for name in ("value", "lower", "upper", "n", "reason", "free")})


def mean_contrast(
    settings: pd.DataFrame, contrasts: Sequence[tuple[tuple[str, str], tuple[str, str]]], *, sizes: bool = False
) -> Interval:
    """Return the mean over contrasts of tau(first) - tau(second), each a pair of columns, with a bootstrap interval.

    The same resamples of settings serve all taus, so that what they share cancels. With ``sizes`` the taus count by
    their absolute values. A contrast without both taus is left out; the reason says how many.
    """
    number = len(settings)
    if number < 3:
        return Interval(None, None, None, number, "needs at least 3 settings")
    weights = np.vstack([np.ones(number), resamples(number)])  # the first row is the settings themselves

    def tau(pair: tuple[str, str]) -> NDArray[np.float64]:
        values = weighted_taus(floats(settings, pair[0]), floats(settings, pair[1]), weights)
        return np.abs(values) if sizes else values

    differences = [tau(first) - tau(second) for first, second in contrasts]
    known = [each for each in differences if np.isfinite(each[0])]
    if not known:
        return Interval(None, None, None, number, "no measure has both correlations")
    means = np.mean(known, axis=0)
    reason = f"{len(known)} of {len(contrasts)} pairs" if len(known) < len(contrasts) else None
    value = float(means[0])
    lower, upper = bounds(spread(value, means[1:], number))
    return Interval(value, lower, upper, number, reason, free=number - 1)

"""Does sharpness go with generalisation? Every run of the varied network against SB of its seed, by what changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.keskar2017.numbers import Results, of_runs
from analysis.runs import with_columns
from analysis.statistics.intervals import Interval, student
from analysis.statistics.rank_correlation import weighted_taus
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

MEASURES = {
    "top_eigenvalue": "λ_max",
    "phi": "Metric 2.1",
    "worst_case": "adaptive worst case",
    "fisher_rao_norm": "Fisher-Rao norm",
}
"""The measures of sharpness by column; a rescaling of the layers moves the first two and not the others."""
OUTCOMES = {"test_accuracy": "test accuracy", "test_loss": "test loss"}
"""The outcomes that they are held against."""
PROBES = {"top_eigenvalue": "eigenvalues", "worst_case": "worst_case", "fisher_rao_norm": "fisher_rao_norm"}
GROUPS = {
    "batch size": ("batch",),
    "label noise": ("label noise",),
    "start": ("warm start",),
    "remedies": ("augmentation", "conservative", "robust (SAM)", "growing batch"),
    "critics": (
        "base",
        "rate",
        "linear rate",
        "sqrt rate",
        "equal updates",
        "equal updates, sqrt rate",
        "equal loss",
    ),
}
"""What was changed, by the arms that change it; training that goes on from a solution is not one of its kind."""
NAMED_BY = {
    "batch": "batch_size",
    "label noise": "label_noise",
    "warm start": "warm_epochs",
    "rate": "learning_rate",
}
"""The label that tells the conditions of an arm apart, where it has several."""
FEWEST = 4
"""Conditions of a seed that a rank correlation needs."""


def changes(results: Results) -> pd.DataFrame:
    """Return by condition and seed the change of each measure (log) and outcome from the SB run of that seed.

    Runs with other label noise than the network's own are compared with SB at that noise, which is no condition. Where
    a training loss is the goal, runs that did not get there are left out (:func:`short_of_the_goal`).
    Columns: ``group``, ``condition``, ``seed``, a column for each of :data:`MEASURES` and :data:`OUTCOMES`; NaN where a
    measure is not positive or there is none.
    """
    done = _at_the_goal(_conditions(results), results.goal)
    for column, probe in PROBES.items():
        done = done.assign(**{column: of_runs(done, rows_where(results.probes, probe=probe), "value")})
    logs = {name: np.log(np.where(floats(done, name) > 0, floats(done, name), np.nan)) for name in MEASURES}
    columns = logs | {name: floats(done, name) for name in OUTCOMES}
    runs = list(enumerate(records(done)))
    small = {_noise_and_seed(row): number for number, row in runs if _is_reference(row)}
    rows = []
    for number, row in runs:
        other = small.get(_noise_and_seed(row))
        if other is not None and not _is_reference(row):
            named = {"group": _group(row["arm"]), "condition": _condition(row), "seed": row["seed"]}
            rows.append(named | {name: values[number] - values[other] for name, values in columns.items()})
    return pd.DataFrame(rows, columns=pd.Index(("group", "condition", "seed", *columns)))


def short_of_the_goal(results: Results) -> list[str]:
    """Return the runs of the varied network that ended above the training loss that all were to reach, by condition."""
    conditions = _conditions(results)
    there = set(_at_the_goal(conditions, results.goal)["run_id"])
    return sorted(_condition(row) for row in records(conditions) if row["run_id"] not in there)


def _conditions(results: Results) -> pd.DataFrame:
    done, arms = rows_where(results.done, network=results.arms), {arm for each in GROUPS.values() for arm in each}
    return with_columns(rows_if(done, [arm in arms for arm in done["arm"]]), NAMED_BY.values())


def _at_the_goal(runs: pd.DataFrame, goal: float | None) -> pd.DataFrame:
    return runs if goal is None else rows_if(runs, floats(runs, "train_loss") <= goal)


def _is_reference(row: Mapping[str, Any]) -> bool:
    return row["role"] == "SB" and row["arm"] in ("base", "label noise")


def _noise_and_seed(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row.get("label_noise") if row["arm"] == "label noise" else None, row["seed"]


def _group(arm: str) -> str:
    return next(name for name, arms in GROUPS.items() if arm in arms)


def _condition(row: Mapping[str, Any]) -> str:
    label = NAMED_BY.get(row["arm"])
    named = "" if label is None else f"{label.replace('_', ' ')} {row[label]:g}"
    return ", ".join(part for part in (row["role"], row["arm"], named) if part)


def association(table: pd.DataFrame, measure: str, outcome: str) -> Interval:
    """Return the mean over seeds of Kendall's tau-b over the conditions of a seed, with Student's interval.

    ``tau_s = tau_b({change of the measure}_c, {change of the outcome}_c)`` for seed s, c its conditions: what one would
    say of a ranking of minima by that measure, seed by seed, so that nothing is counted twice.

    >>> rows = [{"seed": s, "condition": c, "phi": c, "test_loss": c} for s in range(3) for c in range(5)]
    >>> association(pd.DataFrame(rows), "phi", "test_loss").value
    1.0
    """
    taus = []
    for _, rows in groups(table, "seed"):
        known = rows.dropna(subset=[measure, outcome])
        if len(known) >= FEWEST:
            x, y = floats(known, measure), floats(known, outcome)
            taus.append(float(weighted_taus(x, y, np.ones((1, len(known))))[0]))
    if not taus:
        return Interval(None, None, None, 0, f"no seed has {FEWEST} conditions with both")
    return student(taus)

"""The tables behind the figures: exactly the numbers drawn, as they are saved beside each figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.keskar2017.load import CURVES, FINAL, ROLES, Study
from analysis.keskar2017.pair_tables import by_seed
from sharpness.plots.frames import floats, groups, records, rows_where

ACCURACIES = ("train_accuracy", "test_accuracy")
SHARPNESS = ("top_eigenvalue", "keskar_sharpness")
TRAINING_COLUMNS = ("line", "role", "seed", "status", "epoch", *FINAL)
GAP_COLUMNS = ("role", "seed", "generalisation_gap", *SHARPNESS, "lower", "upper", "confidence")


def training_table(study: Study) -> pd.DataFrame:
    """Return the loss (nats) and accuracy (%) of every run and epoch (line ``run``) and their means (line ``mean``).

    The mean is over the finished runs of a role, at the epochs that all of them have; of a loss it is the geometric
    mean, because the loss is drawn on a logarithmic axis.
    """
    runs = _percent(study.epochs)
    rows = [{"line": "run"} | row for row in records(runs)]
    for role in ROLES:
        num_finished = len(rows_where(study.runs, role=role, status="finished"))
        for epoch, group in groups(rows_where(runs, role=role, status="finished"), "epoch"):
            if len(group) == num_finished:
                means = {name: _mean(floats(group, name), geometric=name not in ACCURACIES) for name in FINAL}
                rows.append({"line": "mean", "role": role, "epoch": epoch} | means)
    table = pd.DataFrame(rows, columns=pd.Index(TRAINING_COLUMNS))
    return table.astype({"seed": "Int64", "epoch": int} | dict.fromkeys(FINAL, float))


def _percent(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: 100 * floats(table, name) for name in ACCURACIES})


def _mean(x: NDArray[np.float64], geometric: bool) -> float:
    if not geometric:
        return float(np.mean(x))
    return float(np.exp(np.mean(np.log(x)))) if np.all(x > 0) else float("nan")


def interpolation_table(study: Study) -> pd.DataFrame:
    """Return loss (nats) and accuracy (%) against alpha for the seeds in which any of them was measured."""
    curves = _percent(study.curves)
    parts = [
        rows.sort_values("alpha")
        for _, rows in groups(curves, "seed")
        if any(np.isfinite(floats(rows, name)).any() for name in CURVES)
    ]
    table = pd.concat(parts, ignore_index=True) if parts else curves.iloc[:0]
    return table.drop(columns="run_id")


def gap_table(study: Study) -> pd.DataFrame:
    """Return one row per finished run: generalisation gap (percentage points), lambda_max, its interval, and phi."""
    sharpness = {(role, name): by_seed(study, name, role) for role in ROLES for name in SHARPNESS}
    bounds = {(r["role"], r["seed"]): r for r in records(rows_where(study.probes, quantity="top_eigenvalue"))}
    rows = []
    for run in records(rows_where(study.runs, status="finished")):
        role, seed, gap = run["role"], run["seed"], run["generalisation_gap"]
        row = {"role": role, "seed": seed, "generalisation_gap": None if gap is None else 100 * gap}
        row |= {name: sharpness[role, name].get(seed) for name in SHARPNESS}
        rows.append(row | {key: bounds.get((role, seed), {}).get(key) for key in ("lower", "upper", "confidence")})
    table = pd.DataFrame(rows, columns=pd.Index(GAP_COLUMNS))
    return table.astype(dict.fromkeys(GAP_COLUMNS[2:], float))


def drawable(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the rows of :func:`gap_table` that have a gap and a positive sharpness of this kind."""
    mask = np.isfinite(floats(table, "generalisation_gap")) & (floats(table, quantity) > 0)
    return rows_where(table.assign(shown=mask), shown=True)


def not_positive(table: pd.DataFrame, quantity: str) -> int:
    """Return how many measured values are zero or negative and so cannot stand on a logarithmic axis."""
    return int(np.sum(floats(table, quantity) <= 0))

"""The numbers of the edge of stochastic stability: where curvature settles, in units of the three plateaus."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.runs import Tables
from analysis.statistics.intervals import Interval, paired_ratio
from sharpness.plots.frames import floats, groups, rows_if

FEWEST = 4
"""Measurements in the second half of a run that a median needs."""
SETTING = ("momentum", "learning_rate", "batch_size")
CURVATURES = {"batch": "batch_sharpness", "means": "mean_over_means", "top": "top_eigenvalue"}
"""Short names of the mean of g'Hg / g'g over batches, of the mean of g'Hg over that of g'g, and of lambda_max."""


def histories(tables: Tables) -> pd.DataFrame:
    """Return every measurement of a finished run, the curvatures in units of ``2 / eta``; NaN if it failed."""
    kept = tables.tracked[tables.tracked["run_id"].isin(tables.finished["run_id"])]
    keys, names = ["run_id", "step"], ["batch_sharpness", "mean_over_means"]
    batch = tables.rows("batch_sharpness", *keys, *names)[[*keys, *names]]
    history = kept.merge(batch, on=keys, how="left")
    for name, column in CURVATURES.items():
        history[name] = floats(history, column) * floats(history, "learning_rate") / 2
    return history


def settled(tables: Tables) -> pd.DataFrame:
    """Return for each finished run the medians of its second half, in units of ``2 / eta``.

    Batch sharpness is there in units of both plateaus of momentum as well, and the eigenvalue in units of it.
    """
    rows, history = [], histories(tables)
    for run, own in groups(history, "run_id"):
        late = rows_if(own, floats(own, "step") > floats(own, "step").max() / 2)
        labels = {name: own[name].iloc[0] for name in (*SETTING, "seed")}
        rows.append(labels | {"run_id": run} | {name: median(floats(late, name)) for name in CURVATURES})
    columns = pd.Index([*SETTING, "seed", "run_id", *CURVATURES])
    found = pd.DataFrame(rows, columns=columns)
    momentum, batch = floats(found, "momentum"), floats(found, "batch")
    over = {"over_lower": batch / (1 - momentum), "over_upper": batch / (1 + momentum)}
    return found.assign(**over, top_over_batch=floats(found, "top") / batch)


def median(values: np.ndarray) -> float:
    """Return the median of the finite values, NaN of fewer than :data:`FEWEST`."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) >= FEWEST else float("nan")


def by_setting(runs: pd.DataFrame, column: str) -> dict[str, Interval]:
    """Return the geometric mean over seeds of a column, by the name of the setting."""
    found: dict[str, Interval] = {}
    for momentum, of_momentum in groups(runs, "momentum"):
        for rate, of_rate in groups(of_momentum, "learning_rate"):
            for batch, rows in groups(of_rate, "batch_size"):
                values = floats(rows, column)
                name = f"b {momentum:g}, eta {rate:g}, B {batch}"
                found[name] = paired_ratio(np.ones(len(values)), values)
    return found


def compared(first: pd.DataFrame, second: pd.DataFrame, column: str, on: str) -> dict[str, Interval]:
    """Return by a label that both have the column in the second runs over that in the first, paired by seeds."""
    found: dict[str, Interval] = {}
    for label, rows in groups(second, on):
        pairs = first[first[on] == label].merge(rows, on="seed", suffixes=("_first", "_second"))
        if len(pairs):
            ends = (floats(pairs, f"{column}_{name}") for name in ("first", "second"))
            found[f"{on.replace('_', ' ')} {label:g}"] = paired_ratio(*ends)
    return found

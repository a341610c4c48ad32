"""The numbers of a run at the edge of stability: when its eigenvalue reached it, and what it and the loss did then."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs import Tables
from analysis.statistics.intervals import Interval, paired_difference, paired_ratio
from sharpness.plots.frames import floats, groups, records, rows_where

FEWEST = 5
"""Measurements between onset and end that a median needs."""
COLUMNS = ("edge", "first", "onset", "fitted", "growth", "hover", "between", "measured_after", "peak", "late")
COLUMNS = (*COLUMNS, "rises_before", "rises_after", "loss_ratio", "batch", "settled")
LABELS = ("arm", "learning_rate", "seed", "run_id", "batch_size")
MEASURED = {"midpoints": "midpoint_eigenvalue", "batch_sharpness": "batch_sharpness"}
"""The tables of what was measured at checkpoints, and their columns."""


def edge_of_stability(optimizer: str, learning_rate: float, momentum: float) -> float:
    """Return the largest curvature at which a step of this optimiser does not diverge on a quadratic loss.

    ``2 / eta`` for gradient descent, ``(2 + 2 b) / eta`` with momentum b (Polyak) and ``(2 + 2 b) / (eta (1 + 2 b))``
    with Nesterov's (Cohen et al. 2021, arXiv 2103.00065), in nats per squared unit of weight.

    >>> [round(edge_of_stability(name, 0.1, 0.9), 3) for name in ("sgd", "momentum", "nesterov")]
    [20.0, 38.0, 13.571]
    """
    edges = {"sgd": 2.0, "momentum": 2 + 2 * momentum, "nesterov": (2 + 2 * momentum) / (1 + 2 * momentum)}
    return edges[optimizer] / learning_rate


def histories(tables: Tables) -> pd.DataFrame:
    """Return every measurement with its edge; NaN if it failed.

    In units of the edge: ``share`` the top eigenvalue, ``midpoint_share`` that halfway to the next iterate and
    ``batch_share`` the batch sharpness.
    """
    edges = {
        run["run_id"]: edge_of_stability(run["optimizer"], run["learning_rate"], run["momentum"])
        for run in records(tables.runs)
        if run["status"] != "missing"
    }
    history = tables.tracked.copy()
    for name, column in MEASURED.items():
        keys = ["run_id", "step"]
        history = history.merge(tables.rows(name, *keys, column)[[*keys, column]], on=keys, how="left")
    history["edge"] = np.array([edges[run] for run in history["run_id"]], dtype=float)
    columns = {"share": "top_eigenvalue", "midpoint_share": "midpoint_eigenvalue", "batch_share": "batch_sharpness"}
    for share, column in columns.items():
        history[column] = floats(history, column)
        history[share] = history[column] / history["edge"]
    return history


def per_run(tables: Tables, fitted_accuracy: float) -> pd.DataFrame:
    """Return one row per finished run with its numbers (:func:`run_numbers`) beside its labels."""
    history = histories(tables)
    rows = []
    for run in records(tables.finished):
        full_batch = run["batch_size"] == run["num_train"]
        tracked, epochs = (rows_where(table, run_id=run["run_id"]) for table in (history, tables.epochs))
        labels = {name: run[name] for name in LABELS}
        rows.append(labels | {"full_batch": full_batch} | run_numbers(tracked, epochs, fitted_accuracy, full_batch))
    columns = [*LABELS, "full_batch", *COLUMNS]
    return pd.DataFrame(rows, columns=pd.Index(columns)).astype(dict.fromkeys(COLUMNS, float))


def run_numbers(tracked: pd.DataFrame, epochs: pd.DataFrame, accuracy: float, full_batch: bool) -> dict[str, float]:
    """Return what one run did; what it did not do is NaN.

    ``onset`` is the update of the first eigenvalue at or above the edge and ``fitted`` the first one by which the
    training accuracy was reached, at which the authors' code stops. ``growth`` is the eigenvalue at the onset (without
    one: at the end) over the first one: an eigenvalue that drifts nowhere has a mean logarithm of 0 however the end is
    chosen by it. ``hover`` is the median share between onset and end and ``between`` that halfway between iterates;
    ``peak`` is the largest share until the end, ``late`` the last eigenvalue of all over the median one between onset
    and end. ``rises_before`` and ``rises_after`` are the shares of updates that raise the loss, and ``loss_ratio`` is
    the loss at the end over that at the onset. Of small batches ``batch`` and ``settled`` are the median share of batch
    sharpness and of the eigenvalue in the second half of the run, when both no longer rise.
    """
    row: dict[str, float] = dict.fromkeys(COLUMNS, np.nan)
    row["fitted"] = first_step(floats(epochs, "step"), floats(epochs, "train_accuracy") >= accuracy)
    end = row["fitted"] if np.isfinite(row["fitted"]) else np.inf
    tracked = tracked.loc[np.isfinite(floats(tracked, "share"))]
    steps, share = floats(tracked, "step"), floats(tracked, "share")
    if not full_batch:
        row |= settled_numbers(tracked)
    if not np.any(steps <= end):
        return row
    edge, last, later = float(floats(tracked, "edge")[0]), share[-1], steps[-1] > end
    midpoints = floats(tracked, "midpoint_share")[steps <= end]
    share, steps = share[steps <= end], steps[steps <= end]
    onset = first_step(steps, share >= 1)
    until = share if np.isnan(onset) else share[steps <= onset]
    row |= {"edge": edge, "first": share[0] * edge, "onset": onset, "growth": until[-1] / share[0]}
    row["peak"] = share.max()
    window = share[steps >= onset]
    row["measured_after"] = len(window)
    if full_batch and len(window) >= FEWEST:
        row["hover"], row["between"] = float(np.median(window)), median_of(midpoints[steps >= onset])
        row["late"] = last / row["hover"] if later else np.nan
    if full_batch:
        row |= loss_numbers(epochs, onset, end)
    return row


def settled_numbers(tracked: pd.DataFrame) -> dict[str, float]:
    """Return the median shares of batch sharpness and eigenvalue after half of the updates."""
    late = tracked.loc[floats(tracked, "step") > floats(tracked, "step").max(initial=0) / 2]
    return {"batch": median_of(floats(late, "batch_share")), "settled": median_of(floats(late, "share"))}


def median_of(values: NDArray[np.float64]) -> float:
    """Return the median of the finite values, NaN of fewer than :data:`FEWEST`."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) >= FEWEST else float("nan")


def first_step(steps: NDArray[np.float64], holds: NDArray[np.bool_]) -> float:
    """Return the first step at which a condition holds, NaN if at none.

    >>> first_step(np.array([10.0, 20.0, 30.0]), np.array([False, True, False]))
    20.0
    """
    return float(steps[np.argmax(holds)]) if holds.any() else float("nan")


def loss_numbers(epochs: pd.DataFrame, onset: float, end: float) -> dict[str, float]:
    """Return how often an update raises the loss of full-batch descent, and by what factor it falls after the onset.

    The log's loss of an update is that before it, so the row of step s belongs to step s - 1.
    """
    logged = epochs.loc[floats(epochs, "step") >= 1]
    steps, losses = floats(logged, "step") - 1, floats(logged, "train_loss")
    raised = np.diff(losses) > 0
    before, after = steps[1:] <= onset, (steps[1:] > onset) & (steps[1:] <= end)
    if not np.isfinite(onset) or not before.any() or not after.any():
        return {}
    inside = losses[(steps >= onset) & (steps <= end)]
    shares = {"rises_before": float(raised[before].mean()), "rises_after": float(raised[after].mean())}
    return shares | {"loss_ratio": float(inside[-1] / inside[0])}


def over_seeds(runs: pd.DataFrame, column: str, against: str | None = None) -> Interval:
    """Return the geometric mean of a column over the seeds of one setting with its interval.

    With ``against`` it is the arithmetic mean of column - against. Runs without the number do not count.
    """
    kept = runs.loc[np.isfinite(floats(runs, column))]
    if kept.empty:
        return Interval(None, None, None, 0, "no run finished" if runs.empty else "no run has this number")
    values = floats(kept, column)
    if against is not None:
        return paired_difference(floats(kept, against), values)
    return paired_ratio(np.ones(len(values)), values)


def by_setting(runs: pd.DataFrame, column: str, against: str | None = None) -> dict[str, Interval]:
    """Return :func:`over_seeds` for each arm and learning rate in which a run has the number, by its name.

    A setting in which no run has it says nothing of the claim; the finding counts its runs.
    """
    found: dict[str, Interval] = {}
    for arm in dict.fromkeys(runs["arm"]):
        for rate, rows in groups(rows_where(runs, arm=arm), "learning_rate"):
            if np.isfinite(floats(rows, column)).any():
                found[f"{arm}, eta {rate:g}"] = over_seeds(rows, column, against)
    return found


def by_batch_size(runs: pd.DataFrame, column: str) -> dict[str, Interval]:
    """Return for each learning rate the column at the smallest batch over that at the largest, paired by seeds."""
    found: dict[str, Interval] = {}
    for rate, rows in groups(runs, "learning_rate"):
        pairs = rows.pivot_table(index="seed", columns="batch_size", values=column, dropna=False).sort_index(axis=1)
        if pairs.shape[1] > 1:
            ends = pairs.to_numpy(dtype=float)
            found[f"eta {rate:g}"] = paired_ratio(ends[:, -1], ends[:, 0])
    return found

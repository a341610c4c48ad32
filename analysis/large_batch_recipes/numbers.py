"""The numbers of the large-batch recipes: errors, steps to the goal and projected times, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.large_batch_recipes.allreduce import ALLREDUCE, Cluster, step_seconds
from analysis.runs import Tables
from analysis.statistics.intervals import NUM_RESAMPLES, Interval, paired_difference
from sharpness.plots.frames import floats, groups, records, rows_where

BASE = "base"
WORKERS = tuple(4**k for k in range(7))


def outcomes(tables: Tables, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return for every run its final test ``error`` in %, and ``steps`` and ``seconds`` to the goal.

    A diverged run counts as a guess; a missing one has no error. Steps are those at the end of the first epoch whose
    test error is at most the goal, NaN where that never is.
    """
    rows = []
    for run in records(tables.runs):
        error = None if run["test_accuracy"] is None else 100 * (1 - run["test_accuracy"])
        error = 100 * settings["chance"] if run["status"] == "diverged" else error
        log = rows_where(tables.epochs, run_id=run["run_id"])
        steps = first_reached(log, settings["goal_error"]) if run["status"] == "finished" else np.nan
        labels = {name: run[name] for name in ("recipe", "batch", "seed", "status")}
        rows.append(labels | {"error": error, "steps": steps})
    return pd.DataFrame(rows).astype({"error": float, "steps": float})


def first_reached(log: pd.DataFrame, goal: float) -> float:
    """Return the step at the end of the first epoch whose test error is at most a goal, NaN if there is none."""
    log = log.sort_values("step")
    met = (1 - floats(log, "test_accuracy") <= goal + 1e-9) & (floats(log, "step") > 0)
    return float(floats(log, "step")[np.argmax(met)]) if met.any() else float("nan")


def excess(runs: pd.DataFrame, one: tuple[str, int], other: tuple[str, int]) -> Interval:
    """Return by how many percentage points the error of ``other`` is above that of ``one``, paired by seed."""
    first, second = (
        {row["seed"]: row["error"] for row in records(rows_where(runs, recipe=recipe, batch=batch))}
        for recipe, batch in (one, other)
    )
    seeds = sorted(first.keys() & second.keys())
    return paired_difference(*(np.array([part[seed] for seed in seeds], dtype=float) for part in (first, second)))


def best_batch(runs: pd.DataFrame, seed: int = 0) -> Interval:
    """Return the batch with the lowest mean error by the linear rule, with its percentile bootstrap over the seeds.

    Seeds without all the batches are left out. Of batches with equal errors the smallest counts.
    """
    line = runs.loc[[recipe in (BASE, "linear") for recipe in runs["recipe"]]]
    table = line.pivot_table(index="seed", columns="batch", values="error").dropna()
    if len(table) < 2 or table.shape[1] < 2:
        return Interval(None, None, None, len(table), "needs at least 2 seeds with all of at least 2 batches")
    values, batches = table.to_numpy(dtype=float), table.columns.to_numpy(dtype=float)
    draws = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    found = batches[np.argmin(values[draws].mean(axis=1), axis=1)]
    lower, upper = np.percentile(found, [2.5, 97.5], method="nearest")
    return Interval(float(batches[np.argmin(values.mean(axis=0))]), float(lower), float(upper), len(values))


def best_recipes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return for each batch the recipe that reaches the goal in the fewest steps (median over its seeds).

    Only recipes of which every run at that batch reached it; of equals the first by name. Chosen and shown on the same
    runs, so the best of several looks a little better than it is.
    """
    rows = []
    for batch, at in groups(runs, "batch"):
        found = [
            {"batch": batch, "recipe": recipe, "steps": float(np.median(part["steps"])), "seeds": len(part)}
            for recipe, part in groups(at, "recipe")
            if np.isfinite(floats(part, "steps")).all()
        ]
        if found:
            rows.append(min(found, key=lambda row: row["steps"]))
    return pd.DataFrame(rows, columns=pd.Index(["batch", "recipe", "steps", "seeds"]))


def projection(fastest: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return the seconds to the goal for each topology, number of workers and batch: steps times seconds per step."""
    cluster = Cluster(**settings["cluster"])
    rows = [
        {"topology": topology, "workers": workers, "batch": int(row["batch"]), "recipe": row["recipe"]}
        | {"seconds": row["steps"] * step_seconds(topology, row["batch"], workers, settings["parameters"], cluster)}
        for topology in ALLREDUCE
        for workers in WORKERS
        for row in records(fastest)
    ]
    return pd.DataFrame(rows, columns=pd.Index(["topology", "workers", "batch", "recipe", "seconds"]))


def fastest_batches(projected: pd.DataFrame) -> pd.DataFrame:
    """Return for each topology and number of workers the batch that gets to the goal first."""
    if projected.empty:
        return projected
    return projected.loc[projected.groupby(["topology", "workers"])["seconds"].idxmin()]

"""Everything that the figures, tables and verdicts of the study of McCandlish et al. 2018 share, worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.mccandlish2018.numbers import (
    critical_by_branches,
    front,
    level,
    pooled,
    predicted,
    run_average,
    searched,
    tuned,
    typical,
    with_noise_scale,
)
from analysis.runs import Tables, counts
from analysis.statistics.fits import Hyperbola, hyperbola
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, records, rows_where

LAST_QUARTER = 0.75
"""The end of a run is what follows this share of it: its checkpoints are pooled."""
NOISE = ("arm", "case", "seed", "epoch", "step", "loss", "square", "noise_trace", "num_train", "run_id")
SEARCH = ("seed", "epoch", "batch_size", "loss", "examples", "gradient_square", "noise_trace", "gradient_curvature")
SEARCH = (*SEARCH, "noise_curvature", "rates", "changes")
BRANCHES = ("seed", "epoch", "multiplier", "batch_size", "rate", "updates", "smoothed_loss", "end_loss")


@dataclass(frozen=True)
class Results:
    """The measurements as tables with ``noise_scale``, and the numbers taken from them; losses in nats."""

    settings: Mapping[str, Any]
    counts: str
    along: pd.DataFrame
    """The noise along the base runs: a row per seed and checkpoint."""
    end: pd.DataFrame
    """The noise at their ends: a row per seed."""
    average: Mapping[int, float]
    """The mean noise scale of each base run from its start to the goal."""
    search: pd.DataFrame
    """Line searches: predicted and found steps by seed, epoch and batch size."""
    runs: pd.DataFrame
    """All runs of the front."""
    tuned: pd.DataFrame
    """The best learning rate of each batch size, and what it takes to the goal."""
    front: pd.DataFrame
    """The runs at those rates."""
    fit: Hyperbola
    cooled: pd.DataFrame
    """The noise of the cooled runs, with their batch size and learning rate: a row per run."""
    sizes: pd.DataFrame
    """The noise near the goal by seed, arm (``data`` or ``width``) and case."""
    tasks: pd.DataFrame
    """The noise near the goal of the tasks by seed and task."""
    branches: pd.DataFrame
    critical: pd.DataFrame
    """The critical batch size of each branching, with the noise scale of the same checkpoint."""

    @property
    def run_average(self) -> Interval:
        """The mean noise scale until the goal, over seeds."""
        return level(self.average.values())


def results_of(tables: Tables, settings: Mapping[str, Any]) -> Results:
    """Work out the results."""
    noise = with_noise_scale(tables.rows("noise", *NOISE))
    along = rows_where(noise, arm="along")
    last = floats(along, "epoch").max(initial=0.0)
    end = rows_where(along.assign(late=floats(along, "epoch") >= LAST_QUARTER * last), late=True)
    runs = rows_where(tables.runs, arm="front")
    at_best = front(runs)
    found = searched(predicted(tables.rows("line_search", *SEARCH)))
    branches = tables.rows("branches", *BRANCHES)
    tasks = with_noise_scale(tables.rows("two_classes", "task", *NOISE))
    near_goal = rows_where(noise.assign(near=[arm in ("data", "width") for arm in noise["arm"]]), near=True)
    return Results(
        settings=settings,
        counts=counts(tables),
        along=along,
        end=pooled(end, ["seed"]),
        average=run_average(along, settings["goal"]),
        search=found,
        runs=runs,
        tuned=tuned(runs),
        front=at_best,
        fit=_fit(at_best),
        cooled=_cooled(rows_where(noise, arm="cooled"), tables.runs),
        sizes=typical(near_goal, ["seed", "arm", "case"]),
        tasks=typical(tasks, ["seed", "task"]),
        branches=branches,
        critical=_critical(branches, along, settings["tolerance"]),
    )


def _fit(front: pd.DataFrame) -> Hyperbola:
    """Return the hyperbola of the front, with intervals over the seeds, each of which has a run at every batch size."""
    table = front.pivot_table(index="seed", columns="batch_size", values="steps_to_result")
    return hyperbola(np.asarray(table.columns, dtype=float), table.to_numpy(dtype=float), paired=True)


def _cooled(noise: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the pooled noise of each cooled run with ``slowness``, batch size over learning rate, and its knob."""
    table = pooled(noise, ["run_id"])
    facts = {row["run_id"]: row for row in records(rows_where(runs, arm="cooled"))}
    rows = []
    for row in records(table):
        fact = facts[row["run_id"]]
        shared = {name: fact[name] for name in ("seed", "knob", "factor", "batch_size", "learning_rate")}
        rows.append(row | shared | {"slowness": fact["batch_size"] / fact["learning_rate"]})
    columns = [*table.columns, "seed", "knob", "factor", "batch_size", "learning_rate", "slowness"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _critical(branches: pd.DataFrame, along: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Return the critical batch sizes of the branches with the noise scale of the checkpoint they began from."""
    table = critical_by_branches(branches, tolerance)
    there = {(row["seed"], row["epoch"]): row["noise_scale"] for row in records(along)}
    return table.assign(noise_scale=[there.get((row["seed"], row["epoch"]), np.nan) for row in records(table)])

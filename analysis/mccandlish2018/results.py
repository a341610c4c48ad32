"""Everything that the figures, tables and verdicts of the study of McCandlish et al. 2018 share, worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.mccandlish2018.numbers import (
    front,
    level,
    pooled,
    predicted,
    run_average,
    saturations,
    searched,
    tuned,
    tuned_branches,
    typical,
    windows,
    with_noise_scale,
)
from analysis.runs import Tables, counts
from analysis.statistics.fits import Hyperbola, hyperbola
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

HIGHEST = 1.5
"""Windows of the loss are factors of 2 from the lowest loss on, up to here: above is the transient of the start, in
which the gradient grows until the network tells the classes apart, and the noise scale falls to a fifth."""
NOISE = ("arm", "case", "seed", "epoch", "step", "loss", "square", "noise_trace", "num_train", "run_id")
SEARCH = ("seed", "epoch", "batch_size", "loss", "examples", "gradient_square", "noise_trace", "gradient_curvature")
SEARCH = (*SEARCH, "noise_curvature", "rates", "changes")
BRANCHES = ("seed", "epoch", "batch_size", "rate", "steps", "most", "loss", "square", "noise_trace", "num_train")


@dataclass(frozen=True)
class Results:
    """The measurements as tables with ``noise_scale``, and the numbers taken from them; losses in nats."""

    settings: Mapping[str, Any]
    counts: str
    along: pd.DataFrame
    """The noise along the runs to a low loss: a row per seed and checkpoint."""
    windows: pd.DataFrame
    """The noise of these runs in windows of the loss: a row per seed and window, 0 the lowest."""
    average: Mapping[int, float]
    """The mean noise scale of each of them from its start to the goal."""
    search: pd.DataFrame
    """Line searches: predicted and found steps by seed, epoch and batch size."""
    saturation: pd.DataFrame
    """The laws of the batch size fitted to them, a row per seed and epoch."""
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
    """The fewest steps of branches by seed, epoch and batch size, their learning rates, loss and noise at the start."""
    branch_fits: Mapping[float, Hyperbola]
    """The hyperbola of the branches of each epoch, with their critical batch size."""

    @property
    def run_average(self) -> Interval:
        """The mean noise scale until the goal, over seeds."""
        return level(self.average.values())


def results_of(tables: Tables, settings: Mapping[str, Any]) -> Results:
    """Work out the results."""
    noise = with_noise_scale(tables.rows("noise", *NOISE))
    along = rows_where(noise, arm="along")
    runs = rows_where(tables.runs, arm="front")
    at_best = front(runs)
    found = searched(predicted(tables.rows("line_search", *SEARCH)))
    branches = tuned_branches(with_noise_scale(tables.rows("branches", *BRANCHES)))
    tasks = with_noise_scale(tables.rows("two_classes", "task", *NOISE))
    near_goal = rows_where(noise.assign(near=[arm in ("data", "width") for arm in noise["arm"]]), near=True)
    return Results(
        settings=settings,
        counts=counts(tables),
        along=along,
        windows=windows(rows_if(along, floats(along, "step") > 0), edges_of(settings)),
        average=run_average(along, settings["goal"]),
        search=found,
        saturation=saturations(found),
        runs=runs,
        tuned=tuned(runs),
        front=at_best,
        fit=_fit(at_best, "steps_to_result"),
        cooled=_cooled(rows_where(noise, arm="cooled"), tables.runs),
        sizes=typical(near_goal, ["seed", "arm", "case"]),
        tasks=typical(tasks, ["seed", "task"]),
        branches=branches,
        branch_fits={epoch: _fit(rows, "steps") for epoch, rows in groups(branches, "epoch")},
    )


def edges_of(settings: Mapping[str, Any]) -> list[float]:
    """Return the edges of the windows of the loss, ascending.

    >>> edges_of({"along": {"budget": {"train_loss": 0.25}}})
    [0.25, 0.5, 1.0]
    """
    low = settings["along"]["budget"]["train_loss"]
    return [low * 2.0**k for k in range(int(np.floor(np.log2(HIGHEST / low))) + 1)]


def _fit(runs: pd.DataFrame, steps: str) -> Hyperbola:
    """Return the hyperbola of steps by batch size, with intervals over seeds, each of which has every batch size."""
    table = runs.pivot_table(index="seed", columns="batch_size", values=steps)
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

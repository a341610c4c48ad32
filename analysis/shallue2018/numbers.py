"""The numbers of Shallue et al. 2018: the best trial of each search, what became of the others, and how steps scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs import Tables
from analysis.statistics.fits import Hyperbola, Regimes, hyperbola, regimes, scaling_overhead
from analysis.statistics.intervals import CONFIDENCE, Interval, paired_difference, paired_ratio
from analysis.statistics.resampling import Floats
from sharpness.plots.frames import floats, groups, records, rows_where

OUTCOMES = ("reached", "missed", "diverged")
"""The outcomes of a trial; all but the first are infeasible."""
KEYS = ("workload", "batch_size", "search")
SETTINGS = ("learning_rate", "momentum", "effective_rate")
NUMBERS = ("steps", "error", "test", "updates", "noise_scale")
COLUMNS = (*KEYS, "kind", "round", "trial", *SETTINGS, "outcome", *NUMBERS)
BY_RULE = ("search", "batch_size", "rule", "rate", "nearest_rate", "steps", "censored", "tuned_steps")
SOLUTION = ("workload", "kind", "batch_size", "search", "validation_error", "test_error", "finished", "trials")
EDGE = 0.1
"""A best trial in the outer tenth of the searched range, on its log axis, may not be the best there is."""
FIRST, LAST = 16, 8
"""Slopes at either end are taken over the batch sizes within these factors of the smallest and of the largest."""


def all_trials(tables: Tables) -> pd.DataFrame:
    """Return a row for each trial of each search: its settings, outcome, steps and errors, NaN where not reached.

    The effective learning rate is ``lr / (1 - m)``: what a constant gradient is multiplied by in the long run.
    """
    rows = tables.rows("search", *COLUMNS).loc[:, list(COLUMNS)]
    return rows.assign(**{name: floats(rows, name) for name in (*SETTINGS, *NUMBERS)})


def each_search(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield every search, in order, as its keys and its rows."""
    keys = [name for name in ("workload", "kind", "batch_size", "search") if name in table]
    for values, rows in table.groupby(keys, sort=False):
        assert isinstance(values, tuple)  # of several keys
        yield dict(zip(keys, values, strict=True)), rows


def best_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trial of fewest steps of each search, of those with as few the one of the lowest error.

    Where none reached the goal, steps and settings are NaN. ``reached`` of ``trials`` reached it.
    """
    best, names = [], ["steps", *SETTINGS, "noise_scale"]
    for keys, rows in each_search(trials):
        reached = records(rows_where(rows, outcome="reached").filter([*names, "error"]))
        found = sorted(reached, key=lambda row: (row["steps"], row["error"]))
        chosen = {name: found[0][name] for name in names} if found else dict.fromkeys(names, math.nan)
        best.append(keys | chosen | {"reached": len(found), "trials": len(rows)})
    return pd.DataFrame(best)


def curve(best: pd.DataFrame, workload: str, column: str = "steps") -> tuple[Floats, Floats]:
    """Return the batch sizes of a workload and a column (searches, batch sizes), NaN where a search found no trial."""
    wide = rows_where(best, workload=workload).pivot(index="search", columns="batch_size", values=column)
    return np.array(wide.columns, dtype=float), wide.to_numpy(dtype=float)


def known(table: pd.DataFrame, column: str) -> int:
    """Return how many values of a column are there."""
    return int(np.isfinite(floats(table, column)).sum())


def means(table: Floats) -> Floats:
    """Return the geometric mean of the finite values of each column, NaN where there are none.

    >>> means(np.array([[1.0, 2.0, np.nan], [4.0, np.nan, np.nan]])).round(9).tolist()
    [2.0, 2.0, nan]
    """
    columns = (column[np.isfinite(column)] for column in table.T)
    return np.array([np.exp(np.mean(np.log(values))) if len(values) else np.nan for values in columns])


def fewest_steps(trials: pd.DataFrame) -> Interval:
    """Return the fewest steps of these trials, those of one batch size, with an interval by resampling the trials.

    The minimum of n resampled trials exceeds the k-th smallest with probability ``(1 - k / n)^n``, so that nothing need
    be drawn. The lower end is the minimum itself, since no resample finds a better trial: what a larger search would
    find lies below. A trial that did not reach the goal counts as infinitely many steps.

    >>> fewest_steps(pd.DataFrame({"steps": [30.0, 10.0, 20.0]}))
    Interval(value=10.0, lower=10.0, upper=30.0, n=3, reason=None)
    """
    steps = np.sort(np.where(np.isfinite(floats(trials, "steps")), floats(trials, "steps"), np.inf))
    n = len(steps)
    if not np.isfinite(steps).any():
        return Interval(None, None, None, n, "no trial reached the goal")
    k = int(np.argmax((1 - np.arange(1, n + 1) / n) ** n <= (1 - CONFIDENCE) / 2))
    reason = None if np.isfinite(steps[k]) else "too few trials reached the goal"
    return Interval(float(steps[0]), float(steps[0]), float(steps[k]) if reason is None else None, n, reason)


def critical_batches(best: pd.DataFrame, workload: str) -> pd.Series:
    """Return the critical batch size E_min / S_min of each search on its own, NaN where it cannot be told."""
    batches, steps = curve(best, workload)
    searches = sorted(set(rows_where(best, workload=workload)["search"]))
    found = [hyperbola(batches, row).b_crit.value if np.isfinite(row).sum() >= 3 else None for row in steps]
    return pd.Series([math.nan if value is None else value for value in found], index=searches, dtype=float)


def ratio_of(first: pd.Series, second: pd.Series) -> Interval:
    """Return second / first over the searches that both have, which are independent and paired by their number."""
    shared = first.index.intersection(second.index)
    return paired_ratio(first.loc[shared], second.loc[shared])


def slope(best: pd.DataFrame, column: str, sizes: Floats) -> Interval:
    """Return the slope of the log of a column on log batch size over some sizes, with a Student t interval.

    The slope is fitted to each search on its own, where it has at least two of the sizes; searches are independent.
    """
    slopes = []
    for _, rows in groups(best.loc[best["batch_size"].isin(list(sizes))], "search"):
        x, y = np.log(floats(rows, "batch_size")), np.log(floats(rows, column))
        there = np.isfinite(y)
        if there.sum() >= 2:
            u = x[there] - x[there].mean()
            slopes.append(float(np.sum(u * y[there]) / np.sum(u**2)))
    return paired_difference(np.zeros(len(slopes)), slopes)


def steps_at(best: pd.DataFrame, workload: str, batch_size: int) -> pd.Series:
    """Return the steps of each search at a batch size."""
    rows = rows_where(best, workload=workload, batch_size=batch_size)
    return pd.Series(floats(rows, "steps"), index=list(rows["search"]), dtype=float)


def mean_of(values: Sequence[float] | Floats) -> Interval:
    """Return the geometric mean with a Student t interval of the logarithms; values that are not finite are left out.

    >>> round(mean_of([1.0, 4.0]).value, 9)
    2.0
    """
    return paired_ratio(np.ones(len(values)), values)


def at_edge(best: pd.DataFrame, low: float, high: float, column: str = "effective_rate") -> int:
    """Return how many best trials lie in the outer tenths of the searched range, on a log axis."""
    values = floats(best, column) if column == "effective_rate" else 1 - floats(best, column)
    places = np.log(values[np.isfinite(values)] / low) / math.log(high / low)
    return int(np.sum((places < EDGE) | (places > 1 - EDGE)))


def by_rule(trials: pd.DataFrame, best: pd.DataFrame, base: int) -> pd.DataFrame:
    """Return the steps at the rate that a rule makes of the best one at ``base``, beside those of the tuned rate.

    ``linear``: ``rate * B / base``; ``sqrt``: ``rate * sqrt(B / base)``. The steps are those of the trial, of all
    searches at that batch size, whose effective rate is nearest on a log axis; for one that did not reach the goal
    they are the ``updates`` it made, fewer than it needs (``censored``). Both tables hold one workload with one
    searched number, so that trials of about one rate differ in their seed alone.
    """
    tuned = {(row["search"], row["batch_size"]): row["steps"] for row in records(best)}
    rows = []
    for start in records(rows_where(best, batch_size=base)):
        for batch_size in sorted(size for size in set(best["batch_size"]) if size >= base):
            for rule, power in (("linear", 1.0), ("sqrt", 0.5)):
                if start["effective_rate"] is None:
                    continue
                rate = start["effective_rate"] * (batch_size / base) ** power
                near = _nearest(rows_where(trials, batch_size=batch_size), rate)
                steps = near["updates"] if near["steps"] is None else near["steps"]
                keys = {"search": start["search"], "batch_size": batch_size, "rule": rule, "rate": rate}
                row = keys | {"nearest_rate": near["effective_rate"], "steps": steps, "censored": near["steps"] is None}
                rows.append(row | {"tuned_steps": tuned.get((start["search"], batch_size)) or math.nan})
    return pd.DataFrame(rows, columns=pd.Index(BY_RULE))


def _nearest(trials: pd.DataFrame, rate: float) -> dict[str, Any]:
    nearest = int(np.argmin(np.abs(np.log(floats(trials, "effective_rate") / rate))))
    return records(trials.iloc[[nearest]])[0]


def best_solutions(trials: pd.DataFrame) -> pd.DataFrame:
    """Return of each search at equal epochs or equal steps the trial of lowest held-out error, with its test error."""
    rows = []
    for keys, group in each_search(trials.loc[trials["kind"] != "goal"]):
        ended = records(rows_where(group, outcome="reached"))
        chosen = min(ended, key=lambda row: row["error"], default=None)
        errors = {
            "validation_error": math.nan if chosen is None else chosen["error"],
            "test_error": math.nan if chosen is None else chosen["test"],
        }
        rows.append(keys | errors | {"finished": len(ended), "trials": len(group)})
    return pd.DataFrame(rows, columns=pd.Index(SOLUTION))


def errors_at(solutions: pd.DataFrame, kind: str, batch_size: int) -> pd.Series:
    """Return the test error of each search; of both budgets (``kind`` any) that with the lower held-out error."""
    rows = rows_where(solutions, batch_size=batch_size)
    if kind != "any":
        rows = rows_where(rows, kind=kind)
    rows = rows.sort_values("validation_error").drop_duplicates("search").sort_values("search")
    return pd.Series(floats(rows, "test_error"), index=list(rows["search"]), dtype=float)


@dataclass(frozen=True)
class Workload:
    """The scaling of one workload: ``steps`` of its searches, a row each, at its ``batches``.

    ``overhead`` is the largest batch size measured up to which steps stay within 20 % of perfect scaling, ``first`` and
    ``last`` the slopes of log steps at the smallest and the largest batch sizes, ``rate`` the slope of the best
    effective learning rate, ``noise`` B_simple, and ``edges`` how many best trials lie at the edge of their range.
    """

    batches: Floats
    steps: Floats
    hyperbola: Hyperbola
    overhead: Interval
    first: Interval
    last: Interval
    rate: Interval
    noise: Interval
    edges: int
    edges_momentum: int

    @cached_property
    def regimes(self) -> Regimes:
        """The batch sizes at which perfect scaling ends and steps stop falling."""
        return regimes(self.batches, self.steps)


@dataclass(frozen=True)
class Results:
    """The trials that went for the goal and the best of each search, the solutions, and every workload by name."""

    settings: Mapping[str, Any]
    trials: pd.DataFrame
    best: pd.DataFrame
    solutions: pd.DataFrame
    workloads: Mapping[str, Workload]
    trained: str
    """How many networks were trained, for the captions."""

    def named(self, comparison: str) -> list[str]:
        """Return the workloads of a comparison (``optimisers``, ``networks`` or ``data``), the reference first."""
        return list(self.settings[comparison])

    def of(self, workload: str) -> Mapping[str, Any]:
        """Return the settings of a workload."""
        return self.settings["workloads"][workload]

    def budget(self, workload: str, batch_size: int) -> int:
        """Return the step budget of a trial."""
        own = self.of(workload)
        return own["steps"] + math.ceil(own["examples"] / batch_size)


def results_of(tables: Tables, settings: Mapping[str, Any]) -> Results:
    """Return what the searches say."""
    trials = all_trials(tables)
    goal = rows_where(trials, kind="goal")
    best = best_trials(goal)
    names = list(settings["workloads"])
    workloads = {name: _workload(name, best, settings) for name in names}
    return Results(settings, goal, best, best_solutions(trials), workloads, trained(trials))


def trained(trials: pd.DataFrame) -> str:
    """Say how many networks were trained and how many diverged; every caption ends with it."""
    diverged = len(rows_where(trials, outcome="diverged"))
    return f"{len(trials):,} networks were trained, the weights of {diverged:,} are not finite."


def _workload(name: str, best: pd.DataFrame, settings: Mapping[str, Any]) -> Workload:
    batches, steps = curve(best, name)
    if not len(batches):  # no search is done yet
        batches = np.array(settings["workloads"][name]["batches"], dtype=float)
        steps = np.full((1, len(batches)), math.nan)
    own = rows_where(best, workload=name)
    space = settings["workloads"][name]["space"]
    low, high = space["one_minus_momentum"]
    searched = settings["workloads"][name]["optimizer"] != "sgd" and low < high
    noise = floats(rows_where(own, batch_size=settings["base_batch"]), "noise_scale")
    return Workload(
        batches=batches,
        steps=steps,
        hyperbola=hyperbola(batches, steps),
        overhead=scaling_overhead(batches, steps),
        first=slope(own, "steps", batches[batches <= FIRST * batches.min()]),
        last=slope(own, "steps", batches[batches >= batches.max() / LAST]),
        rate=slope(own, "effective_rate", batches),
        noise=mean_of(noise),
        edges=at_edge(own, *space["rates"]),
        edges_momentum=at_edge(own, low, high, column="momentum") if searched else 0,
    )

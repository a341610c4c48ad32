"""The tables of Shallue et al. (2018): how far every workload scales, and the steps at every batch size."""

from __future__ import annotations

import math

import pandas as pd

from analysis.report.numbers import ABSENT, ratio, significant
from analysis.report.report import TextTable
from analysis.shallue2018 import numbers as of
from analysis.shallue2018.findings import slope
from analysis.shallue2018.numbers import Results, Workload
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, records, rows_where

WORKLOAD_HEADER = ("workload", "perfect until B", "within 20 %", "critical batch", "flat from B", "noise scale")
WORKLOAD_HEADER = (*WORKLOAD_HEADER, "slope of best rate", "bests at an edge")
STEP_HEADER = ("workload", "B", "budget", "reached", "missed", "diverged", "searches", "steps of a search")
STEP_HEADER = (*STEP_HEADER, "fewest of all", "best η/(1-m)")


def size(interval: Interval) -> str:
    """Return a batch size or a number of steps with its interval, an open end as a dash.

    >>> size(Interval(20.0, 10.0, None, 5, "no upper bound"))
    '20 [10, –]'
    """
    if interval.value is None:
        return ABSENT
    if interval.lower is not None and interval.upper is not None:
        return ratio(interval)
    lower, upper = (ABSENT if x is None else significant(x, 2) for x in (interval.lower, interval.upper))
    return f"{significant(interval.value, 2)} [{lower}, {upper}]"


def measured_size(interval: Interval) -> str:
    """Return one of the batch sizes measured, with its interval, not rounded.

    >>> measured_size(Interval(128.0, 16.0, None, 5, "no upper bound"))
    '128 [16, –]'
    """
    if interval.value is None:
        return ABSENT
    lower, upper = (ABSENT if x is None else f"{x:g}" for x in (interval.lower, interval.upper))
    return f"{interval.value:g} [{lower}, {upper}]"


def batch_sizes(workload: Workload) -> dict[str, Interval]:
    """Return the batch sizes that say how far a workload scales."""
    return {
        "perfect until": workload.regimes.perfect_until,
        "within 20 %": workload.overhead,
        "critical batch": workload.hyperbola.b_crit,
        "flat from": workload.regimes.flat_from,
        "noise scale": workload.noise,
    }


def useful_numbers(found: Results) -> pd.DataFrame:
    """Return these batch sizes of every workload with intervals and, where something is open, the reason."""
    rows = []
    for name, workload in found.workloads.items():
        for what, interval in batch_sizes(workload).items():
            parts = {"value": interval.value, "lower": interval.lower, "upper": interval.upper}
            numbers = {key: math.nan if value is None else value for key, value in parts.items()}
            rows.append({"workload": name, "what": what, **numbers, "n": interval.n, "reason": interval.reason})
    return pd.DataFrame(rows)


def workload_table(found: Results) -> TextTable:
    """Return how far every workload scales, what the noise scale says, and how its best rate grows."""
    rows = []
    for name, w in found.workloads.items():
        bests = of.known(rows_where(found.best, workload=name), "steps")
        edges = f"{w.edges} + {w.edges_momentum} of {bests}"
        sizes = {what: size(interval) for what, interval in batch_sizes(w).items()}
        sizes |= {"within 20 %": measured_size(w.overhead)}
        rows.append([name, *sizes.values(), slope(w.rate), edges])
    numbers = useful_numbers(found)
    absent = [row for row in records(numbers) if row["value"] is None]
    reasons = "; ".join(f"{row['workload']}, {row['what']}: {row['reason']}" for row in absent)
    caption = (
        "Batch sizes with 95 % intervals over searches. Perfect until, flat from: continuous fit of log steps with "
        "slopes -1, free and 0. Within 20 %: the largest batch size measured up to which steps are at most 1.2 times "
        "those of perfect scaling. Critical batch: E_min / S_min of S = S_min + E_min / B. Noise scale: geometric mean "
        f"of B_simple where the best trials at B = {found.settings['base_batch']} ended. Slope: of the log of the best "
        "effective rate on log B. Bests at an edge: best trials in the outer tenths of the ranges searched, of the "
        f"rate and of 1 - m. {f'Not there: {reasons}. ' if reasons else ''}{found.trained}"
    )
    return TextTable("workloads", "How far the workloads scale", WORKLOAD_HEADER, rows, numbers, caption)


def step_table(found: Results) -> TextTable:
    """Return the steps at every batch size of every workload, and what became of the trials."""
    rows, numbers = [], []
    for name in found.workloads:
        for batch_size in found.of(name)["batches"]:
            trials, best = (rows_where(t, workload=name, batch_size=batch_size) for t in (found.trials, found.best))
            outcomes = {outcome: len(rows_where(trials, outcome=outcome)) for outcome in of.OUTCOMES}
            own, fewest = of.mean_of(floats(best, "steps")), of.fewest_steps(trials)
            rate = of.mean_of(floats(best, "effective_rate"))
            searches, budget = of.known(best, "steps"), found.budget(name, batch_size)
            cells = [str(batch_size), str(budget), *map(str, outcomes.values()), f"{searches} of {len(best)}"]
            rows.append([name, *cells, *map(size, (own, fewest, rate))])
            numbers.append(
                {"workload": name, "batch_size": batch_size, "budget": budget, **outcomes, "searches": searches}
                | {"steps": own.value, "lower": own.lower, "upper": own.upper}
                | {"fewest": fewest.value, "fewest_upper": fewest.upper, "effective_rate": rate.value}
            )
    caption = (
        "Steps of a search: geometric mean of the best trials with a Student t interval over searches; searches: how "
        "many found a trial that reached the goal. Fewest of all: the minimum over all trials with a bootstrap over "
        "them, which finds none better: the interval begins at the minimum, and a larger search may find fewer. "
        f"Budget: steps a trial may take. {found.trained}"
    )
    return TextTable("steps", "Steps to the goal", STEP_HEADER, rows, pd.DataFrame(numbers), caption)

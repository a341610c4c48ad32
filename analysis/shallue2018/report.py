"""Shallue et al. (2018), "Measuring the Effects of Data Parallelism on Neural Network Training" (arXiv 1811.03600)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.report.report import Drawing, Drawings, Report
from analysis.runs import Tables
from analysis.shallue2018 import figures as figures
from analysis.shallue2018 import numbers as of
from analysis.shallue2018.findings import findings, rule_table
from analysis.shallue2018.numbers import Results, results_of
from analysis.shallue2018.tables import measured_size, size, step_table, useful_numbers, workload_table
from sharpness.plots.frames import floats, records, rows_where

NO_GOAL = "no trial reached the goal"


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables, the recommendations and the verdicts."""
    found = results_of(tables, settings)
    return Report(drawings(found), [workload_table(found), step_table(found)], sentences(found), findings(found))


def drawings(found: Results) -> Mapping[str, Drawing | str]:
    """Return the figures by name, or the reason why one cannot be drawn."""
    return Drawings(
        {
            "steps_vs_batch": lambda: _steps(found),
            "useful_batch": lambda: _useful(found),
            "optimal_rate": lambda: _rate(found),
            "rules": lambda: _rules(found),
            "trials": lambda: _trials(found),
            "trials_momentum": lambda: _momentum(found),
            "solution_quality": lambda: _quality(found),
        }
    )


def _searched(found: Results) -> str:
    """Say what a search is and how many found nothing."""
    wide, narrow = found.settings["workloads"][found.named("optimisers")[0]]["trials"]
    lost = len(found.best) - of.known(found.best, "steps")
    text = f"A search is {wide} quasi-random trials over the whole box and {narrow} around the best of them"
    return f"{text}; {lost} of {len(found.best)} searches reached no goal and are left out."


def _steps(found: Results) -> Drawing | str:
    if not np.isfinite(floats(found.best, "steps")).any():
        return NO_GOAL
    caption = (
        "Steps to the held-out goal against batch size, learning rate and momentum searched at each. Dots: the best "
        "trial of each independent search; lines: geometric means; dashed: perfect scaling from the smallest batch. "
        f"{_searched(found)} {found.trained}"
    )
    return Drawing(figures.steps_figure(found), found.best, caption)


def _useful(found: Results) -> Drawing | str:
    numbers = useful_numbers(found)
    drawn = numbers.loc[numbers["what"].isin(list(figures.KINDS))]
    if not np.isfinite(floats(drawn, "value")).any():
        return "no workload has a batch size at which its scaling changes"
    absent = ", ".join(f"{row['workload']} {row['what']}" for row in records(drawn) if row["value"] is None)
    caption = (
        "Where the fitted curve leaves perfect scaling, the critical batch of the hyperbola, where steps stop falling, "
        "and the noise scale where the best trials of the base batch ended. Bars: 95 % intervals over searches, an "
        f"open end not drawn. {f'Not there: {absent}. ' if absent else ''}{found.trained}"
    )
    return Drawing(figures.useful_figure(drawn, floats(found.best, "batch_size").tolist()), drawn, caption)


def _rate(found: Results) -> Drawing | str:
    if not np.isfinite(floats(found.best, "effective_rate")).any():
        return NO_GOAL
    caption = (
        "Effective learning rate of the best trial of each search (dots), the geometric mean (line), and the linear "
        f"and square-root rules from B = {found.settings['base_batch']} (dotted). The axis is the range searched. "
        f"{_searched(found)} {found.trained}"
    )
    return Drawing(figures.rate_figure(found), found.best, caption)


def _rules(found: Results) -> Drawing | str:
    numbers, base = rule_table(found), found.settings["base_batch"]
    if numbers.empty:
        return f"no search has a best trial at the base batch {base}"
    caption = (
        "Steps of plain SGD with the rate tuned at each batch size and with the rate that a rule makes of the best one "
        f"at B = {base}, read off the trial, of all searches, of the nearest rate. Geometric means over figures. "
        "Arrows: that trial missed the goal in the steps at the arrow's foot, so that it needs more. "
        f"{found.trained}"
    )
    return Drawing(figures.rules_figure(numbers, base), numbers, caption)


def _trials(found: Results) -> Drawing:
    caption = (
        "Every trial: effective learning rate at its batch size, the outcomes side by side, by whether it reached the "
        "goal within its step budget, or in three times the steps of the best. The axis is the range searched. "
        f"{found.trained}"
    )
    return Drawing(figures.trials_figure(found), found.trials, caption)


def _momentum(found: Results) -> Drawing:
    name = found.named("optimisers")[-1]
    caption = (
        f"Trials of {name} in the plane that is searched, a panel for each batch size; the axes are the ranges "
        f"searched. {found.trained}"
    )
    return Drawing(figures.momentum_figure(found, name), rows_where(found.trials, workload=name), caption)


def _quality(found: Results) -> Drawing | str:
    numbers, budgets = found.solutions, found.settings["budgets"]
    if not np.isfinite(floats(numbers, "test_error")).any():
        return "no run of equal epochs or equal steps finished"
    caption = (
        f"{budgets['workload']}: test error of the trial with the lowest held-out error, of {budgets['trials']} in "
        f"each search, at equal epochs and at equal steps. Dots: searches; lines: means. {found.trained}"
    )
    return Drawing(figures.quality_figure(numbers, budgets), numbers, caption)


def sentences(found: Results) -> list[str]:
    """Return the recommendation for every workload, then what was left out."""
    result = [found.trained]
    for name, w in found.workloads.items():
        end = w.regimes.perfect_until
        leaves = f"leaves it at {size(end)}" if end.value is not None else f"says: {end.reason}"
        result.append(
            f"{name}: recommended batch size {measured_size(w.overhead)}, the largest measured within 20 % of perfect "
            f"scaling (the fit {leaves}); the noise scale where the goal is reached recommends {size(w.noise)}."
        )
    empty = found.best.loc[found.best["steps"].isna()]
    for (name, batch_size), rows in empty.groupby(["workload", "batch_size"], sort=False):
        text = f"{name}, B = {batch_size}: no trial reached the goal in search"
        result.append(f"{text} {', '.join(map(str, rows['search']))}; left out of the mean, which looks better for it.")
    reached = len(rows_where(found.trials, outcome="reached"))
    edges = sum(w.edges for w in found.workloads.values())
    text = f"{reached} of {len(found.trials)} trials reached their goal; {edges} best ones of"
    return [*result, f"{text} {of.known(found.best, 'steps')} lie at an edge of the rates searched."]

"""Recipes for large batches: errors and steps of each, and the time to a goal on many workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.large_batch_recipes.figures import norms_figure, rates_figure, recipes_figure, workers_figure
from analysis.large_batch_recipes.findings import MARGIN, findings
from analysis.large_batch_recipes.numbers import arms_of, fastest_batches, fastest_runs, outcomes, projection
from analysis.large_batch_recipes.resnet50_on_paper import paper_table
from analysis.large_batch_recipes.tables import recipe_table, steps_table, worker_table
from analysis.report.numbers import significant
from analysis.report.report import Drawings, Report
from analysis.runs import Tables
from sharpness.plots.frames import floats, groups, records, rows_where


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables, what the projection says, and the verdicts."""
    rows = outcomes(tables)
    arms, fastest, note = arms_of(rows, settings), fastest_runs(rows, settings), trained(rows)
    projected = projection(fastest, settings)
    plain, normed = (settings[name]["training"]["batch_size"] for name in ("base", "norm_base"))
    drawings = Drawings(
        {
            "recipes": lambda: recipes_figure(arms, ("tuned", plain), MARGIN, note),
            "norms": lambda: norms_figure(arms, normed, settings["norm_batch"], MARGIN, note),
            "rates": lambda: rates_figure(rows, settings, note),
            "workers": lambda: workers_figure(fastest, projected, settings, note),
        }
    )
    shown = [recipe_table(arms, settings, note), steps_table(fastest, settings, note)]
    shown += [worker_table(projected, settings, note), paper_table()]
    return Report(drawings, shown, sentences(projected), findings(rows, arms, settings))


def trained(rows: pd.DataFrame) -> str:
    """Say how many networks were trained and how many diverged, which count as guesses."""
    diverged = int(np.sum(np.asarray(rows["diverged"], dtype=bool)))
    return f"{len(rows):,} networks were trained; the weights of {diverged:,} are not finite, which count as guesses."


def sentences(projected: pd.DataFrame) -> list[str]:
    """Return what the projection says."""
    best = fastest_batches(projected)
    if best.empty:
        return ["No recipe always reached the goal, so no time is projected."]
    lines = []
    for topology, rows in groups(best, "topology"):
        one = floats(rows_where(rows, workers=1), "seconds")[0]
        first = records(rows.sort_values("seconds"))[0]
        lines.append(
            f"By a {topology} the goal comes soonest on {first['workers']} workers at batch {first['batch']} "
            f"({first['recipe']}): {significant(one / first['seconds'], 2)} times sooner than on one worker."
        )
    return lines

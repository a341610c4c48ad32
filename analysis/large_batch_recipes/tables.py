"""The tables of the large-batch recipes: error and steps of each, and the time to the goal on many workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.large_batch_recipes.allreduce import ALLREDUCE, Cluster
from analysis.large_batch_recipes.figures import PANELS
from analysis.large_batch_recipes.numbers import BASE, WORKERS, excess, fastest_batches
from analysis.report.numbers import ABSENT, difference, mean_and_std, significant
from analysis.report.report import TextTable
from analysis.statistics.intervals import summarise
from sharpness.plots.frames import floats, groups, records, rows_where

ORDER = tuple(dict.fromkeys((BASE, *(recipe for recipes in PANELS.values() for recipe in recipes))))


def recipe_table(runs: pd.DataFrame, settings: Mapping[str, Any], note: str) -> TextTable:
    """Return the error of every recipe and batch, its difference to the base batch, and the steps to the goal."""
    base = (BASE, settings["base"]["training"]["batch_size"])
    places = [(name, batch) for name in ORDER for batch, _ in groups(rows_where(runs, recipe=name), "batch")]
    numbers = [recipe_row(runs, base, place) for place in places]
    text = [
        [
            f"{row['recipe']}, B = {row['batch']}",
            row.pop("shown"),
            row.pop("change_shown"),
            ABSENT if row["median_steps"] is None else f"{row['median_steps']:g}",
            f"{row['reached']}/{row['runs']}",
            f"{row['finished']}/{row['runs']}" + (f", {row['diverged']} diverged" if row["diverged"] else ""),
        ]
        for row in numbers
    ]
    header = ["", "test error (%)", "against base", "steps to goal", "reached", "finished"]
    caption = (
        "Final test error, mean ± sample standard deviation over seeds (a diverged run counts as a guess, "
        f"{100 * settings['chance']:g} %); its difference to the base batch in percentage points, paired by seed, "
        f"with 95 % Student t intervals; median steps to a test error of {100 * settings['goal_error']:g} % over the "
        f"runs that reached it, looked at after each epoch. {note}"
    )
    return TextTable("recipes_table", "Recipes for large batches", header, text, pd.DataFrame(numbers), caption)


def recipe_row(runs: pd.DataFrame, base: tuple[str, int], place: tuple[str, int]) -> dict[str, Any]:
    """Return what the runs of one recipe at one batch came to, as numbers and as text."""
    part = rows_where(runs, recipe=place[0], batch=place[1])
    change, spread = excess(runs, base, place), summarise(floats(part, "error"))
    statuses, steps = list(part["status"]), floats(part, "steps")
    reached = steps[np.isfinite(steps)]
    return {
        "recipe": place[0],
        "batch": place[1],
        "error": spread.mean,
        "error_std": spread.std,
        "runs": len(part),
        "change": change.value,
        "change_lower": change.lower,
        "change_upper": change.upper,
        "finished": statuses.count("finished"),
        "diverged": statuses.count("diverged"),
        "reached": len(reached),
        "median_steps": float(np.median(reached)) if len(reached) else None,
        "shown": mean_and_std(spread),
        "change_shown": ABSENT if place[0] == BASE else difference(change),
    }


def worker_table(projected: pd.DataFrame, settings: Mapping[str, Any], note: str) -> TextTable:
    """Return the projected time to the goal by the number of workers, for the batch that is best there."""
    best, base = fastest_batches(projected), settings["base"]["training"]["batch_size"]
    text = []
    for workers in WORKERS if len(best) else ():
        row = [str(workers)]
        for topology in ALLREDUCE:
            (choice,) = records(rows_where(best, topology=topology, workers=workers))
            row += [f"{choice['batch']}, {choice['recipe']}", significant(choice["seconds"], 3)]
        fixed = rows_where(projected, topology="ring", workers=workers, batch=base)
        text.append([*row, significant(floats(fixed, "seconds")[0], 3) if len(fixed) else ABSENT])
    header = ["workers", *(part for name in ALLREDUCE for part in (f"best by {name}", "s")), f"s by ring, B = {base}"]
    caption = (
        "Projected time to the goal: measured steps (median over seeds, best recipe at each batch) times the modelled "
        f"time of a step, {Cluster(**settings['cluster'])}, {settings['parameters']:,} parameters; workers beyond the "
        f"batch size are idle. {note}"
    )
    return TextTable("workers_table", "Time to the goal on many workers", header, text, projected, caption)

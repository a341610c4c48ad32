"""The tables of the large-batch recipes: rate and error of each, and the time to the goal on many workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.large_batch_recipes.allreduce import ALLREDUCE, Cluster
from analysis.large_batch_recipes.numbers import ARMS, WORKERS, Arm, base_batch, excess, fastest_batches
from analysis.report.numbers import ABSENT, difference, mean_and_std, ratio, significant
from analysis.report.report import TextTable
from analysis.statistics.intervals import Interval, summarise
from sharpness.plots.frames import floats, groups, records, rows_where

TUNED = {arm.recipe: name for name, arm in ARMS.items() if arm.rule == "tuned"}
"""The arm of a recipe whose rate is tuned at each batch."""


def base_of(arm: Arm, settings: Mapping[str, Any]) -> tuple[str, int]:
    """Return the arm and batch that an arm's rule starts from."""
    return TUNED[arm.base], base_batch(settings, arm)


def recipe_table(arms: pd.DataFrame, settings: Mapping[str, Any], note: str) -> TextTable:
    """Return rate and error of every arm and batch, and the error less that of the base batch and of the tuned rate."""
    places = [(name, batch) for name in ARMS for batch, _ in groups(rows_where(arms, arm=name), "batch")]
    numbers = [recipe_row(arms, settings, *place) for place in places if not _is_base(place, settings)]
    text = [
        [
            f"{row['arm']}, B = {row['batch']}",
            f"{row['updates']:,}",
            significant(row["value"], 3),
            *(row.pop(f"{part}_shown") for part in ("error", "change", "cost")),
        ]
        for row in numbers
    ]
    header = ["", "updates", "rate", "test error (%)", "less base batch (pp)", "less tuned rate (pp)"]
    caption = (
        "Final test error, mean ± sample standard deviation over seeds, with the learning rate (of LARS: the trust "
        "coefficient) that was tuned on held-out images of other seeds or that a rule gives; less the error of the "
        "base batch at its tuned rate; and what a rule costs, its error less that of the recipe with the rate tuned at "
        f"this batch. Differences are paired by seed, with 95 % Student t intervals. {note}"
    )
    return TextTable("recipes_table", "Recipes for large batches", header, text, pd.DataFrame(numbers), caption)


def _is_base(place: tuple[str, int], settings: Mapping[str, Any]) -> bool:
    """Say whether a rule gives the base batch its own tuned rate, which has a row already."""
    return ARMS[place[0]].rule != "tuned" and place[1] == base_of(ARMS[place[0]], settings)[1]


def recipe_row(arms: pd.DataFrame, settings: Mapping[str, Any], name: str, batch: int) -> dict[str, Any]:
    """Return what the networks of one arm at one batch came to, as numbers and as text."""
    arm, part = ARMS[name], rows_where(arms, arm=name, batch=batch)
    base, spread = base_of(arm, settings), summarise(floats(part, "error"))
    change = None if (name, batch) == base else excess(arms, base, (name, batch))
    other = TUNED.get(arm.recipe)
    cost = None if arm.rule == "tuned" or other is None else excess(arms, (other, batch), (name, batch))
    row: dict[str, Any] = {
        "arm": name,
        "batch": batch,
        "updates": int(floats(part, "updates")[0]),
        "value": float(floats(part, "value")[0]),
        "error": spread.mean,
        "error_std": spread.std,
        "seeds": len(part),
        "diverged": int(np.sum(np.asarray(part["diverged"], dtype=bool))),
        "error_shown": mean_and_std(spread),
    }
    for key, found in (("change", change), ("cost", cost)):
        own = found or Interval(None, None, None, 0)
        row |= {key: own.value, f"{key}_lower": own.lower, f"{key}_upper": own.upper, f"{key}_shown": difference(own)}
    return row


def steps_table(fastest: pd.DataFrame, settings: Mapping[str, Any], note: str) -> TextTable:
    """Return the steps to the goal at each batch with the recipe that needs the fewest."""
    text = []
    for row in records(fastest):
        steps = ratio(Interval(row["steps"], row["lower"], row["upper"], row["seeds"]))
        text.append([str(row["batch"]), row["recipe"], significant(row["value"], 3), steps])
    header = ["batch", "recipe", "rate", "steps to goal"]
    caption = (
        f"Updates to a held-out error of {100 * settings['goal_error']:g} %, looked at after each epoch: geometric "
        "mean over seeds with its 95 % interval, for the recipe without norms and the rate (of LARS the trust "
        f"coefficient) that need the fewest on other seeds, of those that always reach it. {note}"
    )
    return TextTable("steps_table", "Steps to the goal", header, text, fastest, caption)


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
        "Projected time to the goal: measured steps (the recipe and rate that need the fewest at each batch) times the "
        f"time of a step by a model with assumed constants, {Cluster(**settings['cluster'])}, "
        f"{settings['parameters']:,} parameters; workers beyond the batch size are idle. {note}"
    )
    return TextTable("workers_table", "Time to the goal on many workers", header, text, projected, caption)

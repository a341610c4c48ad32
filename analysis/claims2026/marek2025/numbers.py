"""The numbers behind small batches of language: losses at tuned rates, and what a rate beside them costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.report import held_out
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

HELD, FIXED, SGD = "AdamW, half-life held", "AdamW, beta2 fixed", "SGD"
"""The ways to train."""
NAMES = ("way", "batch", "place", "seed", "learning_rate", "validation_loss", "test_loss")


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that came to an end with their losses, at most that of a guess."""
    return held_out.outcomes(runs, NAMES)


def tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each way, batch and seed the rate chosen without this seed, its test loss, and those beside it.

    The rate has the lowest mean held-out loss over the other seeds. ``beside`` is the mean test loss of this seed at
    the next rates of the grid on either side, less that at the chosen one; ``edge`` says that there is one side only.
    """
    found = list[dict[str, Any]]()
    for keys in records(rows.filter(["way", "batch"]).drop_duplicates()):
        cell = rows_where(rows, **keys)
        for seed, own in groups(cell, "seed"):
            place = held_out.best_place(rows_if(cell, cell["seed"] != seed))
            losses = dict(zip(own["place"], floats(own, "test_loss"), strict=True))
            if place is None or place not in losses:
                continue
            near = [losses[each] for each in (place - 1, place + 1) if each in losses]
            rate = floats(rows_where(own, place=place), "learning_rate")[0]
            row = {"seed": seed, "learning_rate": rate, "test_loss": losses[place], "edge": len(near) < 2}
            row["beside"] = float(np.mean(near)) - losses[place] if near else np.nan
            found.append(keys | row)
    columns = ["way", "batch", "seed", "learning_rate", "test_loss", "edge", "beside"]
    return pd.DataFrame(found, columns=pd.Index(columns))


def means_by_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each way, batch and rate the mean test loss over the seeds, and how many were that of a guess."""
    found = list[dict[str, Any]]()
    for keys in records(rows.filter(["way", "batch", "learning_rate"]).drop_duplicates()):
        losses = floats(rows_where(rows, **keys), "test_loss")
        found.append(keys | {"test_loss": losses.mean(), "guesses": int((losses >= held_out.CHANCE).sum())})
    return pd.DataFrame(found)


def of(rows: pd.DataFrame, way: str, batch: int, column: str = "test_loss") -> pd.Series:
    """Return a number of a way and a batch size by seed."""
    own = rows_where(rows, way=way, batch=batch)
    return pd.Series(floats(own, column), index=own["seed"])


def less(first: pd.Series, second: pd.Series) -> Interval:
    """Return the mean of first - second over the seeds; none where a seed lacks one."""
    return held_out.difference_of_seeds(second, first)


def gap(rows: pd.DataFrame, batch: int) -> pd.Series:
    """Return by seed how much higher the loss of SGD is than that of AdamW with its half-life held."""
    return of(rows, SGD, batch) - of(rows, HELD, batch)


def batches_of(rows: pd.DataFrame) -> list[int]:
    """Return the batch sizes, ascending."""
    return [int(batch) for batch, _ in groups(rows, "batch")]

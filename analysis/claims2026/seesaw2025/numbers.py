"""The numbers behind Seesaw: losses and updates of four schedules at the rate that halving chose."""

from __future__ import annotations

import pandas as pd

from analysis.report import held_out
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, rows_where

CONSTANT, HALVED, SEESAW, CONTROL = ARMS = ("constant", "halved", "Seesaw", "control")
"""The schedules."""
NAMES = ("arm", "place", "seed", "learning_rate", "validation_loss", "test_loss", "step")


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that came to an end with their losses, at most that of a guess, and their updates."""
    return held_out.outcomes(runs, NAMES)


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at the rate that has the lowest mean held-out loss of the *other* seeds' halved runs."""
    return held_out.at_chosen_rate(rows, rows_where(rows, arm=HALVED))


def of(rows: pd.DataFrame, arm: str, column: str) -> pd.Series:
    """Return a number of a schedule by seed."""
    own = rows_where(rows, arm=arm)
    return pd.Series(floats(own, column), index=own["seed"])


def less(rows: pd.DataFrame, arm: str, other: str) -> Interval:
    """Return the mean test loss of one schedule less that of another over the seeds; none where a seed lacks one."""
    return held_out.difference_of_seeds(of(rows, other, "test_loss"), of(rows, arm, "test_loss"))


def saved(rows: pd.DataFrame) -> Interval:
    """Return the share of the updates of halving that Seesaw does not need."""
    share = 1 - of(rows, SEESAW, "step") / of(rows, HALVED, "step")
    return held_out.difference_of_seeds(0 * share, share)


def edges(rows: pd.DataFrame, chosen: pd.DataFrame) -> int:
    """Return for how many seeds the chosen rate is the first or the last of the grid."""
    ends = {min(rows["place"]), max(rows["place"])}
    return len({seed for seed, place in zip(chosen["seed"], chosen["place"], strict=True) if place in ends})

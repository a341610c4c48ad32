"""The numbers behind Seesaw: losses and updates of four schedules at the rate that halving chose."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Interval, paired_difference
from sharpness.plots.frames import floats, groups, rows_if, rows_where

CONSTANT, HALVED, SEESAW, CONTROL = ARMS = ("constant", "halved", "Seesaw", "control")
"""The schedules."""
CHANCE = math.log(256)
"""The loss of a guess among 256 bytes, in nats, which a run that diverged counts as, and any that is worse."""
NAMES = ("arm", "place", "seed", "learning_rate", "validation_loss", "test_loss", "step")


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that came to an end with their losses, at most that of a guess, and their updates."""
    ended = rows_if(runs, [status != "missing" for status in runs["status"]])
    table = pd.DataFrame({name: ended[name] for name in NAMES})
    losses = {name: np.nan_to_num(floats(table, name), nan=CHANCE) for name in ("validation_loss", "test_loss")}
    return table.assign(**{name: np.minimum(values, CHANCE) for name, values in losses.items()})


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at the rate that has the lowest mean held-out loss of the *other* seeds' halved runs."""
    found, halved = list[pd.DataFrame](), rows_where(rows, arm=HALVED)
    for seed, own in groups(rows, "seed"):
        others = rows_if(halved, halved["seed"] != seed)
        means = [(float(floats(each, "validation_loss").mean()), place) for place, each in groups(others, "place")]
        if means:
            found.append(rows_where(own, place=min(means)[1]))
    return pd.concat(found) if found else rows.head(0)


def of(rows: pd.DataFrame, arm: str, column: str) -> pd.Series:
    """Return a number of a schedule by seed."""
    own = rows_where(rows, arm=arm)
    return pd.Series(floats(own, column), index=own["seed"])


def less(rows: pd.DataFrame, arm: str, other: str) -> Interval:
    """Return the mean test loss of one schedule less that of another over the seeds; none where a seed lacks one."""
    return _paired(of(rows, other, "test_loss"), of(rows, arm, "test_loss"))


def saved(rows: pd.DataFrame) -> Interval:
    """Return the share of the updates of halving that Seesaw does not need."""
    share = 1 - of(rows, SEESAW, "step") / of(rows, HALVED, "step")
    return _paired(0 * share, share)


def _paired(first: pd.Series, second: pd.Series) -> Interval:
    both = pd.DataFrame({"first": first, "second": second})
    gone = int(both.isna().any(axis=1).sum())
    if gone or both.empty:
        reason = f"{gone} of {len(both)} seeds have no number" if gone else "nothing was measured"
        return Interval(None, None, None, len(both) - gone, reason)
    return paired_difference(both["first"], both["second"])


def edges(rows: pd.DataFrame, chosen: pd.DataFrame) -> int:
    """Return for how many seeds the chosen rate is the first or the last of the grid."""
    ends = {min(rows["place"]), max(rows["place"])}
    return len({seed for seed, place in zip(chosen["seed"], chosen["place"], strict=True) if place in ends})

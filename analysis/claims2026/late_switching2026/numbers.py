"""The numbers behind late switching: losses after equal bytes, and what is left of a lead after equal updates."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Interval, paired_difference, student
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

SMALL, LARGE, EARLY, LATE = ARMS = ("small", "large", "early", "late")
"""The ways to use the same bytes."""
CATCH_UP, SMALL_BEFORE, LARGE_BEFORE = "catch-up", "small, to the switch", "large, to the switch"
CHANCE = math.log(256)
"""The loss of a guess among 256 bytes, in nats, which a run that diverged counts as, and any that is worse."""
NAMES = ("arm", "place", "seed", "learning_rate", "validation_loss", "test_loss", "step", "examples")


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that came to an end with their losses, at most that of a guess."""
    ended = rows_if(runs, [status != "missing" for status in runs["status"]])
    table = pd.DataFrame({name: ended[name] for name in NAMES})
    losses = {name: np.nan_to_num(floats(table, name), nan=CHANCE) for name in ("validation_loss", "test_loss")}
    return table.assign(**{name: np.minimum(values, CHANCE) for name, values in losses.items()})


def judged(rows: pd.DataFrame, arm: str, chooser: str) -> pd.DataFrame:
    """Return the runs of an arm at the rate with the lowest mean held-out loss of another's, of the *other* seeds."""
    found, choosing = list[pd.DataFrame](), rows_where(rows, arm=chooser)
    for seed, own in groups(rows_where(rows, arm=arm), "seed"):
        others = rows_if(choosing, choosing["seed"] != seed)
        means = [(float(floats(each, "validation_loss").mean()), place) for place, each in groups(others, "place")]
        if means:
            found.append(rows_where(own, place=min(means)[1]))
    return pd.concat(found) if found else rows.head(0)


def at_own_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the runs over the same bytes, each at its own best rate."""
    return pd.concat([judged(rows, arm, arm) for arm in ARMS])


def less(rows: pd.DataFrame, arm: str, other: str) -> Interval:
    """Return the mean test loss of one way less that of another over the seeds; none where a seed lacks one."""
    return complete(pd.DataFrame({name: of(rows_where(rows, arm=name)) for name in (arm, other)})) or paired_difference(
        *(of(rows_where(rows, arm=name)) for name in (other, arm))
    )


def of(rows: pd.DataFrame) -> pd.Series:
    """Return the test loss by seed."""
    return pd.Series(floats(rows, "test_loss"), index=rows["seed"]).sort_index()


def complete(table: pd.DataFrame) -> Interval | None:
    """Return the interval that says why there is none, where a seed lacks a number."""
    gone = int(table.isna().any(axis=1).sum())
    if not gone and not table.empty:
        return None
    reason = f"{gone} of {len(table)} seeds have no number" if gone else "nothing was measured"
    return Interval(None, None, None, len(table) - gone, reason)


def leads(rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed how far small batches are behind large ones at the switch, and how far when both have ended."""
    losses = {arm: of(judged(rows, arm, LARGE)) for arm in (LARGE, CATCH_UP, SMALL_BEFORE, LARGE_BEFORE)}
    at_switch = losses[SMALL_BEFORE] - losses[LARGE_BEFORE]
    return pd.DataFrame({"at_switch": at_switch, "at_end": losses[CATCH_UP] - losses[LARGE]})


def left_over(rows: pd.DataFrame) -> Interval:
    """Return the share of the lead at the switch that is left at the end; none where there was no lead."""
    table = leads(rows)
    missing = complete(table)
    if missing is not None:
        return missing
    behind = sum(row["at_switch"] > 0 for row in records(table))
    if behind < len(table):
        reason = f"large batches had no lead at the switch in {len(table) - behind} of {len(table)} seeds"
        return Interval(None, None, None, behind, reason)
    return student(floats(table, "at_end") / floats(table, "at_switch"))

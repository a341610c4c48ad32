"""The numbers behind late switching: losses after equal bytes, and what is left of a lead after equal updates."""

from __future__ import annotations

import pandas as pd

from analysis.report import held_out
from analysis.statistics.intervals import Interval, incomplete, student
from sharpness.plots.frames import floats, records, rows_where

SMALL, LARGE, EARLY, LATE = ARMS = ("small", "large", "early", "late")
"""The ways to use the same bytes."""
CATCH_UP, SMALL_BEFORE, LARGE_BEFORE = "catch-up", "small, to the switch", "large, to the switch"
NAMES = ("arm", "place", "seed", "learning_rate", "validation_loss", "test_loss", "step", "examples")


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that came to an end with their losses, at most that of a guess."""
    return held_out.outcomes(runs, NAMES)


def judged(rows: pd.DataFrame, arm: str, chooser: str) -> pd.DataFrame:
    """Return the runs of an arm at the rate with the lowest mean held-out loss of another's, of the *other* seeds."""
    return held_out.at_chosen_rate(rows_where(rows, arm=arm), rows_where(rows, arm=chooser))


def at_own_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the runs over the same bytes, each at its own best rate."""
    return pd.concat([judged(rows, arm, arm) for arm in ARMS])


def less(rows: pd.DataFrame, arm: str, other: str) -> Interval:
    """Return the mean test loss of one way less that of another over the seeds; none where a seed lacks one."""
    return held_out.difference_of_seeds(*(of(rows_where(rows, arm=name)) for name in (other, arm)))


def of(rows: pd.DataFrame) -> pd.Series:
    """Return the test loss by seed."""
    return pd.Series(floats(rows, "test_loss"), index=rows["seed"]).sort_index()


def leads(rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed how far small batches are behind large ones at the switch, and how far when both have ended."""
    losses = {arm: of(judged(rows, arm, LARGE)) for arm in (LARGE, CATCH_UP, SMALL_BEFORE, LARGE_BEFORE)}
    at_switch = losses[SMALL_BEFORE] - losses[LARGE_BEFORE]
    return pd.DataFrame({"at_switch": at_switch, "at_end": losses[CATCH_UP] - losses[LARGE]})


def left_over(rows: pd.DataFrame) -> Interval:
    """Return the share of the lead at the switch that is left at the end; none where there was no lead."""
    table = leads(rows)
    missing = incomplete(floats(table, "at_switch"), floats(table, "at_end"))
    if missing is not None:
        return missing
    behind = sum(row["at_switch"] > 0 for row in records(table))
    if behind < len(table):
        reason = f"large batches had no lead at the switch in {len(table) - behind} of {len(table)} seeds"
        return Interval(None, None, None, behind, reason)
    return student(floats(table, "at_end") / floats(table, "at_switch"))

"""The numbers behind flatness and label noise: where each way to train ended, over the flattest minimum."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.runs import Tables
from analysis.statistics.intervals import Interval, paired_ratio
from analysis.statistics.resampling import Floats
from sharpness.plots.frames import floats, groups, rows_if, rows_where

WALKED = ("seed", "imbalance", "start", "batch", "rate", "activation", "step", "trace", "top_eigenvalue", "test_loss")
KNOWN = ("seed", "imbalance", "flattest_trace", "flattest_top", "quietest_trace", "quietest_top")
MEASURES = {"trace": "trace", "top_eigenvalue": "top"}
"""The measured columns of sharpness, and the names of the same in the table of minima."""


def read(tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the ways and the ends of all walks, sharpness with that of both known minima beside it.

    Of ways ``step`` is the number of updates; ends come after the last of them, settled in a minimum. ``first`` is the
    trace at the start.
    """
    walked, known = tables.rows("walks", *WALKED).filter(WALKED), tables.rows("minima", *KNOWN).filter(KNOWN)
    both = walked.merge(known, on=["seed", "imbalance"], how="inner")
    step = floats(both, "step")
    ends, ways = rows_if(both, np.isnan(step)), rows_if(both, np.isfinite(step))
    keys = [name for name in WALKED if name not in ("step", *MEASURES, "test_loss")]
    first = rows_where(ways, step=0).filter([*keys, *MEASURES])
    ends = ends.merge(first.rename(columns={name: f"first_{name}" for name in MEASURES}), on=keys, how="left")
    return ways, ends


def by_seed(rows: pd.DataFrame, column: str) -> Floats:
    """Return a column in the order of the seeds, NaN where there is no number."""
    return floats(rows.sort_values("seed"), column)


def over(rows: pd.DataFrame, column: str, under: str) -> Interval:
    """Return the geometric mean over seeds of one column over another of the same rows."""
    return paired_ratio(by_seed(rows, under), by_seed(rows, column))


def compared(first: pd.DataFrame, second: pd.DataFrame, column: str) -> Interval:
    """Return the geometric mean over the seeds that both have of a column in the second rows over the first."""
    one, other = (rows.filter(["seed", column]) for rows in (first, second))
    pairs = one.merge(other, on="seed", suffixes=("_first", "_second"))
    return paired_ratio(floats(pairs, f"{column}_first"), floats(pairs, f"{column}_second"))


def ends_of(ends: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """Return the ends of the linear network in batches of one at the smaller rate, but for what is said."""
    smallest = {"activation": "linear", "batch": 1, "rate": floats(ends, "rate").min(initial=np.inf)}
    return rows_where(ends, **{**smallest, **equal})


def imbalances(ends: pd.DataFrame) -> list[float]:
    """Return the imbalances in ascending order."""
    return [float(each) for each, _ in groups(ends, "imbalance")]

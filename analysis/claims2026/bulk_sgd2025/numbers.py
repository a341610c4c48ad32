"""The numbers of learning and the top eigenspace: shares of gradients and updates, and of the fall of the loss."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.runs import Tables
from analysis.statistics.intervals import Interval, incomplete, student
from sharpness.plots.frames import floats, groups, rows_if, rows_where

RUN = ("method", "arm", "learning_rate", "batch_size", "seed")
SEEN = ("step", "loss", "share", "top_eigenvalue")
WALKED = (*RUN, "kind", *SEEN, "update_share", "kept")
LEAST_FALL = 0.05
"""A fall of the loss by less than this, in logarithms, is too small to be divided by."""
COLUMNS = (*RUN, "fall", "dominant", "bulk", "share", "early_share", "update_share", "later_share", "edge", "kept")


def walks(tables: Tables) -> pd.DataFrame:
    """Return every measurement along a branch; of a branch whose loss is not finite the last one has no number."""
    return tables.rows("branches", *WALKED).filter(WALKED)


def approaches(tables: Tables) -> pd.DataFrame:
    """Return every measurement before the branches, the first at the initial weights."""
    return tables.rows("approach", *RUN, *SEEN).filter([*RUN, *SEEN])


def summaries(tables: Tables) -> pd.DataFrame:
    """Return a row for each run whose branches were measured; NaN for what has no number.

    ``fall`` is the logarithm of the loss of the plain branch in its first quarter over that in its last. ``dominant``
    and ``bulk`` are the falls from that first quarter to the last quarter of the branches with projected updates, as
    shares of it: 0 where nothing is learnt, 1 where as much is. ``share`` and ``update_share`` are the shares of
    gradient and update in the top eigenspace, means over the plain branch; ``early_share`` that of the gradient over
    the first half of the updates before it, without the initial weights; ``later_share`` over the second half of the
    branch of full batches. ``edge`` is the top eigenvalue of the plain branch over 2 / eta, and ``kept`` how much of
    the eigenspace was still the same when it was found anew, the smaller mean of the two projected branches.
    """
    walked, before, rows = walks(tables), approaches(tables), []
    for arm in dict.fromkeys(tables.runs["arm"]):
        for _, own in groups(rows_where(walked, arm=arm), "seed"):
            row = {name: own[name].iloc[0] for name in RUN}
            early = rows_where(before, arm=row["arm"], seed=row["seed"])
            rows.append(row | of_run(own, early))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def of_run(own: pd.DataFrame, before: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of one run from its branches and what was before them."""
    branch = {kind: rows.sort_values("step") for kind, rows in groups(own, "kind")}
    plain, nothing = branch["plain"], own.head(0)
    begin = level(part(plain, 0, 0.25))
    fall = begin - level(part(plain, 0.75, 1))
    found = {"fall": fall, "share": mean(plain, "share"), "update_share": mean(plain, "update_share")}
    for kind in ("dominant", "bulk"):
        own_fall = begin - level(part(branch.get(kind, nothing), 0.75, 1, floats(plain, "step").max()))
        found[kind] = own_fall / fall if fall >= LEAST_FALL else np.nan
    steps = floats(before, "step")
    first = rows_if(before, (steps > 0) & (steps <= steps.max(initial=0) / 2))
    found["early_share"] = mean(first, "share")
    found["later_share"] = mean(part(branch.get("full batch", nothing), 0.5, 1), "share")
    found["edge"] = mean(plain, "top_eigenvalue") * float(plain["learning_rate"].iloc[0]) / 2
    found["kept"] = min(mean(branch.get(kind, nothing), "kept") for kind in ("dominant", "bulk"))
    return found


def part(rows: pd.DataFrame, first: float, last: float, end: float | None = None) -> pd.DataFrame:
    """Return the measurements between two shares of a branch, whose length is that of its last one or ``end``."""
    steps = floats(rows, "step")
    whole = steps.max(initial=0) if end is None else end
    return rows_if(rows, (steps >= first * whole) & (steps <= last * whole))


def level(rows: pd.DataFrame) -> float:
    """Return the mean logarithm of the loss, NaN where one is missing or there are none."""
    losses = floats(rows, "loss")
    return float(np.log(losses).mean()) if len(losses) else np.nan


def mean(rows: pd.DataFrame, column: str) -> float:
    """Return the mean of the finite values of a column, NaN of none."""
    finite = floats(rows, column)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if len(finite) else np.nan


def over_seeds(rows: pd.DataFrame, column: str) -> Interval:
    """Return the mean over seeds of a column, and no interval where a seed lacks it."""
    values = floats(rows, column)
    return incomplete(values) or student(values)


def by_arm(summary: pd.DataFrame, method: str, column: str) -> dict[str, Interval]:
    """Return the means over seeds of the ways to train of one method by name, in their order."""
    own = rows_where(summary, method=method)
    return {arm: over_seeds(rows_where(own, arm=arm), column) for arm in dict.fromkeys(own["arm"])}


def less(summary: pd.DataFrame, method: str, column: str) -> Interval:
    """Return the difference of a column between the first ways of a method and of SGD, paired by seeds."""
    pair = [rows_where(summary, arm=next(iter(by_arm(summary, each, column)), "")) for each in ("SGD", method)]
    both = pair[0].merge(pair[1], on="seed", suffixes=("_sgd", "_other"))
    differences = floats(both, f"{column}_other") - floats(both, f"{column}_sgd")
    return incomplete(differences) or student(differences)


def arms(summary: pd.DataFrame) -> list[str]:
    """Return the names of the ways to train in their order."""
    return list(dict.fromkeys(summary["arm"]))

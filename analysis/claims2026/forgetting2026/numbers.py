"""The numbers behind forgetting and rounding: a row for each network with its sharpness and its damages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Interval, incomplete, paired_difference, paired_ratio
from analysis.statistics.rank_correlation import kendall_tau
from sharpness.plots.frames import floats, groups, records, rows_where

ARMS = ("constant", "average", "WSD", "cosine", "SAM")
"""The ways to end the training on the first text."""
COLUMNS = {
    "curvature": ("arm", "seed", "measure", "value", "record"),
    "path": ("arm", "seed", "step", "first_loss", "second_loss"),
}
"""The columns of the study's own tables that are read."""
ROUNDING = ("expected", "quadratic", "measured", "single_lower", "single_upper")
DRIFT = {
    "random": {"quadratic": "expected_drift", "quadratic_there": "quadratic_drift", "measured": "measured_drift"},
    "sharpest": {"quadratic": "quadratic_sharpest", "measured": "measured_sharpest"},
}
"""The columns that the rows of a drift go to, by their direction."""
NUMBERS = ("loss", "top_eigenvalue", "critical_sharpness", "moved", "before", "forgetting", "after", "second")


def networks(curvature: pd.DataFrame, path: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each arm and seed: measures, the rises under rounding and drift, what the second text did.

    ``moved`` is how far the second text moved the weights in units of their length, the distance of the drift.
    ``before`` is the test loss on the first text where the second begins, ``forgetting`` its rise until the loss on the
    second is ``target`` (at other targets ``forgetting_at_<target>``), ``after`` the loss on the first text there, and
    ``second`` the loss on the second text at the end. NaN for what was not measured or not reached.
    """
    rows = []
    for keys in records(path.filter(["arm", "seed"]).drop_duplicates()):
        way = rows_where(path, **keys).sort_values("step")
        before, row = floats(way, "first_loss")[0], dict(keys)
        row |= {"before": before, "second": floats(way, "second_loss")[-1]}
        row["after"] = first_loss_at(way, settings["target"])
        row["forgetting"] = row["after"] - before
        for target in settings["other_targets"]:
            row[f"forgetting_at_{target:g}"] = first_loss_at(way, target) - before
        rows.append(row | _measured(rows_where(curvature, **keys)))
    return pd.DataFrame(rows, columns=pd.Index(["arm", "seed", *_names(settings)]))


def _names(settings: Mapping[str, Any]) -> list[str]:
    later = [f"forgetting_at_{target:g}" for target in settings["other_targets"]]
    drift = [column for names in DRIFT.values() for column in names.values()]
    return [*NUMBERS, *later, *drift, *(f"{name}_{bits}" for bits in settings["bits"] for name in ROUNDING)]


def _measured(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the values of a network's probes by their names, of rounding by the bits, of drift by the direction."""
    found = dict[str, Any]()
    for row in records(rows):
        if row["measure"] not in ("rounding", "drift"):
            found[row["measure"]] = row["value"]
            continue
        for each in row["record"]["details"]["rows"]:
            if row["measure"] == "rounding":
                found |= {f"{name}_{each['bits']}": each[name] for name in ROUNDING}
            else:
                found |= {column: each[name] for name, column in DRIFT[each["direction"]].items()}
    return found


def first_loss_at(path: pd.DataFrame, target: float) -> float:
    """Return the loss on the first text where that on the second first comes down to ``target``, linear between looks.

    NaN where it never does, and where it is there at the start.

    >>> path = pd.DataFrame({"step": [0, 8, 16], "first_loss": [1.0, 2.0, 4.0], "second_loss": [5.0, 4.0, 2.0]})
    >>> first_loss_at(path, 3.0), first_loss_at(path, 1.0)
    (3.0, nan)
    """
    ordered = path.sort_values("step")
    first, second = floats(ordered, "first_loss"), floats(ordered, "second_loss")
    below = np.flatnonzero(second <= target)
    if not len(below) or below[0] == 0:
        return float("nan")
    i = below[0]
    share = (second[i - 1] - target) / (second[i - 1] - second[i])
    return float(first[i - 1] + share * (first[i] - first[i - 1]))


def by_seed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column with a row for each seed and a column for each arm."""
    return rows.pivot(index="seed", columns="arm", values=column).reindex(columns=pd.Index(ARMS)).astype(float)


def over(rows: pd.DataFrame, column: str, arm: str, other: str) -> Interval:
    """Return a number of one arm over that of another, over the seeds; none where a seed lacks one."""
    pair = _pair(rows, column, arm, other)
    return incomplete(*pair) or paired_ratio(*pair)


def less(rows: pd.DataFrame, column: str, arm: str, other: str) -> Interval:
    """Return a number of one arm less that of another, over the seeds; none where a seed lacks one."""
    pair = _pair(rows, column, arm, other)
    return incomplete(*pair) or paired_difference(*pair)


def _pair(rows: pd.DataFrame, column: str, arm: str, other: str) -> tuple[Any, Any]:
    table = by_seed(rows, column)
    return floats(table, other), floats(table, arm)


def tau(rows: pd.DataFrame, measure: str, damage: str) -> Interval:
    """Return Kendall's tau of a measure and a damage over all networks, whole seeds resampled."""
    return kendall_tau(floats(rows, measure), floats(rows, damage), list(rows["seed"]))


def against_expected(rows: pd.DataFrame, measured_column: str, expected_column: str) -> Interval:
    """Return the measured over the expected rise, geometric mean over the arms, with an interval over the seeds."""
    means = []
    for _, own in groups(rows, "seed"):
        pair = floats(own, measured_column), floats(own, expected_column)
        bad = any(not np.all(each > 0) for each in pair)
        means.append((np.nan, np.nan) if bad else tuple(float(np.exp(np.log(each).mean())) for each in pair))
    measured, expected = np.array(means, dtype=float).reshape(-1, 2).T
    gone = int(np.isnan(measured).sum())
    if gone or not len(measured):
        reason = f"{gone} of {len(measured)} seeds have a rise that is missing or not positive"
        return Interval(None, None, None, len(measured) - gone, reason)
    return paired_ratio(expected, measured)


def shares_inside(rows: pd.DataFrame, bits: Sequence[int]) -> list[float]:
    """Return for each seed the share of roundings whose rise is where one with independent errors would lie."""
    shares = []
    for _, own in groups(rows, "seed"):
        inside = [
            (floats(own, f"single_lower_{b}") <= floats(own, f"measured_{b}"))
            & (floats(own, f"measured_{b}") <= floats(own, f"single_upper_{b}"))
            for b in bits
        ]
        shares.append(float(np.mean(inside)))
    return shares

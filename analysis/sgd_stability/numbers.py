"""The numbers behind the stability of SGD: the rates at which walks run away or leave a basin, as pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Interval, paired_ratio
from analysis.statistics.resampling import Floats
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

COLUMNS = {
    "walks": ("seed", "batch", "penalty", "rate", "ran_away", "falls", "growth"),
    "thresholds": ("seed", "batch", "penalty", "stable_rate", "critical_batch"),
    "basins": ("seed", "batch", "basin", "stable_rate", "rate", "left", "ended_flat", "growth"),
}
"""The columns of the study's own tables that are read."""
HALF = 0.5
"""A rate counts as the one at which walks run away, or leave, where this share of them does within their steps."""
RATES = ["stable_rate", "half_rate", "typical_rate", "share_below"]


def crossing(x: Floats, y: Floats, level: float) -> float:
    """Return the x at which y first comes to a level from below, linear in log x between points; NaN if nowhere.

    >>> round(crossing(np.array([1.0, 100.0]), np.array([0.0, 1.0]), 0.5), 9)
    10.0
    >>> crossing(np.array([1.0, 2.0]), np.array([0.0, 0.2]), 0.5)
    nan
    """
    order = np.argsort(x)
    u, v = np.log(x[order]), y[order]
    at = np.flatnonzero(v >= level)
    if len(at) == 0 or at[0] == 0:
        return float("nan")
    i = at[0]
    return float(np.exp(u[i - 1] + (level - v[i - 1]) / (v[i] - v[i - 1]) * (u[i] - u[i - 1])))


def rates_of(curve: pd.DataFrame, column: str, stable: float) -> dict[str, float]:
    """Return the rates of one curve of shares against learning rates, and the share just below the computed one.

    ``stable_rate`` is where the mean square stops shrinking by theory, ``half_rate`` where half of the walks ran away
    or left, ``typical_rate`` where what nearly every walk does turns from shrinking to growing, ``share_below`` the
    share that ran away or left at the largest rate of the grid that is not above ``stable_rate``.
    """
    rate, share = floats(curve, "rate"), floats(curve, column)
    below = share[rate <= stable]
    half, typical = crossing(rate, share, HALF), crossing(rate, floats(curve, "growth"), 0.0)
    return {
        # Rounded, so that seeds that agree, as at the full batch, do so to the last digit.
        "stable_rate": round(stable, 9),
        "half_rate": round(half, 9),
        "typical_rate": round(typical, 9),
        "share_below": float(below[-1]) if len(below) else float("nan"),
    }


def ridge_rates(walks: pd.DataFrame, thresholds: pd.DataFrame) -> pd.DataFrame:
    """Return the rates of least squares for each seed, penalty and batch size, in units of 1 / lambda_max."""
    rows = []
    for keys in _keys(thresholds, "seed", "penalty", "batch"):
        (known,) = records(rows_where(thresholds, **keys))
        curve = rows_where(walks, **keys).sort_values("rate")
        rates = rates_of(curve, "ran_away", float(known["stable_rate"]))
        rows.append(keys | rates | {"critical_batch": known["critical_batch"]})
    names = ["seed", "penalty", "batch", *RATES, "critical_batch"]
    return pd.DataFrame(rows, columns=pd.Index(names))


def exit_rates(basins: pd.DataFrame) -> pd.DataFrame:
    """Return the rates at which walks leave the sharp basin for each seed and batch size, in units of 1 / a."""
    rows = []
    sharp = rows_where(basins, basin="sharp")
    for keys in _keys(sharp, "seed", "batch"):
        curve = rows_where(sharp, **keys).sort_values("rate")
        rows.append(keys | rates_of(curve, "left", float(floats(curve, "stable_rate")[0])))
    return pd.DataFrame(rows, columns=pd.Index(["seed", "batch", *RATES]))


def _keys(table: pd.DataFrame, *names: str) -> list[dict[str, Any]]:
    return records(table.filter([*names]).drop_duplicates())


def at_rate(curves: pd.DataFrame, rate: float) -> pd.DataFrame:
    """Return the rows of the grid's learning rate that is nearest to a rate."""
    grid = np.array(sorted(set(floats(curves, "rate"))))
    nearest = grid[np.argmin(np.abs(np.log(grid / rate)))] if len(grid) else rate
    return rows_if(curves, floats(curves, "rate") == nearest)


def by_seed(rows: pd.DataFrame, column: str) -> Floats:
    """Return a column in the order of the seeds, one number each."""
    return floats(rows.sort_values("seed"), column)


def whole_ratio(first: Floats, second: Floats) -> Interval:
    """Return second / first over the seeds; none where a seed lacks one, as leaving it out would choose the others.

    >>> whole_ratio(np.array([1.0, 1.0]), np.array([2.0, float("nan")])).reason
    '1 of 2 seeds have no number'
    """
    gone = int(np.isnan(first + second).sum())
    if gone or not len(first):
        reason = f"{gone} of {len(first)} seeds have no number" if gone else "nothing was measured"
        return Interval(None, None, None, len(first) - gone, reason)
    return paired_ratio(first, second)


def ratios(rates: pd.DataFrame, over: str, under: str) -> dict[str, Interval]:
    """Return one rate over another for each batch size, over the seeds."""
    return {
        f"B = {batch}": whole_ratio(by_seed(own, under), by_seed(own, over)) for batch, own in groups(rates, "batch")
    }


def shifts(rates: pd.DataFrame, penalty: float, column: str) -> dict[int, Floats]:
    """Return by batch size, for each seed, a rate with a penalty over that without."""
    return {
        batch: by_seed(rows_where(own, penalty=penalty), column) / by_seed(rows_where(own, penalty=0.0), column)
        for batch, own in groups(rates, "batch")
    }


def shift_errors(rates: pd.DataFrame) -> dict[str, Interval]:
    """Return the measured over the computed shift of the rate by each penalty at each batch size."""
    result = {}
    for penalty in sorted(set(rates["penalty"]) - {0.0}):
        computed, measured = (shifts(rates, penalty, column) for column in ("stable_rate", "half_rate"))
        for batch in computed:
            result[f"B = {batch}, penalty {penalty:g}"] = whole_ratio(computed[batch], measured[batch])
    return result


def first_slope(rates: pd.DataFrame, column: str) -> Floats:
    """Return for each seed the slope of log rate on log B between the two smallest batch sizes.

    >>> rates = pd.DataFrame({"seed": 0, "batch": [1, 2, 4], "half_rate": [1.0, 2.0, 3.0]})
    >>> first_slope(rates, "half_rate").tolist()
    [1.0]
    """
    small, larger = groups(rates, "batch")[:2]
    change = np.log(by_seed(larger[1], column) / by_seed(small[1], column))
    return change / np.log(larger[0] / small[0])


def saturation(rates: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return for each seed the measured rate of the smallest B at or above its critical one, and of the full batch."""
    pairs = []
    for _, own in groups(rates, "seed"):
        ordered = own.sort_values("batch")
        enough = rows_if(ordered, floats(ordered, "batch") >= floats(ordered, "critical_batch"))
        half = floats(ordered, "half_rate")
        pairs.append((floats(enough, "half_rate")[0] if len(enough) else np.nan, half[-1]))
    first, last = np.array(pairs, dtype=float).reshape(-1, 2).T
    return first, last

"""The effect of the rescalings of Dinh et al. (2017) on each measure, as pure functions of the rows measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, records, rows_where

MEASURES: Mapping[str, tuple[str, bool]] = {
    "top_eigenvalue": ("λ_max of the Hessian", True),
    "trace": ("trace of the Hessian", True),
    "fisher_trace": ("trace of the Fisher matrix", True),
    "keskar_box": ("worst case, Keskar's box", True),
    "l2_ball": ("worst case, l2 ball", True),
    "noise": ("mean rise, noise", True),
    "weight_norm": ("norm of the weights", True),
    "adaptive_box": ("worst case, adaptive box", False),
    "adaptive_ball": ("worst case, adaptive l2 ball", False),
    "adaptive_noise": ("mean rise, adaptive noise", False),
    "relative_flatness": ("relative flatness", False),
    "fisher_rao_norm": ("Fisher-Rao norm", False),
}
"""The measures in the order of tables and figures: what they are called, and whether theory says that they move.

Keskar's box is ``epsilon (|x_i| + 1)`` wide on each side, the adaptive one ``epsilon |x_i|``.
"""
RUN = ["network", "role", "seed"]
COLUMNS = {
    "measures": (*RUN, "measure", "alpha", "value", "moved", "reason"),
    "blocks": (*RUN, "power", "top_eigenvalue", "trace"),
    "constant_network": (*RUN, "epsilon", "loss", "found_rise", "constant_loss", "distance"),
    "two_weights": (*RUN, "radius", "area", "hits", "rise"),
}
"""The columns of the study's own tables that are read."""
PREDICTED = [*RUN, "alpha", "bound", "sum", "near_slope", "far_slope"]


def with_ratios(measures: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements with ``ratio``, each value over that at alpha = 1, NaN if one is missing or not > 0."""
    table = measures.astype({"value": float}).reset_index(drop=True)
    first = {key_of(row): row["value"] for row in records(rows_where(table, alpha=1.0))}
    base = np.array([first.get(key_of(row)) for row in records(table)], dtype=float)
    value = floats(table, "value")
    table["ratio"] = np.divide(value, base, out=np.full(len(value), np.nan), where=(value > 0) & (base > 0))
    return table


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells one measure of one run from all others."""
    return tuple(row[name] for name in (*RUN, "measure"))


def predictions(blocks: pd.DataFrame, measures: pd.DataFrame) -> pd.DataFrame:
    """Return for every run and alpha what the blocks at alpha = 1 say of the rescaled Hessian D H D.

    ``bound``: ``max_k alpha^(-2 p_k) lambda_max(H_kk)``, which ``lambda_max(D H D)`` is not below because a block's
    eigenvalue is a Rayleigh quotient of the whole (as in Dinh et al. 2017, Theorem 4); ``sum``: ``sum_k alpha^(-2 p_k)
    tr H_kk``, its trace. p_k is the power of alpha that multiplies the weights of block k: 1, 0 or -1. ``near_slope``
    and ``far_slope`` are those of the bound in log-log for alpha towards 0 and infinity.

    >>> one = {"network": "a", "role": "SB", "seed": 0}
    >>> block = pd.DataFrame([{**one, "power": p, "top_eigenvalue": 3.0, "trace": 5.0} for p in (1, -1)])
    >>> predictions(block, pd.DataFrame([{**one, "alpha": 2.0}])).iloc[0, 3:].tolist()
    [2.0, 12.0, 21.25, -2.0, 2.0]
    """
    rows = []
    for keys, own in runs_of(blocks):
        power, top, trace = (floats(own, name) for name in ("power", "top_eigenvalue", "trace"))
        slopes = {"near_slope": -2 * float(power.max()), "far_slope": -2 * float(power.min())}
        for alpha in sorted(set(floats(rows_where(measures, **keys), "alpha"))):
            factors = alpha ** (-2 * power)
            bound, total = float(np.max(factors * top)), float(np.sum(factors * trace))
            rows.append(keys | {"alpha": alpha, "bound": bound, "sum": total} | slopes)
    return pd.DataFrame(rows, columns=pd.Index(PREDICTED))


def runs_of(table: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return the labels of each run in a table with its rows."""
    return [(keys, rows_where(table, **keys)) for keys in records(table.filter(RUN).drop_duplicates())]


def against(table: pd.DataFrame, expected: pd.DataFrame, measure: str, column: str) -> list[float]:
    """Return a measure over what is predicted of it, for every run and alpha."""
    merged = rows_where(table, measure=measure).merge(expected, on=[*RUN, "alpha"])
    return (floats(merged, "value") / floats(merged, column)).tolist()


def flags_of(rows: pd.DataFrame) -> list[bool]:
    """Return whether a measure moved, for every rescaling where that could be told.

    >>> flags_of(pd.DataFrame({"moved": [None, True, float("nan"), False]}))
    [True, False]
    """
    return [bool(flag) for flag in rows["moved"] if not pd.isna(flag)]


def spread(values: ArrayLike, of: str = "run") -> Interval:
    """Return median and range of the finite values as an interval, n their number.

    For an identity that holds for every network this is all that was seen; as an interval for the median of such
    networks it holds with probability ``1 - 2^(1 - n)``, 95 % from n = 6.

    >>> spread([3.0, 1.0, 2.0])
    Interval(value=2.0, lower=1.0, upper=3.0, n=3, reason=None)
    """
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if not len(x):
        return Interval(None, None, None, 0, f"no {of} has the number")
    return Interval(float(np.median(x)), float(x.min()), float(x.max()), len(x))


def low_area(radius: ArrayLike, rise: float) -> NDArray[np.float64]:
    """Return the area within a radius where ``y = w2 relu(w1 x)`` has a loss that is low, radii above sqrt(1 + delta).

    With the minima on ``w1 w2 = 1`` the loss rises by less than ``rise`` of the way to that of the constant network
    where ``|w1 w2 - 1| < delta = sqrt(rise)`` and ``w1 > 0``, if all x > 0. Between the hyperbola ``w1 w2 = c`` and the
    circle lie ``G(c) = R^2 (pi / 4 - t) + c log tan t``, ``t = asin(2 c / R^2) / 2``, and the area is
    ``G(1 - delta) - G(1 + delta)``, which goes as ``4 delta log R``: the rescaling moves along it for ever, and the
    area is infinite (Dinh et al. 2017, Theorem 2, for the smallest of its networks).

    >>> far = low_area([1e3, 1e4], 0.05)
    >>> round(float((far[1] - far[0]) / (4 * 0.05**0.5 * np.log(10))), 4)
    1.0
    """
    square, delta = np.asarray(radius, dtype=float) ** 2, np.sqrt(rise)

    def beyond(c: float) -> NDArray[np.float64]:
        t = np.arcsin(2 * c / square) / 2
        return square * (np.pi / 4 - t) + c * np.log(np.tan(t))

    return beyond(1 - delta) - beyond(1 + delta)


def area_growth(areas: pd.DataFrame) -> list[float]:
    """Return for every run the slope of the area on log radius, over the outer half of them, over ``4 delta``.

    >>> run = {"network": "a", "role": "SB", "seed": 0, "rise": 0.25}
    >>> rows = [run | {"radius": np.exp(k), "area": 2.0 * k} for k in range(6)]
    >>> [round(slope, 9) for slope in area_growth(pd.DataFrame(rows))]
    [1.0]
    """
    slopes = []
    for _, run in runs_of(areas):
        outer = run.sort_values("radius").tail(-(-len(run) // 2))
        slope = np.polyfit(np.log(floats(outer, "radius")), floats(outer, "area"), 1)[0]
        slopes.append(float(slope / (4 * np.sqrt(floats(outer, "rise")[0]))))
    return slopes


def end_slopes(table: pd.DataFrame, measure: str, side: int) -> list[float]:
    """Return for every run the slope of log value on log alpha between the two outermost alphas of a side, -1 or 1."""
    slopes = []
    for _, run in runs_of(rows_where(table, measure=measure)):
        ordered = run.sort_values("alpha")
        outer = ordered.head(2) if side < 0 else ordered.tail(2)
        value, alpha = floats(outer, "value"), floats(outer, "alpha")
        if len(outer) == 2 and np.all(value > 0) and np.all(side * np.log(alpha) > 0):
            slopes.append(float(np.diff(np.log(value))[0] / np.diff(np.log(alpha))[0]))
    return slopes


def farthest(table: pd.DataFrame, measure: str) -> list[float]:
    """Return for every run the largest factor by which a measure grows or shrinks over its alphas; without one none."""
    result = []
    for _, run in runs_of(rows_where(table, measure=measure)):
        ratio = floats(run, "ratio")[floats(run, "alpha") != 1]
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio):
            result.append(float(np.exp(np.max(np.abs(np.log(ratio))))))
    return result


def reversals(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return for every pair of one seed how far the flatter network can be made the sharper one by its own alpha.

    ``order`` is LB / SB at alpha = 1, and ``factor`` the largest value of the flatter network over its alphas over that
    of the sharper one at alpha = 1: above 1 their order is turned round.
    """
    rows = []
    own = rows_where(table, measure=measure)
    for pair in records(own.filter(["network", "seed"]).drop_duplicates()):
        both = rows_where(own, **pair)
        plain = {row["role"]: row["value"] for row in records(rows_where(both, alpha=1.0))}
        small, large = plain.get("SB") or 0.0, plain.get("LB") or 0.0
        if min(small, large) > 0:
            flatter = rows_where(both, role="SB" if small < large else "LB")
            most = float(np.nanmax(floats(flatter, "value")))
            rows.append({**pair, "order": large / small, "factor": most / max(small, large)})
    return pd.DataFrame(rows, columns=pd.Index(["network", "seed", "order", "factor"]))

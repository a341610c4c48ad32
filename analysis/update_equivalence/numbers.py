"""The numbers behind update equivalence: slopes, thresholds, shares of falling steps and growths, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.fits import power_law_by
from analysis.statistics.intervals import Interval, paired_difference, paired_ratio
from analysis.statistics.resampling import Floats
from sharpness.plots.frames import floats, groups, rows_where

COLUMNS = {
    "curvatures": ("loss", "gradient_square", "top_eigenvalue", "converged", "along_gradient"),
    "distances": ("draw", "rate", "large_batch", "distance", "large_step"),
    "variances": ("large_batch", "variance", "gradient_square"),
    "falls": ("loss", "share", "updates", "norm"),
}
"""The columns of each of the study's own tables, after those that all of them have."""
SHARED = ("arm", "seed", "checkpoint")
NONE = Interval(None, None, None, 0, "nothing was measured")


def split_by(table: pd.DataFrame, *names: str) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Return each combination of the columns' values, sorted, with its rows.

    >>> [key for key, _ in split_by(pd.DataFrame({"a": [1, 0, 1], "b": [2, 2, 2]}), "a", "b")]
    [(0, 2), (1, 2)]
    """
    if not names:
        return [((), table)]
    parts = groups(table, names[0])
    return [((value, *rest), rows) for value, part in parts for rest, rows in split_by(part, *names[1:])]


def with_stages(table: pd.DataFrame, stages: Sequence[int]) -> pd.DataFrame:
    """Return rows measured at checkpoints with their ``stage`` in epochs: each arm's n-th checkpoint is the n-th stage.

    >>> list(with_stages(pd.DataFrame({"arm": ["LB", "SB", "SB"], "checkpoint": [0, 64, 0]}), [0, 2])["stage"])
    [0, 2, 0]
    """
    steps: dict[Any, list[int]] = {arm: sorted(set(rows["checkpoint"])) for arm, rows in groups(table, "arm")}
    places = zip(table["arm"], table["checkpoint"], strict=True)
    return table.assign(stage=[stages[steps[arm].index(step)] for arm, step in places])


def with_curvature(apart: pd.DataFrame, curvatures: pd.DataFrame, small: int) -> pd.DataFrame:
    """Return distances with ``large_rate``, the large step's rate (B / b) eta, and its ``product`` with lambda_max.

    ``bound`` is what the first order gives at most for one gradient and one Hessian, ``(1 - b / B) product / 2``.
    """
    keys = ["seed", "checkpoint"]
    table = apart.merge(curvatures[[*keys, "top_eigenvalue"]], on=keys)
    rate = floats(table, "rate") * floats(table, "large_batch") / small
    product = rate * floats(table, "top_eigenvalue")
    bound = (1 - small / floats(table, "large_batch")) * product / 2
    return table.assign(distance=floats(table, "distance"), large_rate=rate, product=product, bound=bound)


def slope_within(table: pd.DataFrame, x: str, y: str, fixed: Iterable[str]) -> Interval:
    """Return the slope of log y on log x inside the groups that share ``fixed``, with its bootstrap over the seeds.

    Logarithms are centred in each group, so that only what varies inside the groups decides. Numbers that are not
    positive and finite are left out.
    """
    kept = table.loc[(floats(table, x) > 0) & (floats(table, y) > 0)]
    if kept.empty:
        return NONE
    parts = [(part, np.log(floats(part, x)), np.log(floats(part, y))) for _, part in split_by(kept, *fixed)]
    u, v = (np.concatenate([logs[i] - logs[i].mean() for logs in parts]) for i in (1, 2))
    return power_law_by(np.exp(u), np.exp(v), np.concatenate([floats(part, "seed") for part, _, _ in parts]))


def crossing(x: Floats, y: Floats, level: float) -> float:
    """Return the x at which a rising y first passes a level, linear between points in logarithms; NaN if nowhere.

    >>> round(crossing(np.array([1.0, 100.0]), np.array([0.01, 1.0]), 0.1), 6)
    10.0
    >>> crossing(np.array([1.0, 2.0]), np.array([0.01, 0.02]), 0.1)
    nan
    """
    order = np.argsort(x)
    u, v = np.log(x[order]), np.log(y[order]) - np.log(level)
    above = np.flatnonzero(v > 0)
    if len(above) == 0 or above[0] == 0:
        return float("nan")
    i = above[0]
    return float(np.exp(u[i - 1] - v[i - 1] * (u[i] - u[i - 1]) / (v[i] - v[i - 1])))


def crossings(apart: pd.DataFrame, level: float) -> pd.DataFrame:
    """Return for each seed, stage and B the product at which the geometric mean over the draws passes a level."""
    names, rows = ("seed", "stage", "large_batch"), []
    kept = apart.loc[floats(apart, "distance") > 0]
    for key, part in split_by(kept, *names):
        curve = [(product, np.log(floats(at, "distance")).mean()) for product, at in groups(part, "product")]
        x, y = np.array(curve, dtype=float).T
        rows.append({**dict(zip(names, key, strict=True)), "product": crossing(x, np.exp(y), level)})
    return pd.DataFrame(rows, columns=pd.Index([*names, "product"]))


def geometric(values: Floats) -> Interval:
    """Return the geometric mean over seeds with its Student t interval; none where a seed has no number.

    >>> geometric(np.array([0.1, float("nan")])).reason
    '1 of 2 seeds have no number'
    """
    if len(values) == 0:
        return NONE
    gone = int(np.isnan(values).sum())
    if gone:
        return Interval(None, None, None, len(values) - gone, f"{gone} of {len(values)} seeds have no number")
    return paired_ratio(np.ones(len(values)), values)


def at_training(apart: pd.DataFrame, rate: float, large: int, stage: int | None = None) -> Interval:
    """Return the relative distance at the training's own rate and its large batch, over the seeds.

    Over draws and, without a ``stage``, over the stages it is a geometric mean.
    """
    own = apart.loc[np.isclose(floats(apart, "rate"), rate)]
    table = rows_where(own, large_batch=large) if stage is None else rows_where(own, large_batch=large, stage=stage)
    return geometric(np.array([np.exp(np.log(floats(rows, "distance")).mean()) for _, rows in groups(table, "seed")]))


def shares(fell: pd.DataFrame, arm: str) -> pd.Series:
    """Return for each seed the share of steps in which the loss fell, the mean over the stages."""
    rows = groups(rows_where(fell, arm=arm), "seed")
    return pd.Series({seed: floats(run, "share").mean() for seed, run in rows}, dtype=float)


def growth(fell: pd.DataFrame, arm: str) -> pd.Series:
    """Return for each seed the length of the weights at the last stage over that at the first."""
    rows = groups(rows_where(fell, arm=arm), "seed")
    lengths = {seed: floats(run.sort_values("stage"), "norm") for seed, run in rows}
    return pd.Series({seed: norms[-1] / norms[0] for seed, norms in lengths.items()}, dtype=float)


def change(first: pd.Series, second: pd.Series) -> Interval:
    """Return second - first over the seeds that have both."""
    return paired_difference(*_both(first, second))


def relative_change(first: pd.Series, second: pd.Series) -> Interval:
    """Return second / first over the seeds that have both."""
    return paired_ratio(*_both(first, second))


def _both(first: pd.Series, second: pd.Series) -> tuple[Floats, Floats]:
    table = pd.concat([first, second], axis=1, keys=["first", "second"])
    return floats(table, "first"), floats(table, "second")


def noise_scale(noise: pd.DataFrame, stage: int) -> Floats:
    """Return ``B_simple = tr Sigma / |G|^2`` of the training set at a stage, by seed."""
    quiet: Mapping[str, Any] = {"stage": stage, "large_batch": 1}
    rows = rows_where(noise, **quiet)
    return floats(rows, "variance") / floats(rows, "gradient_square")

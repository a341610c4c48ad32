"""Numbers of curves: how the loss rises beside a solution, and how sharpness goes with the loss along training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.keskar2017.numbers import ratio
from analysis.statistics import Interval
from analysis.tidy import Tables
from sharpness.plots.frames import floats, groups, records, rows_where

CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
COLUMNS = ("network", "seed", "alpha", *CURVES)
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
"""One number of SB and one of LB for each seed that has both."""


def curves(tables: Tables, path: str, network: str) -> pd.DataFrame:
    """Return loss (nats) and accuracy (per cent) along the line or the arc from SB to LB, by seed."""
    rows = []
    for row in records(rows_where(tables.probes, quantity="loss_barrier", network=network)):
        details = row["details"]
        if details.get("path", "line") != path:
            continue
        for number, alpha in enumerate(details["alphas"]):
            values = {name: None if details.get(name) is None else details[name][number] for name in CURVES}
            rows.append({"network": row["network"], "seed": row["seed"], "alpha": alpha, **values})
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS)).astype(dict.fromkeys(CURVES, float))
    return table.assign(**{name: 100 * floats(table, name) for name in CURVES if name.endswith("accuracy")})


def rises(table: pd.DataFrame) -> Pair:
    """Return by how much the training loss rises one grid step beside SB and beside LB, mean of both sides, per seed.

    Of :func:`curves`; seeds with a hole there are left out.
    """
    found = []
    for _, rows in groups(table, "seed"):
        loss = {round(a, 9): v for a, v in zip(floats(rows, "alpha"), floats(rows, "train_loss"), strict=True)}
        step = min((a for a in loss if a > 0), default=0.0)
        found.append([_rise(loss, end, step) for end in (0, 1)])
    return _sides(found)


def _rise(loss: Mapping[float, float], end: int, step: float) -> float:
    # Rounded, because the sum of an end point and a step meets the grid only up to rounding.
    beside = [loss.get(round(end + shift, 9), np.nan) for shift in (-step, step)]
    return float(np.mean(beside) - loss.get(float(end), np.nan))


def at_equal_loss(table: pd.DataFrame) -> Pair:
    """Return phi of SB and of LB along training at the lowest training loss that both reached, per seed.

    ``table`` has ``role``, ``seed``, ``loss`` and ``phi``; between checkpoints log phi is linear in log loss.
    """
    found = []
    for _, rows in groups(table, "seed"):
        sides = [_by_loss(rows_where(rows, role=role)) for role in ("SB", "LB")]
        if all(len(loss) > 1 for loss, _ in sides):
            lowest = max(loss[0] for loss, _ in sides)
            found.append([float(np.exp(np.interp(lowest, loss, phi))) for loss, phi in sides])
    return _sides(found)


def _by_loss(rows: pd.DataFrame) -> Pair:
    """Return log loss, ascending, and log phi."""
    positive = (floats(rows, "loss") > 0) & (floats(rows, "phi") > 0)
    loss, phi = (np.log(floats(rows, name)[positive]) for name in ("loss", "phi"))
    order = np.argsort(loss, kind="stable")
    return loss[order], phi[order]


def _sides(found: list[list[float]]) -> Pair:
    values = np.array(found, dtype=float).reshape(-1, 2)
    values = values[np.isfinite(values).all(axis=1)]
    return values[:, 0], values[:, 1]


def over_training(table: pd.DataFrame, role: str) -> Interval:
    """Return phi at the last checkpoint over phi at the first, paired by seed."""
    rows = rows_where(table, role=role)
    if rows.empty:
        return Interval(None, None, None, 0, "nothing was measured")
    first, last = (rows_where(rows, epoch=epoch) for epoch in (rows["epoch"].min(), rows["epoch"].max()))
    return ratio(first, last, "phi")


def slope_changes(rows: pd.DataFrame, at: float) -> list[float]:
    """Return for each seed the slope of log phi on log B beyond a batch size minus the one up to it.

    NaN for a seed with fewer than 2 sizes on a side, that size included in both.
    """
    return [_change(run, at) for _, run in groups(rows, "seed")]


def _change(run: pd.DataFrame, at: float) -> float:
    positive = rows_where(run.assign(positive=floats(run, "phi") > 0), positive=True)
    size, phi = np.log(floats(positive, "batch_size")), np.log(floats(positive, "phi"))
    sides = [size <= np.log(at), size >= np.log(at)]
    if min(side.sum() for side in sides) < 2:
        return float("nan")
    before, after = (np.polyfit(size[side], phi[side], 1)[0] for side in sides)
    return float(after - before)


def from_minimum(rows: pd.DataFrame) -> pd.DataFrame:
    """Return slices with the distance from the lowest training loss of each as ``from_minimum``."""
    parts = []
    for _, curve in rows.groupby(["network", "seed", "role"], sort=False):
        lowest = floats(curve, "distance")[np.nanargmin(floats(curve, "train_loss"))]
        parts.append(curve.assign(from_minimum=floats(curve, "distance") - lowest))
    return pd.concat(parts, ignore_index=True)

"""Numbers of curves: training, the paths from SB to LB, slices, and how sharpness goes with the loss and the batch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.keskar2017.numbers import ROLES, Results, ratio
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where
from sharpness.plots.line import SPLITS

LOSSES = ("train_loss", "test_loss")
ACCURACIES = ("train_accuracy", "test_accuracy")
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
BESIDE = 0.125
"""How far from a solution its neighbourhood is looked at, as a share of the way: a step of the paper's Figure 3, and of
our coarse grid, whatever finer points there are."""
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
"""One number of SB and one of LB for each seed that has both."""


def in_per_cent(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the accuracies of both splits in per cent."""
    return table.assign(**{name: 100 * floats(table, name) for name in ACCURACIES})


def training_table(results: Results) -> pd.DataFrame:
    """Return loss (nats) and accuracy (%) of the first network's pairs by epoch: each run, and the mean of a role.

    The mean (line ``mean``) is over the finished runs of a role at the epochs that all of them have; of a loss it is
    the geometric mean, because the loss is drawn on a logarithmic axis.
    """
    epochs = in_per_cent(rows_where(results.tables.epochs, network=results.first, arm="base"))
    rows = [{"line": "run"} | row for role in ROLES for row in records(rows_where(epochs, role=role))]
    for role in ROLES:
        finished = len(results.runs(role, "base", results.first))
        for epoch, each in groups(rows_where(epochs, role=role, status="finished"), "epoch"):
            if len(each) == finished:
                means = {name: _mean(floats(each, name), geometric=name in LOSSES) for name in CURVES}
                rows.append({"line": "mean", "role": role, "epoch": epoch} | means)
    columns = ("line", "role", "seed", "status", "epoch", *LOSSES, *ACCURACIES)
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    return table.astype({"seed": "Int64", "epoch": int} | dict.fromkeys(CURVES, float))


def splits_along(table: pd.DataFrame) -> list[str]:
    """Return of which splits there is a curve along training: an accuracy or a loss after epoch 0.

    >>> epochs = {"epoch": [0, 1], "test_accuracy": [10.0, None], "test_loss": [2.3, None]}
    >>> splits_along(pd.DataFrame(epochs | {"train_accuracy": [10.0, 60.0], "train_loss": [2.3, 1.0]}))
    ['train']
    """
    later = rows_if(table, floats(table, "epoch") > 0)
    measured = {name.partition("_")[0] for name in CURVES if name in later and np.isfinite(floats(later, name)).any()}
    return [split for split in SPLITS if split in measured]


def _mean(x: NDArray[np.float64], geometric: bool) -> float:
    if not geometric:
        return float(np.mean(x))
    return float(np.exp(np.mean(np.log(x)))) if np.all(x > 0) else float("nan")


def curves(results: Results, path: str, network: str) -> pd.DataFrame:
    """Return loss (nats) and accuracy (%) along the line or the arc from SB to LB, for the seeds that have any."""
    rows = []
    for row in records(rows_where(results.probes, quantity="loss_barrier", network=network)):
        details = row["details"]
        values = {name: np.array(details.get(name) or [], dtype=float) for name in CURVES}
        if details.get("path", "line") == path and any(np.isfinite(curve).any() for curve in values.values()):
            for number, alpha in enumerate(details["alphas"]):
                point = {name: curve[number] if len(curve) else np.nan for name, curve in values.items()}
                rows.append({"network": network, "seed": row["seed"], "alpha": alpha} | point)
    return in_per_cent(pd.DataFrame(rows, columns=pd.Index(("network", "seed", "alpha", *CURVES))))


def beside(table: pd.DataFrame) -> Pair:
    """Return the training loss :data:`BESIDE` SB and LB, mean of both sides, per seed of :func:`curves`.

    Seeds with a hole there are left out.
    """
    return _sides([near for near, _ in _near(table)])


def rises(table: pd.DataFrame) -> Pair:
    """Return by how much the training loss :data:`BESIDE` SB, and beside LB, lies above that of the end, per seed.

    The mean of both sides is taken; seeds with a hole there or at an end are left out.
    """
    return _sides([[x - end for x, end in zip(near, ends, strict=True)] for near, ends in _near(table)])


def distance_beside(rows: pd.DataFrame) -> float:
    """Return the first distance on the grid of a path that is :data:`BESIDE` or more."""
    return min((alpha for alpha in floats(rows, "alpha") if alpha > BESIDE - 1e-9), default=0.0)


def _near(table: pd.DataFrame) -> list[tuple[list[float], list[float]]]:
    """Return for each seed the training loss beside SB and LB, and at SB and LB; NaN for a hole."""
    found = []
    for _, rows in groups(table, "seed"):
        # Rounded, because the sum of an end point and a step meets the grid only up to rounding.
        loss = {round(a, 9): v for a, v in zip(floats(rows, "alpha"), floats(rows, "train_loss"), strict=True)}
        step = distance_beside(rows)
        sides = [[loss.get(round(end + shift, 9), np.nan) for shift in (-step, step)] for end in (0, 1)]
        found.append(([float(np.mean(each)) for each in sides], [loss.get(float(end), np.nan) for end in (0, 1)]))
    return found


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
    positive = rows_if(run, floats(run, "phi") > 0)
    size, phi = np.log(floats(positive, "batch_size")), np.log(floats(positive, "phi"))
    sides = [size <= np.log(at), size >= np.log(at)]
    if min(side.sum() for side in sides) < 2:
        return float("nan")
    before, after = (np.polyfit(size[side], phi[side], 1)[0] for side in sides)
    return float(after - before)


def from_solution(rows: pd.DataFrame) -> pd.DataFrame:
    """Return slices with how far each point lies from its solution and how much more training loss it has.

    ``share`` is the distance as a share of that between SB and LB, ``rise`` the training loss (nats) above that of the
    solution itself, which is a point of its slice.
    """
    parts = []
    for _, curve in rows.groupby(["network", "seed", "role"], sort=False):
        loss, share = floats(curve, "train_loss"), floats(curve, "distance") / floats(curve, "length")
        parts.append(curve.assign(share=np.round(share, 6), rise=loss - loss[np.argmin(np.abs(share))]))
    return pd.concat(parts, ignore_index=True)

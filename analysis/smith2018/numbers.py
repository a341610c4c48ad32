"""The numbers of Smith et al. 2018: updates as planned and counted, and how far schedules lie apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs import Tables
from analysis.statistics.intervals import Interval, paired_difference, summarise
from sharpness.plots.frames import floats, groups, rows_where

ORIGINAL = "decaying"
EQUAL_NOISE = ("hybrid", "increasing")
"""The schedules whose curves are to coincide with the original's."""
CONTROL = "constant"
MISMATCHED = ("batch x2", "batch x25")
"""Schedules whose noise falls too slowly and too fast."""
FINAL = ("train_loss", "test_accuracy")
PHASES = ("optimizer", "arm", "after", "until", "fall", "difference", "lower", "upper", "n", "reason")


def planned_updates(arm: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """Return the updates of a schedule: ``sum over epochs of ceil(N / B)``, the batch growing at its milestones.

    For milestones at ends of epochs, as all presets have.

    >>> base = {"data": {"num_train": 50000}, "training": {"batch_size": 128, "epochs": 200}}
    >>> settings = {"base": base, "milestones": [60, 120, 160], "factor": 5, "largest": 5120}
    >>> [planned_updates({"grow_at": grow, "batch_times": 1}, settings) for grow in ([], [0, 1, 2])]
    [78200, 29240]
    """
    base = settings["base"]
    first = base["training"]["batch_size"] * arm["batch_times"]
    milestones = [settings["milestones"][at] for at in arm["grow_at"]]
    factor = arm.get("factor") or settings["factor"]
    total = 0
    for epoch in range(base["training"]["epochs"]):
        asked = round(first * factor ** sum(epoch >= milestone for milestone in milestones))
        size = min(asked, max(first, settings["largest"])) if milestones else first
        total += math.ceil(base["data"]["num_train"] / size)
    return total


def final_table(tables: Tables, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return where each schedule ended: updates, loss (nats), test accuracy (%) and its change to the original (pp).

    ``updates`` is that of all its finished runs, NaN where they differ.
    """
    rows = []
    for optimizer in settings["rates"]:
        for name, arm in settings["arms"].items():
            runs = rows_where(tables.runs, optimizer=optimizer, arm=name)
            if runs.empty:
                continue
            done, original = rows_where(runs, status="finished"), final_by_seed(tables, optimizer, ORIGINAL)
            loss, accuracy = (summarise(final_by_seed(tables, optimizer, name, key)) for key in FINAL)
            change = difference_by_seed(original, final_by_seed(tables, optimizer, name))
            counted = set(done["step"])
            training, momentum = settings["base"]["training"], arm["momentum"]
            rows.append(
                {"optimizer": optimizer, "arm": name, "rate": settings["rates"][optimizer] * arm["rate_times"]}
                | {"batch": training["batch_size"] * arm["batch_times"]}
                | {"momentum": (training["momentum"] if momentum is None else momentum) if _has(optimizer) else 0.0}
                | {"planned": planned_updates(arm, settings), "updates": counted.pop() if len(counted) == 1 else None}
                | {"train_loss": loss.mean, "train_loss_std": loss.std}
                | {"test_accuracy": accuracy.mean, "test_accuracy_std": accuracy.std, "n": len(done), "runs": len(runs)}
                | {"difference": change.value, "lower": change.lower, "upper": change.upper, "reason": change.reason}
            )
    return pd.DataFrame(rows)


def _has(optimizer: str) -> bool:
    """Say whether an optimiser has a momentum of ours; Adam's is its own."""
    return optimizer in ("momentum", "nesterov")


def final_by_seed(tables: Tables, optimizer: str, arm: str, name: str = "test_accuracy") -> pd.Series:
    """Return a final number of the finished runs of a schedule by seed, accuracies in %."""
    done = rows_where(tables.finished, optimizer=optimizer, arm=arm)
    values = floats(done, name) * (100 if name.endswith("accuracy") else 1)
    return pd.Series(values, index=pd.Index(done["seed"].astype(int)), dtype=float)


def difference_by_seed(first: pd.Series, second: pd.Series) -> Interval:
    """Return the mean of second - first over the seeds that both have, with its Student t interval."""
    both = first.index.intersection(second.index)
    return paired_difference(first.loc[both].to_numpy(), second.loc[both].to_numpy())


def fall_of(tables: Tables, optimizer: str, settings: Mapping[str, Any]) -> float:
    """Return the fall in training loss (nats) that decaying brings after the first milestone.

    From the last epoch before it to the last of all, mean over the finished runs of the original; NaN without any.
    """
    rows = rows_where(_logged(tables, optimizer, ORIGINAL), status="finished")
    start, end = (floats(rows_where(rows, epoch=at), "train_loss") for at in _ends(settings))
    return float(np.mean(start) - np.mean(end)) if len(start) and len(end) else float("nan")


def _ends(settings: Mapping[str, Any]) -> tuple[float, float]:
    return settings["milestones"][0], settings["base"]["training"]["epochs"]


def _logged(tables: Tables, optimizer: str, arm: str) -> pd.DataFrame:
    return rows_where(tables.epochs, optimizer=optimizer, arm=arm)


LOGGED = ("epoch", "status", "seed", "train_loss")
"""What a phase reads of the epochs, a wide table that takes long to split."""


def phase_table(tables: Tables, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return how far the training losses (nats) of schedules lie from the original's, for each phase after a milestone.

    A phase is the epochs from one milestone to the next, and last that of all after the first one; its loss is the mean
    of theirs. The difference is paired by seed, with its Student t interval. ``fall`` is that of :func:`fall_of`.
    """
    bounds = [*settings["milestones"], settings["base"]["training"]["epochs"]]
    phases = dict.fromkeys([*itertools.pairwise(bounds), (bounds[0], bounds[-1])])
    rows = []
    for optimizer in settings["rates"]:
        fall = fall_of(tables, optimizer, settings)
        original = _logged(tables, optimizer, ORIGINAL).filter(LOGGED)
        for arm in (*EQUAL_NOISE, CONTROL, *MISMATCHED):
            if rows_where(tables.runs, optimizer=optimizer, arm=arm).empty:
                continue
            own = _logged(tables, optimizer, arm).filter(LOGGED)
            for first, last in phases:
                found = difference_by_seed(*(_phase(side, first, last) for side in (original, own)))
                rows.append(
                    {"optimizer": optimizer, "arm": arm, "after": first, "until": last, "fall": fall}
                    | {"difference": found.value, "lower": found.lower, "upper": found.upper, "n": found.n}
                    | {"reason": found.reason}
                )
    return pd.DataFrame(rows, columns=pd.Index(PHASES))


def chosen(table: pd.DataFrame, mask: NDArray[np.bool_]) -> pd.DataFrame:
    """Return the rows for which a mask holds."""
    return cast(pd.DataFrame, table.loc[mask])


def _phase(rows: pd.DataFrame, first: float, last: float) -> pd.Series:
    """Return by seed the mean training loss of the epochs after ``first`` up to ``last``, of the finished runs."""
    epochs: NDArray[np.float64] = floats(rows, "epoch")
    inside = (epochs > first) & (epochs <= last) & np.asarray(rows["status"] == "finished", dtype=bool)
    means = {int(seed): float(np.mean(floats(run, "train_loss"))) for seed, run in groups(chosen(rows, inside), "seed")}
    return pd.Series(means, dtype=float)

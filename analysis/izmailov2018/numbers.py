"""The accuracy and the width of the solutions of SGD and SWA, as pure functions of what was trained and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.statistics.intervals import Interval, paired_difference, paired_ratio
from analysis.statistics.resampling import Floats
from sharpness.plots.frames import floats, records, rows_where
from sharpness.records import ProbeRecord

SGD, SWA, CYCLICAL, AVERAGE = "SGD", "SWA", "cyclical SWA", "average"
COLUMNS = {
    "along": (
        *("seed", "count", "distance", "length", "train_loss", "test_loss", "test_accuracy"),
        *("average_train_loss", "average_test_loss", "average_test_accuracy"),
    ),
    "rays": ("seed", "net", "length", "record"),
    "line": ("seed", "t", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "distance"),
    "three_points": ("seed", "point", "test_accuracy"),
    "plane": ("seed", "record"),
    "basin": ("seed", "record"),
}
"""The columns of the study's own tables that are read."""
KINDS = {"error": "test error", "loss": "train loss"}


def swa_at(budget: float) -> str:
    """Return the name of SWA at a budget.

    >>> swa_at(1.0), swa_at(1.25)
    ('SWA', 'SWA 1.25')
    """
    return SWA if budget == 1 else f"{SWA} {budget:g}"


def averaged(settings: Mapping[str, Any], budget: float = 1.0) -> int:
    """Return how many weights SWA averages within a budget."""
    return round(budget * settings["budget"]) - settings["pretrained"]


def outcomes(runs: pd.DataFrame, along: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return losses (nats) and error by seed: of SGD's final weights, SWA at each budget and the cyclical average.

    ``last_error`` is the test error of the last weights themselves, without averaging.
    """
    rows = []
    for run in records(rows_where(runs, status="finished")):
        if run["arm"] in (SGD, CYCLICAL):
            rows.append(_outcome(run["arm"], run, "" if run["arm"] == SGD else "average_"))
        for budget in settings["budgets"] if run["arm"] == SWA and len(along) else ():
            at = records(rows_where(along, seed=run["seed"], count=averaged(settings, budget)))
            rows += [_outcome(swa_at(budget), row, "average_") for row in at]
    columns = pd.Index(["arm", "seed", "train_loss", "test_loss", "test_error", "last_error"])
    return pd.DataFrame([row for row in rows if row["test_error"] is not None], columns=columns)


def _outcome(arm: str, row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    accuracy, last = row[f"{prefix}test_accuracy"], row["test_accuracy"]
    result = {name: row[f"{prefix}{name}"] for name in ("train_loss", "test_loss")}
    errors = {
        "test_error": None if accuracy is None else 1 - accuracy,
        "last_error": None if last is None else 1 - last,
    }
    return {"arm": arm, "seed": row["seed"], **result, **errors}


def stationarity(along: pd.DataFrame) -> Interval:
    """Return the mean train loss of the weights in the second half of the averaging over that in the first, by seed."""
    halves = []
    for _, own in along.groupby("seed"):
        losses = floats(own.sort_values("count"), "train_loss")
        halves.append((losses[: len(losses) // 2].mean(), losses[len(losses) // 2 :].mean()))
    return paired_ratio(*np.array(halves).reshape(-1, 2).T)


def average_against_its_own(along: pd.DataFrame) -> Interval:
    """Return the test error of the whole average minus the mean one of the weights in it, by seed, in points."""
    pairs = []
    for _, own in along.groupby("seed"):
        own = own.sort_values("count")
        pairs.append((1 - floats(own, "test_accuracy").mean(), 1 - floats(own, "average_test_accuracy")[-1]))
    return in_points(*np.array(pairs).reshape(-1, 2).T)


def by_seed(table: pd.DataFrame, column: str, value: str, first: object, second: object) -> tuple[ArrayLike, ArrayLike]:
    """Return a value of two kinds of rows, told by a column, for the seeds that have both."""
    pairs = [rows_where(table, **{column: name}).set_index("seed")[value] for name in (first, second)]
    both = pairs[0].index.intersection(pairs[1].index)
    return tuple(pair.loc[both].to_numpy(dtype=float) for pair in pairs)  # pyright: ignore[reportReturnType]


def gain(table: pd.DataFrame, first: str, second: str) -> Interval:
    """Return the test error of the second arm minus that of the first, paired by seed, in percentage points."""
    one, two = by_seed(table, "arm", "test_error", first, second)
    return in_points(one, two)


def in_points(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return second - first of paired shares in percentage points; differences of rounding alone are none.

    >>> in_points([0.53, 0.54], [0.48, 0.49]).lower
    -5.0
    """
    return paired_difference(np.zeros(np.size(first)), np.round(100 * (np.asarray(second) - np.asarray(first)), 9))


def distance_at(distances: ArrayLike, values: ArrayLike, rise: float) -> float:
    """Return the smallest distance at which values have risen by so much from the first, linear between the points.

    NaN where they never do, or are not finite before.

    >>> distance_at([0.0, 1.0, 2.0], [0.5, 0.5, 1.5], 0.25)
    1.25
    """
    x, y = np.asarray(distances, dtype=float), np.asarray(values, dtype=float)
    level = y[0] + rise
    above = np.flatnonzero(~(y < level))
    if not len(above) or not np.isfinite(y[above[0]]) or above[0] == 0:
        return float("nan")
    i = int(above[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (level - y[i - 1]) / (y[i] - y[i - 1]))


def widths(rays: pd.DataFrame, error_rise: float, loss_rise: float) -> pd.DataFrame:
    """Return for every seed, ray and kind of rise the distance at which SGD and SWA reach it, NaN where they do not."""
    rows = []
    for row in records(rays):
        details = ProbeRecord.from_dict(row["record"]).details
        for ray in range(len(details["train_loss"])):
            error = 1 - np.array(details["test_accuracy"][ray], dtype=float)
            curves = {"error": (error, error_rise), "loss": (details["train_loss"][ray], loss_rise)}
            for kind, (curve, rise) in curves.items():
                width = distance_at(details["distances"], np.array(curve, dtype=float), rise)
                labels = {"seed": row["seed"], "ray": ray + 1, "kind": kind, "net": row["net"]}
                rows.append(labels | {"width": width, "farthest": details["distances"][-1]})
    table = pd.DataFrame(rows, columns=pd.Index(["seed", "ray", "kind", "net", "width", "farthest"]))
    wide = table.pivot(index=["seed", "ray", "kind", "farthest"], columns="net", values="width").reset_index()
    return wide.reindex(columns=["seed", "ray", "kind", "farthest", SGD, SWA])


def width_ratio(table: pd.DataFrame, kind: str) -> tuple[Interval, dict[str, int]]:
    """Return SWA / SGD of the widths, and how many rays of how many reach the rise.

    The ratio of a seed is the geometric mean over its rays, which begin at the same weights and are no independent
    samples; the interval is Student's t over the seeds. A ray that only SWA does not rise enough on counts with its
    whole length, which is less than SWA's width there; one that SGD does not rise enough on is left out.
    """
    own = rows_where(table, kind=kind)
    sgd, swa = floats(own, SGD), floats(own, SWA)
    known = np.isfinite(sgd)
    filled = np.where(np.isfinite(swa), swa, floats(own, "farthest"))
    ratios = np.exp(means_at(floats(own, "seed")[known], np.log(filled[known] / sgd[known]))[1])
    facts = {"rays": len(own), "sgd_reached": int(known.sum()), "swa_reached": int(np.isfinite(swa).sum())}
    return paired_ratio(np.ones(len(ratios)), ratios), facts


def means_at(places: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return the different places, sorted, and the mean of the finite values at each; NaN where there is none.

    >>> means_at(np.array([1.0, 0.0, 1.0]), np.array([2.0, 5.0, 4.0]))
    (array([0., 1.]), array([5., 3.]))
    """
    own = np.unique(places)
    finite = [values[(places == place) & np.isfinite(values)] for place in own]
    return own, np.array([np.mean(each) if len(each) else np.nan for each in finite])


def line_ends(line: pd.DataFrame) -> pd.DataFrame:
    """Return for every seed the train loss at SGD (t = 1) and SWA (t = 0), and how much higher it is beyond SGD.

    ``beyond_1`` is the train loss as far beyond SGD as the two are apart (t = 2) over that beyond SWA (t = -1), and
    ``beyond_2`` the same twice as far (t = 3 and -2).
    """
    rows = []
    for seed in sorted(set(line["seed"])):
        at = {row["t"]: row["train_loss"] for row in records(rows_where(line, seed=seed))}
        row: dict[str, object] = {"seed": seed, SGD: at[1.0], SWA: at[0.0]}
        for far in (1, 2):
            ends = at.get(1.0 + far), at.get(-1.0 * far)
            row[f"beyond_{far}"] = None if None in ends else ends[0] / ends[1]  # pyright: ignore[reportOptionalOperand]
        rows.append(row)
    names = [SGD, SWA, "beyond_1", "beyond_2"]
    return pd.DataFrame(rows, columns=pd.Index(["seed", *names])).astype(dict.fromkeys(names, float))


def rises(rays: pd.DataFrame) -> pd.DataFrame:
    """Return by seed and distance the mean rise over the rays of test error (points) and train loss of SGD and SWA.

    ``difference`` is that of SWA less that of SGD.
    """
    frames = []
    for row in records(rays):
        details = ProbeRecord.from_dict(row["record"]).details
        error = -100 * np.array(details["test_accuracy"], dtype=float)
        loss = np.array(details["train_loss"], dtype=float)
        for kind, curves in (("error", error), ("loss", loss)):
            rise = (curves - curves[:, :1]).mean(axis=0)
            labels = {"seed": row["seed"], "net": row["net"], "kind": kind}
            frames.append(pd.DataFrame(labels | {"distance": details["distances"], "rise": rise}))
    columns = ["seed", "net", "kind", "distance", "rise"]
    table = pd.concat(frames) if frames else pd.DataFrame(columns=pd.Index(columns))
    wide = table.pivot(index=["seed", "kind", "distance"], columns="net", values="rise").reset_index()
    wide = wide.reindex(columns=["seed", "kind", "distance", SGD, SWA])
    return wide.assign(difference=wide[SWA] - wide[SGD])


def average_against_best(points: pd.DataFrame) -> Interval:
    """Return the test error of the average minus that of the best of its three, paired by seed, percentage points."""
    best, average = [], []
    for seed in sorted(set(points["seed"])):
        own = rows_where(points, seed=seed)
        mean = np.asarray(own["point"] == AVERAGE, dtype=bool)
        errors = 1 - floats(own, "test_accuracy")
        best.append(float(np.min(errors[~mean])))
        average.append(float(errors[mean][0]))
    return in_points(best, average)


def arms_of(table: pd.DataFrame) -> Sequence[str]:
    """Return the arms in the order in which they were trained."""
    return list(dict.fromkeys(table["arm"]))

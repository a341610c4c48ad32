"""The accuracy and the width of the solutions of SGD and SWA, as pure functions of what was trained and measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.statistics.intervals import Interval, paired_difference, paired_ratio
from analysis.statistics.resampling import Floats
from sharpness.plots.frames import floats, records, rows_where
from sharpness.records import ProbeRecord

SGD, SWA, AVERAGE = "SGD", "SWA", "average"
COLUMNS = {
    "rays": ("seed", "net", "length", "record"),
    "line": ("seed", "t", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "distance"),
    "three_points": ("seed", "point", "test_accuracy"),
    "plane": ("seed", "record"),
}
"""The columns of the study's own tables that are read."""
KINDS = {"error": "test error", "loss": "train loss"}


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return loss (nats) and error of every finished run: of SGD its final weights, of the others their average.

    ``last_error`` is the test error of the final weights themselves.
    """
    rows = []
    for run in records(rows_where(runs, status="finished")):
        prefix = "" if run["arm"] == SGD else "average_"
        accuracy, last = run[f"{prefix}test_accuracy"], run["test_accuracy"]
        if accuracy is not None:
            row = {"arm": run["arm"], "seed": run["seed"], "train_loss": run[f"{prefix}train_loss"]}
            rows.append(row | {"test_error": 1 - accuracy, "last_error": 1 - last})
    return pd.DataFrame(rows, columns=pd.Index(["arm", "seed", "train_loss", "test_error", "last_error"]))


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
    """Return for every seed train loss and test error at SGD (t = 1) and SWA (t = 0), and as far beyond either.

    ``beyond_ratio`` is the train loss at t = 2, beyond SGD, over that at t = -1, as far beyond SWA.
    """
    rows = []
    for seed in sorted(set(line["seed"])):
        at = {row["t"]: row for row in records(rows_where(line, seed=seed))}
        row: dict[str, object] = {"seed": seed}
        for name, t in ((SGD, 1.0), (SWA, 0.0)):
            row |= {f"{name}_loss": at[t]["train_loss"], f"{name}_error": 1 - at[t]["test_accuracy"]}
        ends = [at[t]["train_loss"] for t in (2.0, -1.0)]
        row["beyond_ratio"] = ends[0] / ends[1] if None not in ends else None
        rows.append(row)
    names = [f"{name}_{what}" for name in (SGD, SWA) for what in ("loss", "error")]
    return pd.DataFrame(rows, columns=pd.Index(["seed", *names, "beyond_ratio"])).astype(
        dict.fromkeys([*names, "beyond_ratio"], float)
    )


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

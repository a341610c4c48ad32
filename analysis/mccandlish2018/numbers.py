"""The statistics of the study of McCandlish et al. 2018: pure functions of data frames and arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.statistics.intervals import Interval, paired_difference, paired_ratio
from sharpness.plots.frames import floats, groups, records, rows_where

Array = NDArray[np.float64]


def with_noise_scale(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with ``noise_scale``: tr Sigma / |G|^2 with the N training examples as the whole distribution.

    ``noise_trace`` is unbiased for a distribution that the examples are drawn from; Sigma of the N is 1 - 1/N times it.

    >>> table = pd.DataFrame({"square": [2.0], "noise_trace": [100.0], "num_train": [100]})
    >>> float(with_noise_scale(table)["noise_scale"].iloc[0])
    49.5
    """
    trace = (1 - 1 / floats(rows, "num_train")) * floats(rows, "noise_trace")
    return rows.assign(noise_scale=trace / floats(rows, "square"))


def tuned(runs: pd.DataFrame) -> pd.DataFrame:
    """Return for each batch size of the front its best learning rate and the steps and examples to the goal there.

    The best rate is the one at which most seeds reach the goal, and of those the one with the fewest steps (geometric
    mean over the seeds that do). ``at_edge`` says that it is the lowest or highest of the grid, so that a better one
    may lie beyond; ``runs`` and ``reached`` count all runs of the batch size. Steps with Student t intervals.
    """
    rows = []
    for size, at_size in groups(runs, "batch_size"):
        steps = {rate: _reached(at_rate) for rate, at_rate in groups(at_size, "learning_rate")}
        rows.append({"batch_size": int(size), "runs": len(at_size), "reached": sum(map(len, steps.values()))})
        rows[-1]["diverged"] = len(rows_where(at_size, status="diverged"))
        most = max(map(len, steps.values()), default=0)
        if not most:
            continue
        rate = min((r for r, x in steps.items() if len(x) == most), key=lambda r: float(np.mean(np.log(steps[r]))))
        found = level(steps[rate])
        rows[-1] |= {"learning_rate": rate, "at_edge": rate in (min(steps), max(steps)), "seeds": most}
        rows[-1] |= {"steps": found.value, "steps_lower": found.lower, "steps_upper": found.upper}
        rows[-1]["examples"] = found.value * size if found.value is not None else None
    columns = ("batch_size", "runs", "reached", "diverged", "learning_rate", "at_edge", "seeds")
    return pd.DataFrame(rows, columns=pd.Index([*columns, "steps", "steps_lower", "steps_upper", "examples"]))


def _reached(runs: pd.DataFrame) -> Array:
    steps = floats(runs, "steps_to_result")
    return steps[np.isfinite(steps)]


def front(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at the best learning rate of their batch size that reached the goal, one row each."""
    best = {row["batch_size"]: row["learning_rate"] for row in records(tuned(runs))}
    chosen = [best.get(row["batch_size"]) == row["learning_rate"] for row in records(runs)]
    table = rows_where(runs.assign(chosen=chosen), chosen=True)
    return rows_where(table.assign(there=np.isfinite(floats(table, "steps_to_result"))), there=True)


def too_fast(runs: pd.DataFrame, factor: float = 2.0) -> pd.DataFrame:
    """Return for each seed the share of runs that do not reach the goal at ``factor`` times the best rate or more."""
    best = {row["batch_size"]: row["learning_rate"] for row in records(tuned(runs))}
    rows: dict[int, list[bool]] = {}
    for row in records(runs):
        if (rate := best.get(row["batch_size"])) is not None and row["learning_rate"] >= factor * rate * (1 - 1e-9):
            rows.setdefault(int(row["seed"]), []).append(row["steps_to_result"] is None)
    shares = [
        {"seed": seed, "share": float(np.mean(missed)), "runs": len(missed)} for seed, missed in sorted(rows.items())
    ]
    return pd.DataFrame(shares, columns=pd.Index(["seed", "share", "runs"]))


def misfit(runs: pd.DataFrame, s_min: float, e_min: float) -> Interval:
    """Return the root mean square of ``log(S / (S_min + E_min / B))`` over batch sizes, mean over seeds."""
    values = []
    for _, each in groups(runs, "seed"):
        fitted = s_min + e_min / floats(each, "batch_size")
        values.append(float(np.sqrt(np.mean(np.log(floats(each, "steps_to_result") / fitted) ** 2))))
    return mean(values)


def run_average(rows: pd.DataFrame, goal: float) -> dict[int, float]:
    """Return for each seed the mean of the noise scale over the steps from the start to where the loss meets the goal.

    By the trapezoidal rule, cut where the line between two checkpoints meets the goal; a run that does not meet it, or
    begins below it, has no mean.
    """
    means = {}
    for seed, run in groups(rows, "seed"):
        run = run.sort_values("step")
        steps, losses, scales = (floats(run, name) for name in ("step", "loss", "noise_scale"))
        below = np.flatnonzero(losses <= goal)
        if not len(below) or below[0] == 0:
            continue
        last = below[0]
        share = (losses[last - 1] - goal) / (losses[last - 1] - losses[last])
        x = np.append(steps[:last], steps[last - 1] + share * (steps[last] - steps[last - 1]))
        means[int(seed)] = float(np.trapezoid(np.interp(x, steps, scales), x) / (x[-1] - x[0]))
    return means


def pooled(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return tr Sigma / |G|^2 of several checkpoints together: both averaged apart, as the paper's moving averages are.

    The ratio of single ones swings as the weights do. One row for each combination of ``by``, and ``checkpoints``.
    """

    def scale(each: pd.DataFrame) -> float:
        trace = (1 - 1 / floats(each, "num_train")) * floats(each, "noise_trace")
        return float(np.mean(trace) / np.mean(floats(each, "square")))

    return _combined(rows, by, scale)


def typical(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the geometric mean of the noise scale over checkpoints, for each combination of ``by``."""
    return _combined(rows, by, lambda each: float(np.exp(np.mean(np.log(floats(each, "noise_scale"))))))


def _combined(rows: pd.DataFrame, by: Sequence[str], scale: Callable[[pd.DataFrame], float]) -> pd.DataFrame:
    keys, result = list(zip(*(rows[name] for name in by), strict=True)), []
    for key in dict.fromkeys(keys):
        each = rows_where(rows.assign(chosen=[other == key for other in keys]), chosen=True)
        result.append({**dict(zip(by, key, strict=True)), "noise_scale": scale(each), "checkpoints": len(each)})
    return pd.DataFrame(result, columns=pd.Index([*by, "noise_scale", "checkpoints"]))


def critical_multiplier(multipliers: Sequence[float], losses: ArrayLike, tolerance: float) -> float:
    """Return the largest k with ``L_k <= L_j + tolerance`` for all j < k (Merrill et al. 2025, arXiv 2505.23971).

    A loss that is not finite is above all others.

    >>> critical_multiplier([1, 2, 4, 8], [0.50, 0.50, 0.505, 0.6], 0.01)
    4
    """
    order = np.argsort(multipliers)
    k, loss = np.asarray(multipliers)[order], np.array(losses, dtype=float)[order]
    loss = np.where(np.isfinite(loss), loss, np.inf)
    fits = [bool(np.all(loss[i] <= loss[:i] + tolerance)) for i in range(len(k))]
    return k[max(i for i, holds in enumerate(fits) if holds)].item()


def critical_by_branches(rows: pd.DataFrame, tolerance: float, loss: str = "smoothed_loss") -> pd.DataFrame:
    """Return the critical batch size k* B of each seed and checkpoint.

    ``at_edge`` says whether k* is the ``largest`` or the ``smallest`` k tried, beyond which it may lie; else ``no``.
    """
    result = []
    for seed, run in groups(rows, "seed"):
        for epoch, branch in groups(run, "epoch"):
            tried = floats(branch, "multiplier")
            best = critical_multiplier(list(tried), floats(branch, loss), tolerance)
            size = float(floats(branch, "batch_size")[np.argmin(tried)] / tried.min()) * best
            row = {"seed": int(seed), "epoch": epoch, "multiplier": best, "critical": size}
            result.append(row | {"at_edge": {tried.max(): "largest", tried.min(): "smallest"}.get(best, "no")})
    return pd.DataFrame(result, columns=pd.Index(["seed", "epoch", "multiplier", "critical", "at_edge"]))


def paired(rows: pd.DataFrame, value: str, key: str, first: object, second: object) -> Interval:
    """Return the geometric ratio of a value where ``key`` is ``second`` to where it is ``first``, paired by seed."""
    ends = [{row["seed"]: row[value] for row in records(rows_where(rows, **{key: one}))} for one in (first, second)]
    seeds = sorted(ends[0].keys() & ends[1].keys())
    return paired_ratio(*([np.nan if end[s] is None else end[s] for s in seeds] for end in ends))


def level(values: Iterable[float]) -> Interval:
    """Return the geometric mean over seeds with the Student t interval of the logarithms.

    >>> level([2.0, 8.0]).value
    4.0
    """
    x = np.asarray(list(values), dtype=float)
    return paired_ratio(np.ones_like(x), x)


def mean(values: ArrayLike) -> Interval:
    """Return the mean over seeds with its Student t interval.

    >>> mean([1.0, 1.0, 1.0])
    Interval(value=1.0, lower=1.0, upper=1.0, n=3, reason=None)
    """
    x = np.asarray(values, dtype=float)
    return paired_difference(np.zeros_like(x), x)

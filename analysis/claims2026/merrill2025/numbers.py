"""The numbers behind the critical batch along training: its growth, the noise scale beside it, the warm-up's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.report import held_out
from analysis.statistics.intervals import Interval, exponential, incomplete, paired_ratio, student
from analysis.statistics.rank_correlation import kendall_tau
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

SMALL, WARM_UP, LARGE = ARMS = ("small", "warm-up", "large")
"""The ways to train on the same bytes."""
HELD_OUT, SMOOTHED = "held out", "smoothed"
"""The losses that branches are compared by."""
EUCLIDEAN, ADAMS = "Euclidean", "Adam's"
"""The geometries of the noise scale."""
COLUMNS = {
    "branches": ("seed", "step", "windows", "by", "tolerance", "critical", "open", "losses"),
    "noise": ("seed", "step", "windows", "geometry", "value", "lower", "upper", "loss"),
}
"""The columns of the study's own tables that are read."""
NAMES = ("arm", "seed", "learning_rate", "batch_size", "validation_loss", "test_loss", "step")


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that came to an end with their losses, at most that of a guess, and their updates."""
    return held_out.outcomes(runs, NAMES)


def criticals(branches: pd.DataFrame, tolerance: float, by: str = HELD_OUT) -> pd.DataFrame:
    """Return a row for each seed and checkpoint by one loss and tolerance: the critical batch, and if it is open."""
    return rows_where(branches, by=by, tolerance=tolerance).sort_values(["seed", "windows"])


def noise_by(noise: pd.DataFrame, geometry: str) -> pd.DataFrame:
    """Return the noise scale of one geometry, a row for each seed and checkpoint."""
    return rows_where(noise, geometry=geometry).sort_values(["seed", "windows"])


def checkpoints_of(rows: pd.DataFrame) -> list[int]:
    """Return after how many windows the checkpoints lie, ascending."""
    return [int(windows) for windows, _ in groups(rows, "windows")]


def at(rows: pd.DataFrame, windows: int, column: str = "critical") -> pd.Series:
    """Return a number at one checkpoint by seed."""
    own = rows_where(rows, windows=windows)
    return pd.Series(floats(own, column), index=own["seed"])


def growth(rows: pd.DataFrame, first: int, last: int) -> Interval:
    """Return the critical batch at one checkpoint over that at another, over the seeds; none where a seed lacks one."""
    both = pd.DataFrame({"first": at(rows, first), "last": at(rows, last)})
    pair = floats(both, "first"), floats(both, "last")
    return incomplete(*pair) or paired_ratio(*pair)


def last_growth(rows: pd.DataFrame) -> Interval:
    """Return by what factor it grew between the last two checkpoints; none where a seed's is at an end of the grid."""
    *_, before, last = checkpoints_of(rows)
    ends = rows_if(rows, rows["windows"].isin([before, last]))
    seeds = len(groups(ends, "seed"))
    beyond = len({row["seed"] for row in records(ends) if row["open"] or at_smallest(row)})
    if beyond:
        reason = f"it may lie beyond the batches tried at the last two checkpoints in {beyond} of {seeds} seeds"
        return Interval(None, None, None, seeds - beyond, reason)
    return growth(rows, before, last)


def at_smallest(row: Mapping[str, Any]) -> bool:
    """Say whether a critical batch is the smallest that was tried, so that it may be smaller yet.

    >>> at_smallest({"critical": 4, "losses": {"4": [2.0], "8": [2.1]}})
    True
    """
    return row["critical"] == min(map(int, row["losses"]))


def batches_tried(rows: pd.DataFrame) -> list[int]:
    """Return the batches of the branches, ascending."""
    return sorted({int(batch) for losses in rows["losses"] for batch in losses})


def beside(rows: pd.DataFrame, noise: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each seed and checkpoint with both: the critical batch and the noise scale, NaN for none."""
    keys = ["seed", "windows"]
    return pd.merge(rows.filter([*keys, "critical"]), noise.filter([*keys, "value", "loss"]), on=keys)


def over_noise(rows: pd.DataFrame, noise: pd.DataFrame) -> Interval:
    """Return the critical batch over the noise scale, geometric mean over the checkpoints, over the seeds.

    None where a number of a seed is missing or not positive.
    """
    logs = list[float]()
    for _, own in groups(beside(rows, noise), "seed"):
        pair = floats(own, "critical"), floats(own, "value")
        whole = all(bool(np.all(each > 0)) for each in pair)  # NaN is not
        logs.append(float(np.mean(np.log(pair[0] / pair[1]))) if whole else np.nan)
    gone = int(np.isnan(logs).sum())
    if gone or not logs:
        reason = f"{gone} of {len(logs)} seeds have a number that is missing or not positive"
        return Interval(None, None, None, len(logs) - gone, reason)
    return exponential(student(logs))


def trend(rows: pd.DataFrame, noise: pd.DataFrame) -> Interval:
    """Return Kendall's tau of the critical batch and the noise scale over all checkpoints, whole seeds resampled."""
    both = beside(rows, noise)
    return kendall_tau(floats(both, "critical"), floats(both, "value"), list(both["seed"]))


def branch_losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how far each branch ends above the one of the smallest batch, mean over the orders of the text.

    A branch that diverged has none.
    """
    found = list[dict[str, Any]]()
    for row in records(rows):
        means = {int(size): mean_of(losses) for size, losses in row["losses"].items()}
        least = means[min(means)]
        for size, mean in means.items():
            if mean is not None and least is not None:
                keys = {"seed": row["seed"], "windows": row["windows"]}
                found.append(keys | {"batch": size, "excess": mean - least})
    return pd.DataFrame(found, columns=pd.Index(["seed", "windows", "batch", "excess"]))


def mean_of(losses: Sequence[float | None]) -> float | None:
    """Return the mean, none where one is missing.

    >>> mean_of([1.0, 2.0]), mean_of([1.0, None])
    (1.5, None)
    """
    known = [loss for loss in losses if loss is not None]
    return float(np.mean(known)) if len(known) == len(losses) else None


def of(rows: pd.DataFrame, arm: str, column: str) -> pd.Series:
    """Return a number of an arm by seed."""
    own = rows_where(rows, arm=arm)
    return pd.Series(floats(own, column), index=own["seed"])


def less(rows: pd.DataFrame, arm: str, other: str) -> Interval:
    """Return the mean test loss of one arm less that of another over the seeds; none where a seed lacks one."""
    return held_out.difference_of_seeds(of(rows, other, "test_loss"), of(rows, arm, "test_loss"))


def saved(rows: pd.DataFrame, arm: str) -> float | None:
    """Return the share of the updates of small batches that an arm does not need: a matter of the schedule."""
    shares = (1 - of(rows, arm, "step") / of(rows, SMALL, "step")).dropna()
    return float(shares.mean()) if len(shares) else None


def doublings(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[tuple[int, int, int, int]]:
    """Return for each doubling its place, the last checkpoint before it, and for how many of how many seeds it is due.

    The rule is ``B* > 2 B`` (Merrill et al. 2025), with the critical batch of that checkpoint.
    """
    batch, found = settings["base"]["training"]["batch_size"], []
    for number, place in enumerate(settings["doublings"]):
        before = [windows for windows in checkpoints_of(rows) if windows <= place]
        if before:
            measured = at(rows, before[-1])
            found.append((place, before[-1], int((measured > 2 * batch * 2**number).sum()), len(measured)))
    return found

"""What the numbers show, in plain sentences that say as readily that nothing was resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import numbers
from analysis.keskar2017.captions import NAMES, status_line
from analysis.keskar2017.drawn import SHARPNESS, interpolation_table, not_positive
from analysis.keskar2017.load import Study
from analysis.keskar2017.pair_tables import by_seed, interval_of, pairs
from analysis.statistics import Interval
from sharpness.plots.frames import floats, groups, records, rows_where

ENOUGH_SEEDS = 5


def counts(study: Study) -> list[str]:
    """Say which runs there are, why others are not, and whether they are too few for the intervals to mean much."""
    result = [status_line(study)]
    for run in records(study.runs):
        if run["status"] != "finished":
            result.append(f"{run['role']} seed {run['seed']} {run['status']}: {run['reason'] or 'no reason given'}.")
    num_pairs = pairs(study, "test_accuracy").shape[1]
    if num_pairs < ENOUGH_SEEDS:
        seeds = f"{num_pairs} seed{'' if num_pairs == 1 else 's'} with both runs"
        result.append(f"Caution: {seeds}; intervals from fewer than {ENOUGH_SEEDS} seeds mean little.")
    return result


def differences(study: Study, table: pd.DataFrame) -> list[str]:
    """Say for every quantity how LB compares with SB: as a ratio where that makes sense, otherwise as a difference."""
    return [_comparison(row, *pairs(study, row["quantity"])) for row in records(table)]


def _comparison(row: Mapping[str, Any], small: NDArray[np.float64], large: NDArray[np.float64]) -> str:
    label = row["label"]
    if not len(small):
        return f"{label}: not compared, no seed has it in both runs."
    ratio = interval_of(row, "ratio")
    if ratio.value is not None:
        text, verdict = f"LB / SB = {numbers.ratio(ratio)}", _verdict(ratio, 1.0)
    else:
        change = interval_of(row, "difference")
        unit = "pp" if row["unit"] == "%" else row["unit"]
        text = f"LB - SB = {numbers.difference(change)} {unit}".rstrip()
        verdict = _verdict(change, 0.0)
    return f"{label}: larger for LB in {int(np.sum(large > small))} of {len(small)} seeds, {text}: {verdict}."


def _verdict(interval: Interval, neutral: float) -> str:
    """Say what an interval resolves.

    >>> _verdict(Interval(0.1, -0.2, 0.4, 5), 0.0)
    'no difference resolved'
    """
    if interval.lower is None or interval.upper is None:
        return "one seed gives no interval"
    if interval.lower <= neutral <= interval.upper:
        return "no difference resolved"
    return "higher for LB" if interval.lower > neutral else "lower for LB"


def correlations(taus: Mapping[str, Interval], table: pd.DataFrame) -> list[str]:
    """Say how the generalisation gap goes with each sharpness, and which values a log axis cannot show."""
    result = []
    for quantity in SHARPNESS:
        tau = taus[quantity]
        text = f"Generalisation gap against {NAMES[quantity]}: Kendall tau-b {numbers.correlation(tau)}"
        if tau.lower is not None and tau.upper is not None:
            text += f": {_association(tau.lower, tau.upper)}"
        result.append(text + ".")
        if count := not_positive(table, quantity):
            result.append(f"{count} of {len(table)} runs have {NAMES[quantity]} <= 0 and are not on the log axis.")
    return result


def _association(lower: float, upper: float) -> str:
    """Say what the interval of a rank correlation resolves.

    >>> _association(-0.4, 0.7)
    'no association resolved'
    """
    if lower == upper:
        return "all runs are ordered alike, so resampling them gives an interval without width"
    return "no association resolved" if lower <= 0 <= upper else "the interval excludes 0"


def interpolation(study: Study) -> list[str]:
    """Say how high the loss barrier between the two solutions is, and beside which of them the train loss is larger."""
    result = []
    barriers = list(by_seed(study, "loss_barrier", "SB").values())
    if len(barriers):
        low, high = (numbers.significant(x, 2) for x in (min(barriers), max(barriers)))
        between = (
            f"from {low} to {high} nats over {len(barriers)} seeds" if len(barriers) > 1 else f"{low} nats (1 seed)"
        )
        result.append(f"Train loss barrier on the straight line from SB to LB: {between}.")
    steps = [_beside(rows) for _, rows in groups(interpolation_table(study), "seed")]
    steps = [step for step in steps if step is not None]
    if steps:
        small, large, step = steps[0]
        result.append(
            f"One grid step (alpha +- {step:.3g}) away the mean train loss is larger at LB than at SB in "
            f"{sum(b > a for a, b, _ in steps)} of {len(steps)} pairs (first: {numbers.significant(large, 2)} at LB, "
            f"{numbers.significant(small, 2)} at SB)."
        )
    return result


def _beside(rows: pd.DataFrame) -> tuple[float, float, float] | None:
    """Return the mean train loss one grid step off alpha = 0, that off alpha = 1, and the step; None with a gap."""
    # Rounded, because the sum of an end point and a step meets the grid only up to rounding.
    alphas = [round(float(alpha), 9) for alpha in rows["alpha"]]
    loss = dict(zip(alphas, floats(rows, "train_loss"), strict=True))
    step = min((alpha for alpha in alphas if alpha > 0), default=0.0)
    before, after = (np.mean([loss.get(round(end + shift, 9), np.nan) for shift in (-step, step)]) for end in (0, 1))
    return (float(before), float(after), step) if np.isfinite(before + after) else None


def pyhessian(study: Study) -> list[str]:
    """Say for each run checked with PyHessian whether it agrees with the eigenvalue found here, with both numbers."""
    result = []
    for row in records(rows_where(study.probes, quantity="top_eigenvalue_pyhessian")):
        details, where = row["details"], f"{row['role']} seed {row['seed']}"
        if row["value"] is None or details.get("ours") is None or details.get("agree") is None:
            result.append(f"PyHessian, {where}: not compared ({row['reason'] or 'a value is missing'}).")
            continue
        lower, upper = details.get("ours_lower"), details.get("ours_upper")
        interval = f" in [{lower:.5g}, {upper:.5g}]" if lower is not None and upper is not None else ""
        verdict = "agreement" if details["agree"] else "DISAGREEMENT"
        examples = f" over {row['num_examples']:g} examples" if row["num_examples"] else ""
        result.append(
            f"PyHessian, {where}: top eigenvalue {row['value']:.5g} against {details['ours']:.5g}{interval} found "
            f"here{examples}: {verdict}."
        )
    return result


def unmeasured(study: Study) -> list[str]:
    """Name every probe of a finished run that gave no value, with its reason."""
    return [
        f"{row['role']} seed {row['seed']}: {row['quantity']} was not measured ({row['reason'] or 'no reason given'})."
        for row in records(study.probes)
        if row["value"] is None and row["quantity"] != "top_eigenvalue_pyhessian"
    ]

"""The comparison of small and large batch as one table, in numbers and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import numbers
from analysis.keskar2017.load import ROLES, Study
from analysis.statistics import Interval, Summary, paired_difference, paired_ratio, summarise
from sharpness.errors import InputError
from sharpness.plots.frames import records, rows_where

# quantity in Study.values, what it is called, unit, factor into that unit, whether a ratio means something
QUANTITIES = (
    ("train_accuracy", "train accuracy", "%", 100.0, False),
    ("test_accuracy", "test accuracy", "%", 100.0, False),
    ("generalisation_gap", "generalisation gap", "pp", 100.0, False),
    ("train_loss", "train loss", "nats", 1.0, False),
    ("test_loss", "test loss", "nats", 1.0, False),
    ("top_eigenvalue", "λ_max", "nats", 1.0, True),
    ("keskar_sharpness", "Keskar sharpness φ", "%", 1.0, True),
    ("distance_from_start", "distance from the start", "", 1.0, True),
)
FLOATS = ("_mean", "_std", "difference", "ratio", "_lower", "_upper")
HEADER = ("", "SB", "LB", "LB - SB [95 %]", "LB / SB [95 %]", "n")


def comparison_table(study: Study) -> pd.DataFrame:
    """Return SB against LB, one row per quantity, with unrounded numbers in the unit named in the row.

    Means and standard deviations (ddof 1) are over the finished runs of a role; the difference LB - SB and the
    geometric ratio LB / SB are paired by seed, with 95 % Student t intervals. Raises :class:`InputError` when the runs
    were probed with different epsilons or starts.
    """
    rows = [_row(study, *quantity) for quantity in QUANTITIES]
    setting = keskar_setting(study)
    for row in rows:
        if row["quantity"] == "keskar_sharpness" and setting:
            row["label"] += f" (ε = {setting[0]:g}, start: {setting[1]})"
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table if str(name).endswith(FLOATS)})


def by_seed(study: Study, quantity: str, role: str) -> dict[int, float]:
    """Return the finite values of a quantity for one role by seed."""
    rows = rows_where(study.values, quantity=quantity, role=role)
    return {int(row["seed"]): float(row["value"]) for row in records(rows)}


def pairs(study: Study, quantity: str) -> NDArray[np.float64]:
    """Return the SB and LB values of the seeds that have both, sorted by seed: shape (2, seeds)."""
    small, large = (by_seed(study, quantity, role) for role in ROLES)
    seeds = sorted(small.keys() & large.keys())
    return np.array([[values[seed] for seed in seeds] for values in (small, large)], dtype=float)


def _row(study: Study, quantity: str, label: str, unit: str, scale: float, has_ratio: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"quantity": quantity, "label": label, "unit": unit}
    for role in ROLES:
        summary = summarise([scale * value for value in by_seed(study, quantity, role).values()])
        row |= {f"{role}_mean": summary.mean, f"{role}_std": summary.std, f"{role}_n": summary.n}
    small, large = scale * pairs(study, quantity)
    change = paired_difference(small, large)
    factor = paired_ratio(small, large) if has_ratio else Interval(None, None, None, change.n)
    row |= {"pairs": change.n}
    for name, interval in (("difference", change), ("ratio", factor)):
        row |= {name: interval.value, f"{name}_lower": interval.lower, f"{name}_upper": interval.upper}
    return row


def keskar_setting(study: Study) -> tuple[float, str] | None:
    """Return the epsilon and the start of Metric 2.1, which are part of what was measured; None without records.

    Raises :class:`InputError` when the runs were probed with different ones.
    """
    rows = records(rows_where(study.probes, quantity="keskar_sharpness"))
    details = [row["details"] for row in rows if "epsilon" in row["details"]]
    settings = sorted({(float(d["epsilon"]), str(d.get("start", "not stated"))) for d in details})
    if len(settings) > 1:
        raise InputError(f"expected one epsilon and start in all runs, got {settings}: probe all runs alike")
    return settings[0] if settings else None


def interval_of(row: Mapping[str, Any], name: str) -> Interval:
    """Return the ``difference`` or the ``ratio`` of one row of the table, as :func:`records` gives it."""
    return Interval(row[name], row[f"{name}_lower"], row[f"{name}_upper"], int(row["pairs"]))


def text_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return the table as text cells, each number rounded to its uncertainty."""
    rows = []
    for row in records(table):
        counts = [int(row[key]) for key in ("SB_n", "LB_n", "pairs")]
        n = str(counts[0]) if len(set(counts)) == 1 else f"{counts[0]}, {counts[1]} ({counts[2]} paired)"
        label = f"{row['label']} [{row['unit']}]" if row["unit"] else row["label"]
        summaries = [Summary(row[f"{role}_mean"], row[f"{role}_std"], row[f"{role}_n"]) for role in ROLES]
        cells = [numbers.mean_and_std(summary) for summary in summaries]
        cells += [numbers.difference(interval_of(row, "difference")), numbers.ratio(interval_of(row, "ratio"))]
        rows.append([label, *cells, n])
    return rows

"""The numbers in plain sentences, which say as readily that nothing was resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.keskar2017.captions import NAMES, status_line
from analysis.keskar2017.comparisons import comparisons
from analysis.keskar2017.curves import beside, curves, grid_step
from analysis.keskar2017.numbers import ROLES, Results, not_positive, solutions
from analysis.keskar2017.tables import Compared, compared
from analysis.report import numbers
from analysis.runs import counts, refused
from analysis.statistics.intervals import Interval
from analysis.statistics.rank_correlation import kendall_tau
from sharpness.plots.frames import floats, records, rows_where

ENOUGH_SEEDS = 5
"""Fewer seeds give intervals that mean little."""


def of_pairs(results: Results) -> list[str]:
    """Return what the pairs of the first network show, beginning with how many runs there are."""
    table = solutions(results)
    quantities = compared(results)
    return [
        status_line(results),
        *_unfinished(results),
        *_caution(next(each.difference.n for each in quantities if each.quantity == "test_accuracy")),
        *map(_comparison, quantities),
        *_of_correlations(table),
        *_of_lines(results),
        *_of_pyhessian(results),
        *_unmeasured(results, table),
    ]


def of_arms(results: Results) -> Iterator[str]:
    """Yield how many runs there are in all, and what was chosen or left out in the comparisons of arms."""
    yield counts(results.tables)
    for each in comparisons(results):
        if each.note:
            yield f"{each.name[0].upper()}{each.name[1:]}: {each.note}."


def _who(row: Mapping[str, Any]) -> str:
    """Return which run a row is of, as in ``narrow F1, LB, linear rate, seed 3``."""
    return ", ".join([*(str(row[name]) for name in ("network", "role", "arm") if row[name]), f"seed {row['seed']}"])


def _unfinished(results: Results) -> Iterator[str]:
    for row in refused(results.tables):
        yield f"{_who(row)} {row['status']}: {row['reason'] or 'no reason given'}."


def _caution(num_pairs: int) -> Iterator[str]:
    if num_pairs < ENOUGH_SEEDS:
        seeds = f"{num_pairs} seed{'' if num_pairs == 1 else 's'} with both runs"
        yield f"Caution: {seeds}; intervals from fewer than {ENOUGH_SEEDS} seeds mean little."


def _comparison(each: Compared) -> str:
    """Return how LB compares with SB: as a ratio where that makes sense, otherwise as a difference."""
    seeds = each.difference.n
    if seeds == 0:
        return f"{each.label}: not compared, no seed has it in both runs."
    if each.ratio.value is not None:
        text, verdict = f"LB / SB = {numbers.ratio(each.ratio)}", _verdict(each.ratio, 1.0)
    else:
        unit = "pp" if each.unit == "%" else each.unit
        text = f"LB - SB = {numbers.difference(each.difference)} {unit}".rstrip()
        verdict = _verdict(each.difference, 0.0)
    return f"{each.label}: larger for LB in {each.larger} of {seeds} seeds, {text}: {verdict}."


def _verdict(interval: Interval, neutral: float) -> str:
    """Return what an interval resolves.

    >>> _verdict(Interval(0.1, -0.2, 0.4, 5), 0.0)
    'no difference resolved'
    """
    if interval.lower is None or interval.upper is None:
        return "one seed gives no interval"
    if interval.lower <= neutral <= interval.upper:
        return "no difference resolved"
    return "higher for LB" if interval.lower > neutral else "lower for LB"


def correlations(table: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """Return Kendall's tau-b of the generalisation gap with each kind of sharpness: of ``pairs``, and within each role.

    Of all solutions together whole pairs of a seed are resampled. Two clusters, one of each role, have a tau of about
    one half though nothing goes with anything inside them: the taus within the roles tell.
    """
    parts = {"pairs": table} | {role: rows_where(table, role=role) for role in ROLES}
    return {
        name: {
            part: kendall_tau(floats(rows, name), floats(rows, "generalisation_gap"), rows["seed"])
            for part, rows in parts.items()
        }
        for name in NAMES
    }


def _of_correlations(table: pd.DataFrame) -> Iterator[str]:
    for quantity, taus in correlations(table).items():
        parts = [f"{_part(part)} {numbers.correlation(tau)}{_association(tau)}" for part, tau in taus.items()]
        yield f"Generalisation gap against {NAMES[quantity]}: {'; '.join(parts)}."
        if count := not_positive(table, quantity):
            yield f"{count} of {len(table)} runs have {NAMES[quantity]} <= 0 and are not on the log axis."


def _part(part: str) -> str:
    return "Kendall tau-b over pairs" if part == "pairs" else f"within {part}"


def _association(tau: Interval) -> str:
    """Return what the interval of a rank correlation resolves, to follow its number.

    >>> _association(Interval(0.2, -0.4, 0.7, 5))
    ': no association resolved'
    """
    if tau.lower is None or tau.upper is None:
        return ""
    if tau.lower == tau.upper:
        return ": all runs are ordered alike, so resampling them gives an interval without width"
    return ": no association resolved" if tau.lower <= 0 <= tau.upper else ": the interval excludes 0"


def _of_lines(results: Results) -> Iterator[str]:
    """Yield how high the loss rises between the solutions, and beside which of them the training loss is larger."""
    known = rows_where(results.probes, network=results.first, quantity="loss_barrier")
    lines = [row for row in records(known) if row["details"].get("path", "line") == "line" and row["value"] is not None]
    barriers = [row["value"] for row in lines]
    if barriers:
        low, high = (numbers.significant(x, 2) for x in (min(barriers), max(barriers)))
        several = len(barriers) > 1
        between = f"from {low} to {high} nats over {len(barriers)} seeds" if several else f"{low} nats (1 seed)"
        yield f"Train loss barrier on the straight line from SB to LB: {between}."
    table = curves(results, "line", results.first)
    small, large = beside(table)
    if len(small):
        yield (
            f"One grid step (alpha +- {grid_step(table):.3g}) away the mean train loss is larger at LB than at SB in "
            f"{np.sum(large > small)} of {len(small)} pairs (first: {numbers.significant(large[0], 2)} at LB, "
            f"{numbers.significant(small[0], 2)} at SB)."
        )


def _of_pyhessian(results: Results) -> Iterator[str]:
    """Yield for each run checked with PyHessian whether it agrees with the eigenvalue found here, with both numbers."""
    checked = rows_where(results.probes, network=results.first, quantity="top_eigenvalue_pyhessian")
    for row in records(checked):
        details, where = row["details"], f"{row['role']} seed {row['seed']}"
        if row["value"] is None or details.get("ours") is None or details.get("agree") is None:
            yield f"PyHessian, {where}: not compared ({row['reason'] or 'a value is missing'})."
            continue
        lower, upper = details.get("ours_lower"), details.get("ours_upper")
        interval = f" in [{lower:.5g}, {upper:.5g}]" if lower is not None and upper is not None else ""
        verdict = "agreement" if details["agree"] else "DISAGREEMENT"
        examples = f" over {row['num_examples']:g} examples" if row["num_examples"] else ""
        yield (
            f"PyHessian, {where}: top eigenvalue {row['value']:.5g} against {details['ours']:.5g}{interval} found "
            f"here{examples}: {verdict}."
        )


def _unmeasured(results: Results, table: pd.DataFrame) -> Iterator[str]:
    """Yield what gave no value, with its reason, and of which solutions there is no record at all."""
    for row in records(results.probes):
        if row["value"] is None and row["quantity"] != "top_eigenvalue_pyhessian":
            yield f"{_who(row)}: {row['quantity']} was not measured ({row['reason'] or 'no reason given'})."
    roles = dict.fromkeys(("top_eigenvalue", "keskar_sharpness", "distance_from_start"), ROLES)
    for quantity, asked in (roles | {"loss_barrier": ("SB",)}).items():
        known = set(rows_where(results.probes, quantity=quantity)["run_id"])
        runs = [row for row in records(table) if row["role"] in asked and row["run_id"] not in known]
        if runs:
            names = ", ".join(f"{row['role']} seed {row['seed']}" for row in runs)
            yield f"There is no record of {quantity} on the final weights of {names}."

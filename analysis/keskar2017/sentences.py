"""The numbers in plain sentences, which say as readily that nothing was resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.keskar2017.captions import NAMES, status_line
from analysis.keskar2017.comparisons import comparisons
from analysis.keskar2017.curves import beside, curves, distance_beside
from analysis.keskar2017.numbers import ROLES, Results, not_positive, solutions
from analysis.keskar2017.tables import Compared, compared
from analysis.report import numbers
from analysis.runs import counts, refused
from analysis.statistics.intervals import Interval
from analysis.statistics.rank_correlation import kendall_tau
from sharpness.plots.frames import floats, records, rows_where

MEASURED = ("top_eigenvalue", "trace", "keskar_sharpness", "worst_case_sharpness", "distance_from_start")
"""The quantities of records that every solution of the first network has."""
ENOUGH_SEEDS = 5
"""Fewer seeds give intervals that mean little."""


def of_pairs(results: Results) -> list[str]:
    """Return in five sentences what the pairs of the first network show, whichever way it goes."""
    quantities = {each.quantity: each for each in compared(results)}
    return [
        _difference(quantities["test_accuracy"]),
        _test_loss(quantities["test_loss"], quantities["test_accuracy"]),
        _sharpness([quantities[name] for name in ("top_eigenvalue", "trace", "keskar_sharpness")]),
        _invariant(quantities["worst_case"]),
        _within_roles(correlations(solutions(results))),
    ]


def checks_of_pairs(results: Results) -> list[str]:
    """Return what the five sentences rest on: runs, what else was measured of them, and what is missing."""
    table = solutions(results)
    quantities = {each.quantity: each for each in compared(results)}
    return [
        status_line(results),
        *_unfinished(results),
        *_caution(quantities["test_accuracy"].difference.n),
        _difference(quantities["train_loss"]),
        *_of_correlations(table),
        *_of_lines(results),
        *_of_pyhessian(results),
        *_unmeasured(results, table),
    ]


def checks_of_arms(results: Results) -> Iterator[str]:
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


def _difference(each: Compared, lead: str = "") -> str:
    """Return how LB compares with SB in an outcome of training, after its name or other words that lead there."""
    name, seeds = lead or f"{each.label[0].upper()}{each.label[1:]}", each.difference.n
    if seeds == 0:
        return f"{name}: not compared, no seed has it in both runs."
    unit = {"%": " percentage points", "nats": " nats"}[each.unit]
    size = f"LB - SB = {numbers.difference(each.difference)}{unit}"
    words = {
        "higher": f"large batches end higher, {size}, in {each.larger} of {seeds} pairs",
        "lower": f"large batches end lower, {size}, in {seeds - each.larger} of {seeds} pairs",
    }
    return f"{name}: {words.get(_side(each.difference, 0.0), f'no difference is resolved, {size}')}."


def _test_loss(loss: Compared, accuracy: Compared) -> str:
    """Return how the test loss of LB compares, and whether that is what the test accuracy says."""
    better = {"lower": "higher", "higher": "lower"}
    side, of_accuracy = _side(loss.difference, 0.0), _side(accuracy.difference, 0.0)
    if of_accuracy == "neither":
        return _difference(loss)
    words = {"neither": "does not show it", better[of_accuracy]: "goes the same way"}
    return _difference(loss, f"Test loss {words.get(side, 'goes the other way')}")


def _sharpness(measures: Sequence[Compared]) -> str:
    """Return by how much LB is sharper by the measures that a rescaling of the layers moves."""
    sides = {_side(each.ratio, 1.0) for each in measures}
    words = {"higher": "sharper by every one of", "lower": "flatter by every one of"}
    verdict = words.get(sides.pop(), "neither sharper nor flatter by all of") if len(sides) == 1 else "not alike by"
    ratios = ", ".join(f"{each.label} {_times(each)}" for each in measures)
    return f"Large-batch minima are {verdict} {len(measures)} measures; LB / SB: {ratios}."


def _invariant(each: Compared) -> str:
    """Return the same by a measure that no rescaling moves."""
    words = {"higher": "large-batch minima are sharper too", "lower": "large-batch minima are flatter"}
    verdict = words.get(_side(each.ratio, 1.0), "no difference is resolved")
    return f"In units of the weights ({each.label}), where rescaling layers changes nothing, {verdict}: {_times(each)}."


def _times(each: Compared) -> str:
    if each.ratio.value is None:
        return f"not compared ({each.ratio.reason or 'no ratio'})"
    return f"{numbers.ratio(each.ratio)} times"


def _side(interval: Interval, neutral: float) -> str:
    """Return on which side of the neutral value an interval lies: higher, lower, or neither.

    >>> _side(Interval(0.1, -0.2, 0.4, 5), 0.0)
    'neither'
    """
    if interval.lower is None or interval.upper is None or interval.lower <= neutral <= interval.upper:
        return "neither"
    return "higher" if interval.lower > neutral else "lower"


def correlations(table: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """Return Kendall's tau-b of test accuracy with each kind of sharpness within each role.

    Over both roles it would tell nothing: two clusters have a tau of about one half though nothing goes with anything
    inside them.
    """
    parts = {role: rows_where(table, role=role) for role in ROLES}
    return {
        name: {
            role: kendall_tau(floats(rows, name), floats(rows, "test_accuracy"), rows["seed"])
            for role, rows in parts.items()
        }
        for name in NAMES
    }


def _within_roles(found: Mapping[str, Mapping[str, Interval]]) -> str:
    """Return whether sharpness tells which runs of one batch size are more accurate."""
    every = [tau for taus in found.values() for tau in taus.values()]
    resolved = sum(_side(tau, 0.0) != "neither" for tau in every)
    words = "goes with accuracy" if resolved else "does not tell which is more accurate"
    return (
        f"Among networks of one batch size sharpness {words}: {resolved or 'none'} of {len(every)} rank correlations "
        f"{'are' if resolved > 1 else 'is'} resolved."
    )


def _of_correlations(table: pd.DataFrame) -> Iterator[str]:
    """Yield the rank correlations of sharpness and accuracy at one batch size, and what they leave out."""
    found = correlations(table)
    texts = [
        f"{NAMES[name]} {', '.join(f'within {role} {numbers.correlation(tau)}' for role, tau in taus.items())}"
        for name, taus in found.items()
    ]
    yield f"Kendall's tau-b of test accuracy with sharpness at one batch size: {'; '.join(texts)}."
    for name in found:
        if count := not_positive(table, name):
            yield f"{count} of {len(table)} runs have {NAMES[name]} <= 0 and are not on the log axis."


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
            f"At {distance_beside(table):.3g} of the way beside them the mean train loss is larger at LB than at SB in "
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
    roles = dict.fromkeys(MEASURED, ROLES)
    for quantity, asked in (roles | {"loss_barrier": ("SB",)}).items():
        known = set(rows_where(results.probes, quantity=quantity)["run_id"])
        runs = [row for row in records(table) if row["role"] in asked and row["run_id"] not in known]
        if runs:
            names = ", ".join(f"{row['role']} seed {row['seed']}" for row in runs)
            yield f"There is no record of {quantity} on the final weights of {names}."

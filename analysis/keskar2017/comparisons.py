"""Small against large batch under each condition that the paper's critics ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.keskar2017.numbers import Results
from sharpness.plots.frames import floats, groups, rows_if, rows_where

TARGET = "train_loss"
"""The way a run ended that reached its training loss."""


@dataclass(frozen=True)
class Tuned:
    """The learning rate with the best mean held-out accuracy, its runs, and rates that could not be candidates."""

    rate: float
    rows: pd.DataFrame
    at_edge: bool
    refused: tuple[float, ...]


def tuned(runs: pd.DataFrame, done: pd.DataFrame) -> Tuned | None:
    """Return the best of the learning rates that were tried for one batch size; ``None`` where no rate is complete.

    ``runs`` are all runs of it, ``done`` those that finished, with accuracies. A rate at which a run diverged or is
    missing is no candidate.
    """
    means, refused = {}, []
    for rate, planned in groups(runs, "learning_rate"):
        rows = rows_where(done, learning_rate=rate)
        if len(rows) < len(planned):
            refused.append(rate)
        else:
            means[rate] = float(np.mean(floats(rows, "validation_accuracy")))
    if not means or not np.isfinite(list(means.values())).all():
        return None
    best = max(means, key=lambda rate: means[rate])
    return Tuned(best, rows_where(done, learning_rate=best), best in (min(means), max(means)), tuple(refused))


def _tuned(results: Results, role: str) -> Tuned | None:
    sides = (rows_where(table, network=results.arms, role=role) for table in (results.tables.runs, results.done))
    return tuned(*(rows_if(rows, rows["arm"].isin(["base", "rate"])) for rows in sides))


@dataclass(frozen=True)
class Comparison:
    """Small against large batch under one condition; ``note`` says what was chosen, and names runs left out."""

    name: str
    small: pd.DataFrame
    large: pd.DataFrame
    note: str = ""


def comparisons(results: Results) -> list[Comparison]:
    """Return what the critics ask for, beginning with the paper's own condition.

    Where a training loss is the goal of all runs, it is equal under every condition, and updates under none.
    """
    small, empty = results.runs("SB", "base"), results.done.iloc[:0]
    best = {role: _tuned(results, role) for role in ("SB", "LB")}
    chosen = [empty if found is None else found.rows for found in best.values()]
    held = results.held
    rates = [
        Comparison(f"{held}, same rate", small, results.runs("LB", "base")),
        Comparison(f"{held}, linear rate", small, results.runs("LB", "linear rate")),
        Comparison(f"{held}, sqrt rate", small, results.runs("LB", "sqrt rate")),
        Comparison(f"{held}, tuned rates", chosen[0], chosen[1], "; ".join(_of_tuned(best))),
    ]
    if results.goal is not None:
        return rates
    aimed = [results.runs(role, "equal loss") for role in ("SB", "LB")]
    reached = [rows_where(runs, ended_by=TARGET) for runs in aimed]
    short = sum(map(len, aimed)) - sum(map(len, reached))
    note = f"runs that did not reach the loss, left out: {short}" if short else ""
    return [
        *rates,
        Comparison("equal updates, same rate", small, results.runs("LB", "equal updates")),
        Comparison("equal updates, sqrt rate", small, results.runs("LB", "equal updates, sqrt rate")),
        Comparison("equal training loss", reached[0], reached[1], note),
    ]


def _of_tuned(best: Mapping[str, Tuned | None]) -> Iterator[str]:
    for role, found in best.items():
        if found is None:
            yield f"{role}: no rate with all its runs"
            continue
        edge = ", at the edge of the rates tried" if found.at_edge else ""
        refused = (
            f", without {', '.join(f'{rate:g}' for rate in found.refused)} (runs missing)" if found.refused else ""
        )
        yield f"{role} at {found.rate:g}{edge}{refused}"

"""Small against large batch under each condition that the paper's critics ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.keskar2017.numbers import Results, difference, ratio
from analysis.statistics.intervals import Interval, exponential
from analysis.statistics.selection import chosen_difference
from sharpness.plots.frames import floats, groups, rows_if, rows_where

TARGET = "train_loss"
"""The way a run ended that reached its training loss."""


@dataclass(frozen=True)
class Tuned:
    """The learning rate with the best mean held-out accuracy, its runs, and rates that could not be candidates.

    ``tried`` are the runs at all rates that could be.
    """

    rate: float
    rows: pd.DataFrame
    tried: pd.DataFrame
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
    tried = rows_if(done, done["learning_rate"].isin(list(means)))
    return Tuned(best, rows_where(done, learning_rate=best), tried, best in (min(means), max(means)), tuple(refused))


def _tuned(results: Results, role: str) -> Tuned | None:
    sides = (rows_where(table, network=results.arms, role=role) for table in (results.tables.runs, results.done))
    return tuned(*(rows_if(rows, rows["arm"].isin(["base", "rate"])) for rows in sides))


@dataclass(frozen=True)
class Comparison:
    """Small against large batch under one condition; ``note`` says what was chosen, and names runs left out.

    Where both were chosen among rates, ``tried`` has the finished runs at all of these, and intervals take the choice
    into account (:func:`chosen_difference`); else they are Student's over the pairs of a seed.
    """

    name: str
    small: pd.DataFrame
    large: pd.DataFrame
    note: str = ""
    tried: tuple[pd.DataFrame, pd.DataFrame] | None = None

    def difference(self, column: str) -> Interval:
        """Return LB - SB."""
        if self.tried is None:
            return difference(self.small, self.large, column)
        scores, values = ([_by_rate(rows, name) for rows in self.tried] for name in ("validation_accuracy", column))
        return chosen_difference(scores, values)

    def ratio(self, column: str) -> Interval:
        """Return LB / SB of a positive number."""
        if self.tried is None:
            return ratio(self.small, self.large, column)
        logs = tuple(rows.assign(**{column: np.log(floats(rows, column))}) for rows in self.tried)
        return exponential(replace(self, tried=logs).difference(column))


def _by_rate(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Return a column as (seeds, rates)."""
    return rows.pivot(index="seed", columns="learning_rate", values=column).to_numpy(dtype=float)


def comparisons(results: Results) -> list[Comparison]:
    """Return what the critics ask for, beginning with the paper's own condition.

    Where a training loss is the goal of all runs, it is equal under every condition, and updates under none.
    """
    small, empty = results.runs("SB", "base"), results.done.iloc[:0]
    best = {role: _tuned(results, role) for role in ("SB", "LB")}
    chosen = [empty if found is None else found.rows for found in best.values()]
    held = results.held
    candidates = tuple(found.tried for found in best.values() if found is not None)
    tried = candidates if len(candidates) == 2 else None
    rates = [
        Comparison(f"{held}, same rate", small, results.runs("LB", "base")),
        Comparison(f"{held}, linear rate", small, results.runs("LB", "linear rate")),
        Comparison(f"{held}, sqrt rate", small, results.runs("LB", "sqrt rate")),
        Comparison(f"{held}, tuned rates", chosen[0], chosen[1], "; ".join(_of_tuned(best)), tried),
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


def against_each_rate(results: Results) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Return the runs of SB at each rate tried, by a name, with those of LB at its best rate.

    Rates that are about as good on held-out examples may lead to minima of another sharpness, so that the choice among
    them decides which batch ends sharper.
    """
    small, large = (_tuned(results, role) for role in ("SB", "LB"))
    if small is None or large is None:
        return {}
    tried = groups(small.tried, "learning_rate")
    return {f"LB at {large.rate:g}, SB at {rate:g}": (rows, large.rows) for rate, rows in tried}


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

"""From the tables of the study to what is compared: sharpness in each box, outcomes of runs, critics' conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics import Interval, paired_difference, paired_ratio
from analysis.tidy import Tables, counts
from sharpness.plots.frames import floats, groups, records, rows_where

EPSILONS = (1e-3, 5e-4)
"""Half widths of the paper's boxes; the first is that of every comparison beyond its tables."""
SEARCHES = {"keskar": "published", "keskar_maximum": "climbed"}
ACCURACIES = ("train_accuracy", "validation_accuracy", "test_accuracy")
WHERE = ("run_id", "network", "role", "arm", "seed")
SHARPNESS = (*WHERE, "space", "search", "epsilon", "phi", "complete")
TARGET = "train_loss"
"""How a run ended that reached its training loss."""


@dataclass(frozen=True)
class Results:
    """The tables with what follows from them once.

    ``done`` has a row per finished run with accuracies in per cent, ``phi`` (per cent; the sharpness by which arms are
    compared, which ``measure`` describes), ``distance`` from the start and ``rate``, the learning rate of the last
    epoch, scaling included. ``sharpness`` has a row per run, space, search and box. ``networks`` say by label what was
    trained on what, ``arms`` is the label of the one that things are varied on, ``subspace`` the random dimensions.
    """

    tables: Tables
    done: pd.DataFrame
    sharpness: pd.DataFrame
    networks: Mapping[str, str]
    arms: str
    subspace: int
    measure: str

    def runs(self, role: str, arm: str, network: str | None = None) -> pd.DataFrame:
        """Return the finished runs of an arm, of the varied network unless another is named."""
        return rows_where(self.done, network=network or self.arms, role=role, arm=arm)

    def setting(self, network: str | None = None) -> str:
        """Return what a caption says last: what was trained on what, and how many runs finished."""
        where = "; ".join(self.networks.values()) if network is None else self.networks[network]
        return f"{where}. {counts(self.tables)}"


def results_of(tables: Tables, settings: Mapping[str, Any]) -> Results:
    """Return the results of a study with these settings, the fields of its preset."""
    p = settings["compare"]["subspace"]
    sharpness, where = sharpness_table(tables), "full space" if p is None else f"{p} random dimensions"
    return Results(
        tables=tables,
        done=outcomes(tables, sharpness, "full" if p is None else "subspace"),
        sharpness=sharpness,
        networks={case["label"]: _setting(case) for case in (*settings["pairs"], settings["arms"])},
        arms=settings["arms"]["label"],
        subspace=settings["subspace"],
        measure=f"Metric 2.1, {where}, epsilon {EPSILONS[0]:g}, as published",
    )


def _setting(case: Mapping[str, Any]) -> str:
    data, training = case["base"]["data"], case["base"]["training"]
    images = "" if data["num_train"] is None else f", {data['num_train'] - data['num_validation']} examples"
    tests = "" if data["num_test"] is None else f" and the first {data['num_test']} of the test set"
    return (
        f"{case['label']} on {data['name']}{images}{tests}, batches {case['small']} and {case['large']}, "
        f"{training['epochs']} epochs of {training['optimizer']}"
    )


def sharpness_table(tables: Tables) -> pd.DataFrame:
    """Return Metric 2.1 (per cent) of every run: by space (full, subspace), search (published, climbed) and epsilon."""
    kept = {}
    for row in records(tables.probes):
        if row["probe"] not in SEARCHES or row["value"] is None:
            continue
        space = "full" if row["knobs"].get("subspace") is None else "subspace"
        shared = {name: row[name] for name in WHERE} | {"space": space, "search": SEARCHES[row["probe"]]}
        for box in _boxes(row):
            key = (row["run_id"], space, row["probe"], box["epsilon"])
            kept[key] = shared | {name: box[name] for name in ("epsilon", "phi")} | {"complete": bool(row["converged"])}
    return pd.DataFrame(list(kept.values()), columns=pd.Index(SHARPNESS))


def _boxes(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = row["details"]
    if row["probe"] == "keskar_maximum":
        return details["boxes"]
    second = details.get("second")
    return [{"epsilon": details["epsilon"], "phi": row["value"]}, *([second] if second else [])]


def outcomes(tables: Tables, sharpness: pd.DataFrame, space: str) -> pd.DataFrame:
    """Return the finished runs with what :class:`Results` says of ``done``."""
    runs, epochs = tables.finished.copy(), tables.epochs
    phi = rows_where(sharpness, space=space, search="published", epsilon=EPSILONS[0])
    far = rows_where(tables.probes, quantity="distance_from_start")
    if "learning_rate" not in epochs:
        epochs = epochs.assign(learning_rate=float("nan"))
    added: dict[str, Any] = {name: 100 * floats(runs, name) for name in ACCURACIES}
    for name, table, column in (("phi", phi, "phi"), ("distance", far, "value"), ("rate", epochs, "learning_rate")):
        known = dict(zip(table["run_id"], floats(table, column), strict=True))  # the last row of each run counts
        added[name] = [known.get(run, float("nan")) for run in runs["run_id"]]
    return runs.assign(**added)


def pair(first: pd.DataFrame, second: pd.DataFrame, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a column of two sets of runs at the seeds that both have."""
    values = [dict(zip(rows["seed"], floats(rows, column), strict=True)) for rows in (first, second)]
    seeds = sorted(values[0].keys() & values[1].keys())
    small, large = (np.array([each[seed] for seed in seeds], dtype=float) for each in values)
    return small, large


def difference(first: pd.DataFrame, second: pd.DataFrame, column: str) -> Interval:
    """Return second - first, paired by seed."""
    return paired_difference(*pair(first, second, column))


def ratio(first: pd.DataFrame, second: pd.DataFrame, column: str) -> Interval:
    """Return second / first, paired by seed."""
    return paired_ratio(*pair(first, second, column))


def batch_rows(results: Results) -> pd.DataFrame:
    """Return the finished runs that differ in the batch size alone."""
    done = rows_where(results.done, network=results.arms)
    return rows_where(done.assign(swept=done["arm"].isin(["base", "batch"])), swept=True)


def warm_rows(results: Results) -> pd.DataFrame:
    """Return LB runs by how many SB epochs went before (``warm_epochs``), 0 for those from x0."""
    cold, warm = results.runs("LB", "base").assign(warm_epochs=0), results.runs("LB", "warm start")
    parts = [part for part in (cold, warm) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else cold


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
    runs, done = (rows_where(rows.assign(tried=rows["arm"].isin(["base", "rate"])), tried=True) for rows in sides)
    return tuned(runs, done)


@dataclass(frozen=True)
class Comparison:
    """Small against large batch under one condition; ``note`` says what was chosen, and names runs left out."""

    name: str
    small: pd.DataFrame
    large: pd.DataFrame
    note: str = ""


def comparisons(results: Results) -> list[Comparison]:
    """Return what the critics ask for, beginning with the paper's own condition."""
    small, empty = results.runs("SB", "base"), results.done.iloc[:0]
    best = {role: _tuned(results, role) for role in ("SB", "LB")}
    chosen = [empty if found is None else found.rows for found in best.values()]
    aimed = [results.runs(role, "equal loss") for role in ("SB", "LB")]
    reached = [rows_where(runs, ended_by=TARGET) for runs in aimed]
    short = sum(map(len, aimed)) - sum(map(len, reached))
    note = f"runs that did not reach the loss, left out: {short}" if short else ""
    return [
        Comparison("equal epochs, same rate", small, results.runs("LB", "base")),
        Comparison("equal epochs, linear rate", small, results.runs("LB", "linear rate")),
        Comparison("equal epochs, sqrt rate", small, results.runs("LB", "sqrt rate")),
        Comparison("equal epochs, tuned rates", chosen[0], chosen[1], "; ".join(_of_tuned(best))),
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

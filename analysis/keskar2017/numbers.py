"""From the tables of the study to what is compared: sharpness in each box, outcomes of runs, critics' conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs import Tables, counts, with_columns
from analysis.statistics.intervals import Interval, paired_difference, paired_ratio
from sharpness.errors import InputError
from sharpness.plots.frames import floats, records, rows_if, rows_where

ROLES = ("SB", "LB")
EPSILONS = (1e-3, 5e-4)
"""Half widths of the paper's boxes; the first is that of every comparison beyond its tables."""
SEARCHES = {"keskar": "published", "keskar_maximum": "climbed"}
LOSS = "{:.2g}".format
"""A training loss as texts have it."""
AFTER = {"SB": 0, "": 1, "LB": 2}
"""Where the ends of training that goes on from a minimum are drawn, the minimum itself between them."""
ACCURACIES = ("train_accuracy", "validation_accuracy", "test_accuracy")
LABELS = ("network", "role", "arm", "seed")
SHARPNESS = ("run_id", *LABELS, "space", "search", "epsilon", "phi", "complete", "start")


@dataclass(frozen=True)
class Results:
    """The tables with what follows from them once.

    ``done`` has a row per finished run with accuracies in per cent, ``phi`` (per cent; the sharpness by which arms are
    compared, which ``measure`` describes), ``distance_from_start`` and ``rate``, the learning rate of the last epoch,
    scaling included. ``probes`` has the records that count, ``sharpness`` a row per run, space, search and box.
    ``networks`` say by label what was trained on what; ``first`` is the label of the one whose pairs are compared in
    detail, ``arms`` of the one that things are varied on, if they are, and ``varied`` says what that was trained on,
    not for how long; ``subspace`` are the random dimensions, and ``goal`` is the training loss (nats) at which runs of
    the varied network end, if they do.
    """

    tables: Tables
    probes: pd.DataFrame
    done: pd.DataFrame
    sharpness: pd.DataFrame
    networks: Mapping[str, str]
    first: str
    arms: str
    varied: str
    subspace: int
    measure: str
    goal: float | None

    def runs(self, role: str, arm: str, network: str | None = None) -> pd.DataFrame:
        """Return the finished runs of an arm, of the varied network unless another is named."""
        return rows_where(self.done, network=network or self.arms, role=role, arm=arm)

    @property
    def held(self) -> str:
        """The settings that are equal between the runs of the varied network."""
        return "equal epochs" if self.goal is None else "equal training loss"

    def setting(self, network: str | None = None) -> str:
        """Return what a caption says last: what was trained on what, and how many runs finished."""
        where = "; ".join(self.networks.values()) if network is None else self.networks[network]
        return f"{where}. {counts(self.tables)}"

    def ended(self, *runs: pd.DataFrame) -> str:
        """Return what these runs of the varied network were trained on, and how they ended if not all at its goal."""
        rows = pd.concat(runs)
        losses = floats(rows, "train_loss")
        if self.goal is None or np.all(losses <= self.goal):
            return self.networks[self.arms]
        limit = f"to a training loss of {self.goal:g} or for {span(floats(rows, 'epochs'))} epochs"
        return f"{self.varied}, {limit} with {rows['optimizer'].iloc[0]}; these end at {span(losses, LOSS)} nats"


def results_of(tables: Tables, settings: Mapping[str, Any]) -> Results:
    """Return the results of a study with these settings, the fields of its preset."""
    cases = [case for case in (*settings["pairs"], settings["arms"]) if case is not None]
    p = settings["compare"]["subspace"]
    probes = records_that_count(tables)
    sharpness, where = sharpness_table(probes), "full space" if p is None else f"{p} random dimensions"
    return Results(
        tables=tables,
        probes=probes,
        done=outcomes(tables, probes, sharpness, "full" if p is None else "subspace"),
        sharpness=sharpness,
        networks={case["label"]: f"{_trained_on(case)}, {_length(case)}" for case in cases},
        first=cases[0]["label"],
        arms=cases[-1]["label"],
        varied=_trained_on(cases[-1]),
        subspace=settings["subspace"],
        measure=f"Metric 2.1, {where}, epsilon {EPSILONS[0]:g}, as published",
        goal=cases[-1]["base"]["budget"]["train_loss"],
    )


def span(values: NDArray[np.float64], text: Callable[[float], str] = "{:g}".format) -> str:
    """Return the range of numbers as ``text`` shows them, or the one number that all are.

    >>> span(np.array([0.0769, 0.384]), "{:.2g}".format), span(np.array([300.0, 300.0]))
    ('0.077 to 0.38', '300')
    """
    low, high = (text(float(x)) for x in (np.min(values), np.max(values)))
    return low if low == high else f"{low} to {high}"


def _trained_on(case: Mapping[str, Any]) -> str:
    data = case["base"]["data"]
    images = "" if data["num_train"] is None else f", {data['num_train'] - data['num_validation']} examples"
    tests = "" if data["num_test"] is None else f" and the first {data['num_test']} of the test set"
    noise = "" if not data["label_noise"] else f", {100 * data['label_noise']:g} % of the labels drawn at random"
    return f"{case['label']} on {data['name']}{images}{noise}{tests}, batches {case['small']} and {case['large']}"


def _length(case: Mapping[str, Any]) -> str:
    training, goal = case["base"]["training"], case["base"]["budget"]["train_loss"]
    length = f"{training['epochs']} epochs of" if goal is None else f"to a training loss of {goal:g} with"
    return f"{length} {training['optimizer']}"


def records_that_count(tables: Tables) -> pd.DataFrame:
    """Return the records of all examples, and of lines and arcs those that end at the final LB weights of the seed."""
    probes, runs = tables.probes, tables.finished
    large = rows_where(runs, role="LB", arm="base")
    ends = {(row["network"], row["seed"]): row.get("checkpoint_sha256") for row in records(large)}
    counted = []
    for row in records(probes):
        details = row["details"]
        whole = details.get("subset") is None or row["probe"] == "pyhessian"
        counted.append(
            whole and details.get("other_checkpoint_sha256") in (None, ends.get((row["network"], row["seed"])))
        )
    return rows_if(probes, counted)


def sharpness_table(probes: pd.DataFrame) -> pd.DataFrame:
    """Return Metric 2.1 (per cent) of every run: by space (full, subspace), search (published, climbed) and epsilon."""
    kept = {}
    for row in records(probes):
        if row["probe"] not in SEARCHES or row["value"] is None:
            continue
        space = "full" if row["knobs"].get("subspace") is None else "subspace"
        shared = {name: row[name] for name in ("run_id", *LABELS)} | {"space": space, "search": SEARCHES[row["probe"]]}
        shared |= {"complete": bool(row["converged"]), "start": row["details"].get("start")}
        for box in _boxes(row):
            key = (row["run_id"], space, row["probe"], box["epsilon"])
            kept[key] = shared | {name: box[name] for name in ("epsilon", "phi")}
    return pd.DataFrame(list(kept.values()), columns=pd.Index(SHARPNESS))


def _boxes(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = row["details"]
    if row["probe"] == "keskar_maximum":
        return details["boxes"]
    second = details.get("second")
    return [{"epsilon": details["epsilon"], "phi": row["value"]}, *([second] if second else [])]


def outcomes(tables: Tables, probes: pd.DataFrame, sharpness: pd.DataFrame, space: str) -> pd.DataFrame:
    """Return the finished runs with what :class:`Results` says of ``done``."""
    runs, epochs = tables.finished, with_columns(tables.epochs, ["learning_rate"])
    phi = rows_where(sharpness, space=space, search="published", epsilon=EPSILONS[0])
    far = rows_where(probes, quantity="distance_from_start")
    return runs.assign(
        **{name: 100 * floats(runs, name) for name in ACCURACIES},
        phi=of_runs(runs, phi, "phi"),
        distance_from_start=of_runs(runs, far, "value"),
        rate=of_runs(runs, epochs, "learning_rate"),
    )


def of_runs(runs: pd.DataFrame, rows: pd.DataFrame, column: str) -> list[float]:
    """Return the last value of each run in a column of other rows, NaN without any."""
    known = dict(zip(rows["run_id"], floats(rows, column), strict=True))
    return [known.get(run, float("nan")) for run in runs["run_id"]]


def solutions(results: Results) -> pd.DataFrame:
    """Return the finished runs of the first network's pairs, SB before LB, with what is compared in detail.

    To ``done`` come ``top_eigenvalue`` (nats) with ``lower``, ``upper`` and ``confidence`` of its interval, ``trace``
    (nats), ``worst_case`` (nats; the adaptive one, which no rescaling moves) and ``keskar_sharpness``, phi in the full
    space.
    """
    runs = pd.concat([results.runs(role, "base", results.first) for role in ROLES], ignore_index=True)
    top, trace, worst = (rows_where(results.probes, probe=name) for name in ("eigenvalues", "trace", "worst_case"))
    return runs.assign(
        top_eigenvalue=of_runs(runs, top, "value"),
        trace=of_runs(runs, trace, "value"),
        worst_case=of_runs(runs, worst, "value"),
        **{name: of_runs(runs, top, name) for name in ("lower", "upper", "confidence")},
        keskar_sharpness=of_runs(runs, _published(results), "phi"),
    )


def _published(results: Results) -> pd.DataFrame:
    """Return Metric 2.1 of the first network's pairs as it is published: full space, the larger box."""
    box = {"space": "full", "search": "published", "epsilon": EPSILONS[0]}
    return rows_where(results.sharpness, network=results.first, arm="base", **box)


def start_of_search(results: Results) -> str | None:
    """Return where the search for Metric 2.1 started, which is part of what was measured; ``None`` without records.

    Raises :class:`InputError` where the pairs of the first network were measured from different starts.
    """
    starts = sorted({str(start or "not stated") for start in _published(results)["start"]})
    if len(starts) > 1:
        raise InputError(f"expected one start of Metric 2.1 in all runs, got {starts}: measure all runs alike")
    return starts[0] if starts else None


def drawable(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the rows of :func:`solutions` that have a test accuracy and a positive sharpness of this kind."""
    return rows_if(table, np.isfinite(floats(table, "test_accuracy")) & (floats(table, quantity) > 0))


def not_positive(table: pd.DataFrame, quantity: str) -> int:
    """Return how many measured values are zero or negative and so cannot stand on a logarithmic axis."""
    return int(np.sum(floats(table, quantity) <= 0))


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
    return rows_if(done, done["arm"].isin(["base", "batch"]))


def warm_rows(results: Results) -> pd.DataFrame:
    """Return LB runs by how many SB epochs went before (``warm_epochs``), 0 for those from x0."""
    cold, warm = results.runs("LB", "base").assign(warm_epochs=0), results.runs("LB", "warm start")
    parts = [part for part in (cold, warm) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else cold


def how_it_goes_on(results: Results) -> str:
    """Return for how long training goes on from the minima that SB and LB found.

    It has no training loss as its goal, so that what has noise and what has none train equally long.
    """
    table = results.done
    rows = rows_if(table, table["arm"].isin([f"from {role}" for role in ROLES]))
    if rows.empty:
        return "no training goes on from a minimum"
    epochs, optimizer = span(floats(rows, "epochs")), rows["optimizer"].iloc[0]
    return f"SB and LB go on for {epochs} epochs of {optimizer} from where each ended, whatever the training loss"


def going_on(results: Results) -> pd.DataFrame:
    """Return the minima of SB and LB, and where SB and LB end that go on from each.

    Columns: ``minimum``, the role that found it, ``after``, the role that goes on, empty for the minimum itself,
    ``place``, where it is drawn, ``seed``, ``phi``, ``test_accuracy`` and ``train_loss``; minima from which nothing
    goes on are left out.
    """
    parts = []
    for role in ROLES:
        ends = {after: results.runs(after, f"from {role}") for after in ROLES}
        seeds = [seed for rows in ends.values() for seed in rows["seed"]]
        start = results.runs(role, "base")
        ends |= {"": rows_if(start, start["seed"].isin(seeds))}
        parts += [rows.assign(minimum=role, after=after, place=AFTER[after]) for after, rows in ends.items()]
    columns = ["minimum", "after", "place", "seed", "phi", "test_accuracy", "train_loss"]
    return pd.concat(parts, ignore_index=True).filter(columns)

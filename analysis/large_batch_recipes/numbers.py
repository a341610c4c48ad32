"""The numbers of the large-batch recipes: tuned and rule-given rates, errors, steps and projected times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.large_batch_recipes.allreduce import ALLREDUCE, Cluster, step_seconds
from analysis.runs import Tables
from analysis.statistics.intervals import (
    NUM_RESAMPLES,
    Interval,
    exponential,
    paired_difference,
    paired_ratio,
    student,
)
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

COLUMNS = ("recipe", "batch", "seed", "value", "updates", "diverged", "held_out", "test", "steps")
CHANCE = 90.0
"""Error in % of a guess, which a network that diverged counts as."""
USABLE = 50.0
"""A rate at which a network ends with a smaller held-out error, in %, is one that it can be trained with."""
WORKERS = tuple(4**k for k in range(7))
UNNORMED = ("plain", "warm-up", "LARS")
"""The recipes of the network without norms, whose best one gives the steps to the goal."""


class Arm(NamedTuple):
    """A recipe with the rule for its rate; the rules start from the rate tuned at the base batch of ``base``."""

    recipe: str
    rule: str
    base: str = "plain"


ARMS: Mapping[str, Arm] = {
    "linear": Arm("plain", "linear"),
    "tuned": Arm("plain", "tuned"),
    "linear + warm-up": Arm("warm-up", "linear"),
    "warm-up, tuned": Arm("warm-up", "tuned"),
    "LARS, tuned": Arm("LARS", "tuned"),
    "BatchNorm, constant rate": Arm("BatchNorm", "constant", "BatchNorm"),
    "BatchNorm, sqrt": Arm("BatchNorm", "sqrt", "BatchNorm"),
    "BatchNorm, tuned": Arm("BatchNorm", "tuned", "BatchNorm"),
    "sqrt + ghosts": Arm("ghosts", "sqrt", "BatchNorm"),
    "ghosts, tuned": Arm("ghosts", "tuned", "BatchNorm"),
    "sqrt + ghosts + longer": Arm("ghosts, longer", "sqrt", "BatchNorm"),
}
"""What is compared, by name."""


def outcomes(tables: Tables) -> pd.DataFrame:
    """Return the rows of all networks with their errors in %, that of a guess where one diverged."""
    rows = tables.rows("sweep", *COLUMNS).loc[:, list(COLUMNS)]
    diverged = np.asarray(rows["diverged"], dtype=bool)
    errors = {name: np.where(diverged, CHANCE, 100 * floats(rows, name)) for name in ("held_out", "test")}
    return rows.assign(**errors, steps=floats(rows, "steps"), value=floats(rows, "value"))


def of_seeds(rows: pd.DataFrame, settings: Mapping[str, Any], tuning: bool) -> pd.DataFrame:
    """Return the rows of the seeds that choose the values, or of those whose errors are told."""
    return rows_if(rows, np.isin(rows["seed"], list(settings["tuning_seeds"])) == tuning)


def tuned(rows: pd.DataFrame, settings: Mapping[str, Any], recipe: str, batch: int) -> float | None:
    """Return the value with the lowest mean held-out error of the tuning seeds, of equals the smallest."""
    own = rows_where(of_seeds(rows, settings, tuning=True), recipe=recipe, batch=batch)
    values, errors = floats(own, "value"), floats(own, "held_out")
    means = [(float(errors[values == value].mean()), float(value)) for value in np.unique(values[np.isfinite(values)])]
    return min(means)[1] if means else None


def base_batch(settings: Mapping[str, Any], arm: Arm) -> int:
    """Return the batch that the rule of an arm starts from."""
    return settings["base" if arm.base == "plain" else "norm_base"]["training"]["batch_size"]


def value_of(rows: pd.DataFrame, settings: Mapping[str, Any], arm: Arm, batch: int) -> float | None:
    """Return the value that an arm has at a batch: the tuned one, or what its rule makes of that of the base batch."""
    if arm.rule == "tuned":
        return tuned(rows, settings, arm.recipe, batch)
    base = base_batch(settings, arm)
    start = tuned(rows, settings, arm.base, base)
    ratio = batch / base
    return None if start is None else start * {"constant": 1.0, "sqrt": ratio**0.5, "linear": ratio}[arm.rule]


def arms_of(rows: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return the networks of every arm at every batch, of the seeds that are told: a row for each, with ``error``.

    An arm whose rule gives a rate that was not tried, such as one far beyond the edge of stability, has none.
    """
    told, parts = of_seeds(rows, settings, tuning=False), []
    for name, arm in ARMS.items():
        for batch, own in groups(rows_where(told, recipe=arm.recipe), "batch"):
            value = value_of(rows, settings, arm, batch)
            near = [] if value is None else np.isclose(floats(own, "value"), value)
            if np.any(near):
                parts.append(rows_if(own, near).assign(arm=name))
    columns = ["arm", "batch", "value", "seed", "updates", "diverged", "error", "steps"]
    if not parts:
        return pd.DataFrame(columns=pd.Index(columns))
    return pd.concat(parts, ignore_index=True).rename(columns={"test": "error"}).loc[:, columns]


def excess(arms: pd.DataFrame, one: tuple[str, int], other: tuple[str, int]) -> Interval:
    """Return by how many percentage points the error of ``other`` is above that of ``one``, paired by seed."""
    parts = (rows_where(arms, arm=arm, batch=batch) for arm, batch in (one, other))
    first, second = (dict(zip(part["seed"], floats(part, "error"), strict=True)) for part in parts)
    for (arm, batch), found in zip((one, other), (first, second), strict=True):
        if not found:
            return Interval(None, None, None, 0, f"{arm} at batch {batch} was not tried")
    seeds = sorted(first.keys() & second.keys())
    return paired_difference(*(np.array([part[seed] for seed in seeds], dtype=float) for part in (first, second)))


def error_of(arms: pd.DataFrame, place: tuple[str, int]) -> float:
    """Return the mean error of an arm at a batch, NaN where it was not tried."""
    found = floats(rows_where(arms, arm=place[0], batch=place[1]), "error")
    return float(found.mean()) if len(found) else float("nan")


def mean_errors(arms: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the mean error of an arm at each batch with its 95 % interval over seeds."""
    rows = []
    for batch, own in groups(rows_where(arms, arm=name), "batch"):
        found = student(floats(own, "error"))
        value = float(floats(own, "value")[0])
        numbers = {"error": found.value, "lower": found.lower, "upper": found.upper}
        rows.append({"arm": name, "batch": batch, "value": value, "seeds": len(own), **numbers})
    columns = pd.Index(["arm", "batch", "value", "seeds", "error", "lower", "upper"])
    return pd.DataFrame(rows, columns=columns)


def best_batch(arms: pd.DataFrame, name: str, seed: int = 0) -> Interval:
    """Return the batch with the lowest mean error of an arm, with its percentile bootstrap over the seeds.

    Seeds without all the batches are left out. Of batches with equal errors the smallest counts.
    """
    table = rows_where(arms, arm=name).pivot_table(index="seed", columns="batch", values="error").dropna()
    if len(table) < 2 or table.shape[1] < 2:
        return Interval(None, None, None, len(table), "needs at least 2 seeds with all of at least 2 batches")
    values, batches = table.to_numpy(dtype=float), table.columns.to_numpy(dtype=float)
    draws = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    found = batches[np.argmin(values[draws].mean(axis=1), axis=1)]
    lower, upper = np.percentile(found, [2.5, 97.5], method="nearest")
    return Interval(float(batches[np.argmin(values.mean(axis=0))]), float(lower), float(upper), len(values))


def usable(rows: pd.DataFrame, settings: Mapping[str, Any], recipe: str, batch: int) -> dict[int, float]:
    """Return for each tuning seed the largest rate tried, per image of the batch, that it can be trained with.

    They are trained with every rate. Seeds for which that is the largest or none of those tried are left out: where it
    lies is not known.
    """
    own, found = rows_where(of_seeds(rows, settings, tuning=True), recipe=recipe, batch=batch), {}
    for seed, part in groups(own, "seed"):
        part = part.sort_values("value")
        fine = floats(part, "held_out") < USABLE
        if fine.any() and not fine[-1]:
            found[seed] = float(floats(part, "value")[fine].max()) / batch
    return found


def usable_ratio(rows: pd.DataFrame, settings: Mapping[str, Any], small: int, large: int) -> Interval:
    """Return the largest usable rate per image at a large batch over that at a small one, paired by seed."""
    under, over = (usable(rows, settings, "plain", batch) for batch in (small, large))
    seeds = sorted(under.keys() & over.keys())
    if len(seeds) < 2:
        return Interval(None, None, None, len(seeds), "the largest usable rate lies outside those tried")
    return paired_ratio([under[seed] for seed in seeds], [over[seed] for seed in seeds])


def fastest_runs(rows: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return for each batch the recipe and value that reach the goal soonest, without norms, and their steps.

    All networks of them must reach it, and of those that do they are chosen by the median of the tuning seeds;
    ``steps`` are the geometric mean of the others with its 95 % interval. That those told reach it had to be asked too:
    at the largest batch the fastest of the tuning seeds was reached by two of six.
    """
    found = []
    for batch, at in groups(rows_if(rows, [recipe in UNNORMED for recipe in rows["recipe"]]), "batch"):
        fastest: tuple[float, str, float, Interval] | None = None
        for recipe, of_recipe in groups(at, "recipe"):
            for value, own in groups(of_recipe, "value"):
                tuning, told = (floats(of_seeds(own, settings, tuning=each), "steps") for each in (True, False))
                if len(told) and np.isfinite([*tuning, *told]).all():
                    median = float(np.median(tuning))
                    if fastest is None or median < fastest[0]:
                        fastest = (median, recipe, value, exponential(student(np.log(told))))
        if fastest is not None:
            _, recipe, value, mean = fastest
            numbers = {"steps": mean.value, "lower": mean.lower, "upper": mean.upper, "seeds": mean.n}
            found.append({"batch": batch, "recipe": recipe, "value": value} | numbers)
    return pd.DataFrame(found, columns=pd.Index(["batch", "recipe", "value", "steps", "lower", "upper", "seeds"]))


def projection(fastest: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return the seconds to the goal for each topology, number of workers and batch: steps times seconds per step."""
    cluster, rows = Cluster(**settings["cluster"]), []
    for topology in ALLREDUCE:
        for workers in WORKERS:
            for row in records(fastest):
                step = step_seconds(topology, row["batch"], workers, settings["parameters"], cluster)
                names = {"seconds": "steps", "lower": "lower", "upper": "upper"}
                times = {name: None if row[of] is None else step * row[of] for name, of in names.items()}
                place = {"topology": topology, "workers": workers, "batch": int(row["batch"]), "recipe": row["recipe"]}
                rows.append(place | times)
    columns = ["topology", "workers", "batch", "recipe", "seconds", "lower", "upper"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def fastest_batches(projected: pd.DataFrame) -> pd.DataFrame:
    """Return for each topology and number of workers the batch that gets to the goal first."""
    if projected.empty:
        return projected
    return projected.loc[projected.groupby(["topology", "workers"])["seconds"].idxmin()]

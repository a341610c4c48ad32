"""What the searches say together: how far the steps of every workload scale, and what tells it beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.runs import Tables
from analysis.shallue2018 import numbers as of
from analysis.statistics.fits import Hyperbola, Regimes, hyperbola, regimes, scaling_overhead
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import rows_where

FIRST, LAST = 16, 8
"""Slopes at either end are taken over the batch sizes within these factors of the smallest and of the largest."""


@dataclass(frozen=True)
class Workload:
    """How far one workload scales: ``steps`` of its searches, a row each, at its ``batches``.

    ``overhead`` is the largest batch size measured up to which steps stay within 20 % of perfect scaling, ``first`` and
    ``last`` the slopes of log steps at the smallest and the largest batch sizes, ``rate`` the slope of the best
    effective learning rate, ``noise`` B_simple, and ``edges`` how many best trials lie at the edge of their range.
    """

    batches: of.Floats
    steps: of.Floats
    hyperbola: Hyperbola
    overhead: Interval
    first: Interval
    last: Interval
    rate: Interval
    noise: Interval
    edges: int
    edges_momentum: int

    @cached_property
    def regimes(self) -> Regimes:
        """Where perfect scaling ends and where steps stop falling."""
        return regimes(self.batches, self.steps)


@dataclass(frozen=True)
class Results:
    """The study as read, its trials and the best of each search, and every workload by name."""

    tables: Tables
    settings: Mapping[str, Any]
    trials: pd.DataFrame
    best: pd.DataFrame
    solutions: pd.DataFrame
    workloads: Mapping[str, Workload]

    def named(self, comparison: str) -> list[str]:
        """Return the workloads of a comparison (``optimisers``, ``networks`` or ``data``), the reference first."""
        return list(self.settings[comparison])

    def of(self, workload: str) -> Mapping[str, Any]:
        """Return the settings of a workload."""
        return self.settings["workloads"][workload]

    def budget(self, workload: str, batch_size: int) -> int:
        """Return the step budget of a trial."""
        own = self.of(workload)
        return own["steps"] + math.ceil(own["examples"] / batch_size)


def results(tables: Tables, settings: Mapping[str, Any]) -> Results:
    """Return what the runs say."""
    trials = of.goal_trials(tables.runs)
    best = of.best_trials(trials)
    names = list(settings["workloads"])
    workloads = {name: _workload(name, best, tables, settings) for name in names}
    return Results(tables, settings, trials, best, of.best_solutions(tables.runs), workloads)


def _workload(name: str, best: pd.DataFrame, tables: Tables, settings: Mapping[str, Any]) -> Workload:
    batches, steps = of.curve(best, name)
    own = rows_where(best, workload=name)
    space = settings["workloads"][name]["space"]
    low, high = space["one_minus_momentum"]
    searched = settings["workloads"][name]["optimizer"] != "sgd" and low < high
    noise = of.noise_scales(tables.probes, best, name, settings["base_batch"])
    return Workload(
        batches=batches,
        steps=steps,
        hyperbola=hyperbola(batches, steps),
        overhead=scaling_overhead(batches, steps),
        first=of.slope(own, "steps", batches[batches <= FIRST * batches.min()]),
        last=of.slope(own, "steps", batches[batches >= batches.max() / LAST]),
        rate=of.slope(own, "effective_rate", batches),
        noise=of.mean_of(noise),
        edges=of.at_edge(own, *space["rates"]),
        edges_momentum=of.at_edge(own, low, high, column="momentum") if searched else 0,
    )

"""The report on the edge of stochastic stability: where batch sharpness and eigenvalue settle, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims2026.stochastic_edge.figures import history_figure, plateau_figure
from analysis.claims2026.stochastic_edge.numbers import by_setting, compared, histories, settled
from analysis.report.findings import Finding, over_all, variants, with_variants
from analysis.report.numbers import ratio
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, rows_if, rows_where

AT_PLATEAU = Range(
    0.84,
    1.19,
    "the rates are a factor of 1.4 apart, so within its square root a number is nearer to its own plateau than to that "
    "of the next rate",
    ratio=True,
)
BELOW = Range(-np.inf, 1.0, "the edge itself", ratio=True, ends=())
LOWER = Least(1.1, "a tenth; a median is known better than single eigenvalues are", ratio=True)
HIGHER = Least(1.7, "half of the way, in logarithms, between plateaus that are a factor of 3 apart", ratio=True)
"""The rules are those of the study of Cohen et al., and were fixed before any run of this one.

That the eigenvalue lies below batch sharpness was asked after the runs, by the rule that was there for smaller batches.
"""
at_plateau, below = (partial(judge_within, allowed=each) for each in (AT_PLATEAU, BELOW))
lower, higher = partial(judge, null=1.0, direction=-1, least=LOWER), partial(judge, null=1.0, direction=1, least=HIGHER)


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table and the verdicts."""
    history, runs, note = histories(tables), settled(tables), counts(tables)
    drawings = {
        "plateaus": partial(plateau_figure, runs, note),
        "histories": partial(history_figure, history, note),
    }
    if runs.empty:
        return Report(Drawings(drawings), [], ["No run finished: no number and no verdict is given."])
    found = [*plain(runs, describe(settings)), *with_momentum(runs, describe(settings))]
    return Report(Drawings(drawings), [plateau_table(runs, note)], [], found)


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    data = settings["data"]
    return (
        f"cohen_tanh with the square loss on {data['num_train']} images of {data['name']}, {settings['seeds']} seeds, "
        "second half of training"
    )


def plain(runs: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdicts on SGD without momentum."""
    own = rows_where(runs, momentum=0.0)
    small, large = (rows_where(own, batch_size=each) for each in (own["batch_size"].min(), own["batch_size"].max()))
    sizes = compared(large, small, "top", "learning_rate")
    claims = {
        "SGD: batch sharpness settles at 2 / eta (median in units of it)": (by_setting(own, "batch"), at_plateau),
        "SGD: the eigenvalue stays below 2 / eta (median in units of it)": (by_setting(own, "top"), below),
        "SGD: the eigenvalue is lower for smaller batches (smallest over largest)": (sizes, lower),
        "SGD: the eigenvalue lies below batch sharpness (median over median)": (
            by_setting(own, "top_over_batch"),
            lower,
        ),
    }
    first, *others, last = judged(claims, setting)
    means = {f"g'Hg and g'g averaged apart, {name}": each for name, each in by_setting(own, "means").items()}
    momentum = by_setting(rows_if(runs, floats(runs, "momentum") > 0), "top_over_batch")
    return [
        with_variants(first, *variants(means, ratio, at_plateau)),
        *others,
        with_variants(last, *variants(momentum, ratio, lower)),
    ]


def with_momentum(runs: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdicts on momentum: both plateaus, and how far apart they are."""
    own = rows_if(runs, floats(runs, "momentum") > 0)
    smallest, full = own["batch_size"].min(), own["batch_size"].max()
    small, large = rows_where(own, batch_size=smallest), rows_where(own, batch_size=full)
    claims = {
        f"Momentum, small batches: batch sharpness settles at 2 (1 - b) / eta (B = {smallest}, in units of it)": (
            by_setting(small, "over_lower"),
            at_plateau,
        ),
        "Momentum, full batch: batch sharpness settles at 2 (1 + b) / eta (in units of it)": (
            by_setting(large, "over_upper"),
            at_plateau,
        ),
        f"Momentum: batch sharpness rises with the batch (full over B = {smallest})": (
            compared(small, large, "batch", "learning_rate"),
            higher,
        ),
    }
    return judged(claims, setting)


def judged(
    claims: Mapping[str, tuple[Mapping[str, Interval], Callable[[Interval], Judged]]], setting: str
) -> list[Finding]:
    """Return the finding on each claim, which has its numbers by setting and its rule."""
    return [
        over_all(claim, setting, "plateaus", numbers, ratio, rule, log=True)
        for claim, (numbers, rule) in claims.items()
    ]


def plateau_table(runs: pd.DataFrame, note: str) -> TextTable:
    """Return for each setting where both curvatures settled, in units of the plateaus."""
    columns = {"batch": "2 / η", "over_lower": "2 (1 - b) / η", "over_upper": "2 (1 + b) / η"}
    columns |= {"means": "averaged apart, 2 / η", "top": "λ_max, 2 / η"}
    numbers = {name: by_setting(runs, name) for name in columns}
    text = [[place, *(ratio(numbers[name][place]) for name in columns)] for place in numbers["batch"]]
    caption = (
        "Median batch sharpness in the second half of training in units of three edges, the same with g'Hg and g'g of "
        "the batches averaged apart, and the median top eigenvalue, both in units of 2 / η: geometric means over "
        f"seeds with 95 % intervals. b: momentum, B: batch size. {note}"
    )
    header = ["setting", *columns.values()]
    return TextTable("plateau_table", "Where curvature settles", header, text, runs, caption)

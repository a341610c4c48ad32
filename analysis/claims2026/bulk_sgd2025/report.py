"""The report on learning and the top eigenspace: what is learnt within it and without it, and the verdicts.

The claims are those of arXiv 2405.16002, as scripts/claims2026/bulk_sgd2025.py names them and what was read of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims2026.bulk_sgd2025.figures import branches_figure, falls_figure
from analysis.claims2026.bulk_sgd2025.numbers import approaches, arms, by_arm, less, over_seeds, summaries, walks
from analysis.report.findings import Finding, over_all, variants, with_variants
from analysis.report.numbers import difference
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import rows_where

METHODS = ("SGD", "gradient descent", "momentum", "Adam", "SAM")
MOST = "more than half of the squared length: the majority, which the abstract says is removed"
MAJORITY = Range(0.5, np.inf, MOST, ends=((0.8, np.inf), (0.9, np.inf)))
MINORITY = Range(-np.inf, 0.5, MOST, ends=((-np.inf, 0.2), (-np.inf, 0.1)))
FIFTH = 0.2
LITTLE = "a fifth of what the whole updates learn; curves this far apart are told apart by eye"
NOTHING, AS_MUCH = Range(-np.inf, FIFTH, LITTLE), Range(1 - FIFTH, np.inf, LITTLE, about=1.0)
AT_EDGE = Range(0.84, 1.19, "that of the study of stochastic stability: the square root of 1.4 on either side")
LESS = Least(0.1, "a tenth of the update")
"""Rates and lengths were chosen on seed 7, none of the study's; the rules were written down after that pilot."""
Rule = tuple[str, str, Range]
CLAIMS: tuple[Rule, ...] = (
    ("the gradient lies in the top eigenspace (share of its squared length)", "share", MAJORITY),
    ("updates within it learn nothing (share of the fall of the loss)", "dominant", NOTHING),
    ("updates without it learn as much as whole ones (share of the fall of the loss)", "bulk", AS_MUCH),
)
"""What is claimed of every method, the column that it is about, and the range."""


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table and the verdicts."""
    walked, before, summary, note = walks(tables), approaches(tables), summaries(tables), counts(tables)
    drawings = {
        "falls": partial(falls_figure, summary, note),
        "branches": partial(branches_figure, walked, before, arms(summary), settings["settle"], note),
    }
    if summary.empty:
        return Report(Drawings(drawings), [], ["No branch was measured: no number and no verdict is given."])
    return Report(Drawings(drawings), [falls_table(summary, note)], freshness(summary), findings(summary, settings))


def freshness(summary: pd.DataFrame) -> list[str]:
    """Say how much of the eigenspace was still the same where it was found anew."""
    kept = {arm: over_seeds(rows_where(summary, arm=arm), "kept").value for arm in arms(summary)}
    known = {arm: value for arm, value in kept.items() if value is not None}
    if not known:
        return []
    least = min(known, key=known.__getitem__)
    return [f"Found anew, the top eigenspace held {known[least]:.3f} of the last one or more; least with {least}."]


def findings(summary: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim."""
    setting = describe(settings)
    found = [of_method(summary, method, rule, setting) for method in METHODS for rule in CLAIMS]
    early = {"first half of training before": by_arm(summary, "SGD", "early_share")}
    early["the batches' own updates"] = by_arm(summary, "SGD", "update_share")
    first = {name: next(iter(each.values())) for name, each in early.items() if each}
    found[0] = with_variants(found[0], *variants(first, unsigned, partial(judge_within, allowed=MAJORITY)))
    return [*found, *of_causes(summary, setting)]


def unsigned(interval: Interval) -> str:
    """Return a number that may be negative with its interval, without the sign of a difference.

    >>> unsigned(Interval(0.05, -0.02, 0.12, 5))
    '0.05 [-0.02, 0.12]'
    """
    return difference(interval).replace("+", "")


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    base, solver = settings["base"], settings["solver"]
    return (
        f"{base['model']['name']} with the square loss on {base['data']['num_train']} images of "
        f"{base['data']['name']}, {solver['k']} eigenvectors, {settings['seeds']} seeds"
    )


def of_method(summary: pd.DataFrame, method: str, rule: Rule, setting: str) -> Finding:
    """Return the verdict on one claim for one method."""
    words, column, allowed = rule
    within = partial(judge_within, allowed=allowed)
    return over_all(f"{method}: {words}", setting, "falls", by_arm(summary, method, column), unsigned, within)


def of_causes(summary: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdicts on what the alignment is due to, and on where adaptive optimisers move."""
    after = {arm: each for arm, each in by_arm(summary, "SGD", "later_share").items() if each.value is not None}
    minority = partial(judge_within, allowed=MINORITY)
    claim = "SGD: noise is the cause, with full batches at the same rate the gradient leaves the space (share of it)"
    found = [over_all(claim, setting, "branches", after, unsigned, minority)]
    claim = "Gradient descent is here at the edge of stability (largest eigenvalue over 2 / eta)"
    at_edge = partial(judge_within, allowed=AT_EDGE)
    found.append(
        over_all(claim, setting, "falls_table", by_arm(summary, "gradient descent", "edge"), unsigned, at_edge)
    )
    claim = "Adam moves more outside of the top eigenspace than SGD (share of the update in it, Adam less SGD)"
    apart = {method: less(summary, method, "update_share") for method in ("Adam", "momentum")}
    lower = partial(judge, null=0.0, direction=-1, least=LESS)
    return [*found, over_all(claim, setting, "falls_table", apart, difference, lower)]


def falls_table(summary: pd.DataFrame, note: str) -> TextTable:
    """Return for each way to train the shares in the eigenspace and of the fall of the loss."""
    columns = {
        "share": "gradient",
        "update_share": "update",
        "fall": "fall of ln loss",
        "dominant": "within",
        "bulk": "without",
    }
    text = list[list[str]]()
    for arm in arms(summary):
        numbers = {name: over_seeds(rows_where(summary, arm=arm), name) for name in columns}
        text.append([arm, *map(unsigned, numbers.values())])
    caption = (
        "Shares of gradient and update in the top eigenspace while training goes on, the fall of the logarithm of the "
        "loss, and how much of it is there with updates within that space and without it. Means over seeds with 95 % "
        f"intervals. {note}"
    )
    return TextTable("falls_table", "Within and without", ["", *columns.values()], text, summary, caption)

"""The edge of stability: what the runs of Cohen et al. (2021, arXiv 2103.00065) in small show, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.cohen2021.figures import edge_figure, eigenvalue_figure
from analysis.cohen2021.numbers import histories, over_seeds, per_run
from analysis.report.numbers import ABSENT, difference, mean_and_std, ratio, significant
from analysis.report.report import Report, TextTable, drawn_all
from analysis.report.verdicts import Finding, judge, judge_value
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval, summarise
from sharpness.plots.frames import floats, rows_where

AT_EDGE = (0.9, 1.2)
"""The range in which the median of eigenvalue / edge, with its whole interval over the seeds, is at the edge."""
SQUARE_LOSS = "the trainer has the cross-entropy alone, so the paper's main setting is not run"


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table and the verdicts."""
    accuracy = float(settings["fitted_accuracy"])
    history, runs = histories(tables), per_run(tables, accuracy)
    note = counts(tables)
    drawings = drawn_all(
        {
            "eigenvalue": lambda: eigenvalue_figure(history, tables.epochs, runs, accuracy, note),
            "edge": lambda: edge_figure(runs, AT_EDGE, note),
        }
    )
    return Report(drawings, [edge_table(runs, note)], sentences(tables, runs), findings(tables, runs, settings))


def findings(tables: Tables, runs: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim, by rules that were fixed before the first run but for one, which says so."""
    setting = describe(tables, settings)
    descent = rows_where(runs, arm="GD")
    found = [
        _finding(
            "the top eigenvalue rises until it reaches 2 / eta (there, over its first)",
            setting,
            descent,
            "growth",
            above=1.0,
        )
    ]
    for arm, where in (
        ("GD", "2 / eta"),
        ("Polyak", "(2 + 2b) / eta"),
        ("Nesterov", "(2 + 2b) / (eta (1 + 2b))"),
        ("GD, ReLU", "2 / eta"),
    ):
        claim = f"{arm}: the eigenvalue then stays at {where}"
        found.append(_finding(claim, setting, rows_where(runs, arm=arm), "hover", within=AT_EDGE, figure="edge"))
    rises = over_seeds(descent, "rises_after", "rises_before")
    verdict, why = judge(rises, 0, 1)
    claim = "at the edge the loss rises at some updates, more often than before it"
    found.append(Finding(claim, setting, "eigenvalue", _points(rises), verdict, why))
    claim = "at the edge the loss falls over many updates"
    found.append(_finding(f"{claim} (at the end over at the onset)", setting, descent, "loss_ratio", below=1.0))
    small = rows_where(runs, arm="SGD")
    claim = "SGD in small batches stays below 2 / eta (largest eigenvalue in units of it)"
    found.append(_finding(claim, setting, small, "peak", below=1.0, figure="edge"))
    # Added after one seed, in which single measurements of SGD lay above: both are shown, neither replaces the other.
    claim = "SGD in small batches is mostly below 2 / eta (median in units of it; claim added after the first seed)"
    found.append(_finding(claim, setting, small, "typical", below=1.0, figure="edge_table"))
    claim = "with cross-entropy the eigenvalue falls again at the end of training (last over median at the edge)"
    found.append(_finding(claim, setting, descent, "late", below=1.0))
    claim = "the same for the square loss, the paper's main setting"
    return [*found, Finding(claim, setting, "eigenvalue", ABSENT, "not testable here", SQUARE_LOSS)]


def _finding(
    claim: str,
    setting: str,
    runs: pd.DataFrame,
    column: str,
    *,
    above: float | None = None,
    below: float | None = None,
    within: tuple[float, float] | None = None,
    figure: str = "eigenvalue",
) -> Finding:
    interval = over_seeds(runs, column)
    if within is not None:
        verdict, why = judge_value(interval, *within)
    elif above is not None:
        verdict, why = judge(interval, above, 1)
    else:
        assert below is not None
        verdict, why = judge(interval, below, -1)
    have = int(np.isfinite(floats(runs, column)).sum())
    return Finding(
        claim, setting, figure, ratio(interval), verdict, f"{why}; {have} of {len(runs)} runs have the number"
    )


def _points(interval: Interval) -> str:
    """Return a difference of shares in percentage points."""
    value, lower, upper = (None if x is None else 100 * x for x in (interval.value, interval.lower, interval.upper))
    text = difference(Interval(value, lower, upper, interval.n, interval.reason))
    return text if text == ABSENT else f"{text} pp"


def describe(tables: Tables, settings: Mapping[str, Any]) -> str:
    """Return on what the claims were tested."""
    data = settings["data"]
    models = ", ".join(sorted({str(name) for name in tables.runs["model"].dropna()}))
    return (
        f"{models} on {data['num_train']} images of {data['name']}, cross-entropy, {settings['seeds']} seeds; "
        f"from the onset until {100 * settings['fitted_accuracy']:g} % training accuracy"
    )


def sentences(tables: Tables, runs: pd.DataFrame) -> list[str]:
    """Return the runs in numbers: how many finished and which arms reached the edge."""
    reached = [f"{arm} {int(np.isfinite(floats(rows, 'onset')).sum())} of {len(rows)}" for arm, rows in _by_arm(runs)]
    return [
        counts(tables),
        f"Runs that reached the edge before they fitted their data: {'; '.join(reached) or 'none'}.",
    ]


def _by_arm(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(arm), rows_where(runs, arm=arm)) for arm in dict.fromkeys(runs["arm"])]


def edge_table(runs: pd.DataFrame, note: str) -> TextTable:
    """Return the table of arms and learning rates: where the edge is, who reached it and what happened there."""
    header = [
        "arm",
        "η",
        "edge",
        "reached",
        "onset",
        "fitted",
        "hover",
        "typical",
        "peak",
        "rises [%]",
        "loss ratio",
        "late",
    ]
    rows: list[Sequence[str]] = []
    for arm, of_arm in _by_arm(runs):
        for rate in dict.fromkeys(of_arm["learning_rate"]):
            group = rows_where(of_arm, learning_rate=rate)
            cells = [
                mean_and_std(summarise(floats(group, name))) for name in ("onset", "fitted", "hover", "typical", "peak")
            ]
            cells.append(mean_and_std(summarise(100 * floats(group, "rises_after"))))
            cells += [mean_and_std(summarise(floats(group, name))) for name in ("loss_ratio", "late")]
            edge = significant(float(np.nanmean(floats(group, "edge"))), 3) if floats(group, "edge").size else ABSENT
            count = f"{int(np.isfinite(floats(group, 'onset')).sum())}/{len(group)}"
            rows.append([arm, f"{rate:g}", edge, count, *cells])
    caption = (
        "Mean ± sample standard deviation over the seeds. Edge: curvature at which the optimiser becomes unstable on a "
        "quadratic loss. Onset: update of the first eigenvalue at or above it; fitted: update by which the training "
        "accuracy was reached. Hover: median eigenvalue in units of the edge between the two; typical and peak: the "
        "median and the largest until fitted; rises: share of updates in between that raise the loss; loss ratio: loss "
        "when fitted over that at the onset; late: last eigenvalue of the run over the median at the edge. "
        f"{note}"
    )
    return TextTable("edge_table", "The edge of stability", header, rows, runs, caption)

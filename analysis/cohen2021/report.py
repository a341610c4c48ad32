"""The edge of stability: what the runs of Cohen et al. (2021, arXiv 2103.00065) in small show, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.cohen2021.figures import batch_figure, edge_figure, eigenvalue_figure
from analysis.cohen2021.numbers import by_batch_size, by_setting, histories, over_seeds, per_run
from analysis.report.findings import Finding, over_all, variants
from analysis.report.numbers import ABSENT, difference, mean_and_std, ratio, significant
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval, summarise
from analysis.statistics.settings import over_settings
from sharpness.plots.frames import floats, rows_if, rows_where

LOSSES = {"square loss": "GD, square", "cross-entropy": "GD"}
"""The arms of full-batch gradient descent with the tanh network, by their loss."""
EDGES = {"Polyak": "(2 + 2b) / eta", "Nesterov": "(2 + 2b) / (eta (1 + 2b))"}
AT_EDGE = Range(
    0.84,
    1.19,
    "the rates are a factor of 1.4 apart, so within its square root a number is nearer to its own edge than to that of "
    "the next rate; it also tells the edges of momentum from 2 / eta",
    ratio=True,
    ends=((0.95, 1.05), (0.9, 1.1), (0.9, 1.2), (0.7, 1.4)),
)
"""The range in which a median in units of the edge, with its whole interval, is at the edge; others stand beside."""
at_edge = partial(judge_within, allowed=AT_EDGE)
LARGER = Least(1.25, "the eigenvalue of one run moves by a quarter between measurements", ratio=True)
BELOW = Range(-np.inf, 1.0, "the edge itself", ratio=True, ends=())
LOWER = Least(1.1, "a tenth; a median is known better than single eigenvalues are", ratio=True)
FALLS = Least(1.25, "a fifth of the loss", ratio=True)
MORE_OFTEN = Least(0.05, "one update in twenty")
SHOWN = ("onset", "fitted", "hover", "between", "peak", "rises_after", "loss_ratio", "late", "settled", "batch")
"""The numbers of a run in the table."""


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table and the verdicts."""
    accuracy = float(settings["fitted_accuracy"])
    history, runs = histories(tables), per_run(tables, accuracy)
    note = counts(tables)
    drawings = Drawings(
        {
            "eigenvalue": lambda: eigenvalue_figure(history, runs, LOSSES, accuracy, note),
            "batch_sharpness": lambda: batch_figure(history, note),
            "edge": lambda: edge_figure(runs, (AT_EDGE.low, AT_EDGE.high), note),
        }
    )
    return Report(drawings, [edge_table(runs, note)], sentences(tables, runs), findings(tables, runs, settings))


def findings(tables: Tables, runs: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim, by rules that were fixed on runs of other seeds."""
    setting = describe(tables, settings)
    found = [_rises(runs, setting, *each) for each in LOSSES.items()]
    found += [_stays(runs, setting, *each) for each in LOSSES.items()]
    found += [_momentum(runs, setting, *each) for each in EDGES.items()]
    return [*found, *_loss(runs, setting), *_small_batches(runs, setting)]


def _counting(finding: Finding, runs: pd.DataFrame, column: str) -> Finding:
    """Say of how many runs the number is: not all reach the edge or fit their data."""
    have = int(np.isfinite(floats(runs, column)).sum())
    return replace(finding, why=f"{finding.why}; {have} of {len(runs)} runs have the number")


def _rises(runs: pd.DataFrame, setting: str, loss: str, arm: str) -> Finding:
    """Judge the growth at the smallest rate, the edge of which is furthest; at others it starts nearer to it."""
    own, rule = rows_where(runs, arm=arm), partial(judge, null=1.0, direction=1, least=LARGER)
    parts = by_setting(own, "growth")
    first = next(iter(parts.values()), over_seeds(own, "growth"))
    claim = f"{loss}: the top eigenvalue rises until it reaches 2 / eta (there, over its first; smallest rate)"
    others = variants(dict(list(parts.items())[1:]), ratio, rule)
    judged = Finding(claim, setting, "eigenvalue", ratio(first), *rule(first), variants=others)
    return _counting(judged, own, "growth")


def _stays(runs: pd.DataFrame, setting: str, loss: str, arm: str) -> Finding:
    """Judge where the eigenvalue stays halfway between iterates; what the iterates themselves have is a variant."""
    own = rows_where(runs, arm=arm)
    claim = f"{loss}: the eigenvalue then stays at 2 / eta (halfway between iterates, median in units of it)"
    parts = by_setting(own, "between")
    finding = over_all(claim, setting, "eigenvalue", parts, ratio, at_edge, log=True)
    at_iterates = by_setting(own, "hover")
    others = {"mean over the rates, at the iterates": over_settings(at_iterates, log=True)}
    others |= {f"{name}, at the iterates": each for name, each in at_iterates.items()}
    if loss == "cross-entropy":
        others |= by_setting(rows_where(runs, arm="GD, ReLU"), "between")
    finding = replace(finding, variants=(*finding.variants, *variants(others, ratio, at_edge)))
    return _counting(finding, own, "between")


def _momentum(runs: pd.DataFrame, setting: str, arm: str, where: str) -> Finding:
    own = rows_where(runs, arm=arm)
    interval = over_seeds(own, "hover")
    claim = f"{arm}: the eigenvalue stays at {where} (at the iterates, median in units of it)"
    finding = Finding(claim, setting, "edge", ratio(interval), *at_edge(interval))
    return _counting(finding, own, "hover")


def _loss(runs: pd.DataFrame, setting: str) -> list[Finding]:
    """Judge what the loss does at the edge, over both losses and all rates, and the end of cross-entropy."""
    descent = rows_if(runs, [arm in LOSSES.values() for arm in runs["arm"]])
    rises = by_setting(descent, "rises_after", "rises_before")
    claim = "at the edge the loss rises at some updates, more often than before it"
    often = over_all(claim, setting, "edge_table", rises, _points, lambda x: judge(x, 0, 1, MORE_OFTEN))
    below, fallen = (partial(judge, null=1.0, direction=-1, least=least) for least in (LARGER, FALLS))
    claim = "at the edge the loss falls over many updates (at the end over at the onset)"
    falls = over_all(claim, setting, "edge_table", by_setting(descent, "loss_ratio"), ratio, fallen, log=True)
    own = rows_where(runs, arm=LOSSES["cross-entropy"])
    claim = "cross-entropy: the eigenvalue falls again at the end of training (last over median at the edge)"
    late = over_all(claim, setting, "edge_table", by_setting(own, "late"), ratio, below, log=True)
    return [often, _counting(falls, descent, "loss_ratio"), _counting(late, own, "late")]


def _small_batches(runs: pd.DataFrame, setting: str) -> list[Finding]:
    """Judge the claims of Andreyev & Beneventano (2024) in the second half of training in small batches."""
    small, where = rows_if(runs, ~runs["full_batch"].to_numpy(dtype=bool)), "batch_sharpness"
    claim = "SGD: batch sharpness stays at 2 / eta (median in units of it)"
    batch = over_all(claim, setting, where, by_setting(small, "batch"), ratio, at_edge, log=True)
    below, less = partial(judge_within, allowed=BELOW), partial(judge, null=1.0, direction=-1, least=LOWER)
    claim = "SGD: the eigenvalue of the whole loss stays below 2 / eta (median in units of it)"
    under = over_all(claim, setting, where, by_setting(small, "settled"), ratio, below, log=True)
    claim = "SGD: the eigenvalue is lower for smaller batches (smallest over largest batch at one rate)"
    lower = over_all(claim, setting, where, by_batch_size(small, "settled"), ratio, less, log=True)
    return [_counting(batch, small, "batch"), under, lower]


def _points(interval: Interval) -> str:
    """Return a difference of shares in percentage points."""
    value, lower, upper = (None if x is None else 100 * x for x in (interval.value, interval.lower, interval.upper))
    text = difference(Interval(value, lower, upper, interval.n, interval.reason))
    return text if text == ABSENT else f"{text} pp"


def describe(tables: Tables, settings: Mapping[str, Any]) -> str:
    """Return on what the claims were tested."""
    data = settings["data"]
    models = ", ".join(sorted({str(name) for name in tables.runs["model"].dropna()}))
    seeds = len(set(tables.runs["seed"]))  # a command may ask for more or fewer than the preset
    return (
        f"{models} on {data['num_train']} images of {data['name']}, {seeds} seeds; full batches from the "
        f"onset until {100 * settings['fitted_accuracy']:g} % training accuracy, small ones in the second half"
    )


def sentences(tables: Tables, runs: pd.DataFrame) -> list[str]:
    """Return the runs in numbers: how many finished and which arms reached the edge."""
    reached = [f"{arm} {int(np.isfinite(floats(rows, 'onset')).sum())} of {len(rows)}" for arm, rows in _by_arm(runs)]
    return [
        counts(tables),
        f"Runs that reached the edge before they fitted their data: {'; '.join(reached) or 'none'}.",
        *(text for loss, arm in LOSSES.items() if (text := _swing(loss, rows_where(runs, arm=arm)))),
    ]


def _swing(loss: str, runs: pd.DataFrame) -> str:
    """Say by how much the eigenvalue at the iterates is larger than halfway between them, by learning rate."""
    swing = by_setting(runs.assign(swing=floats(runs, "hover") / floats(runs, "between")), "swing")
    parts = [f"{ratio(each)} at {name.rpartition(', ')[2]}" for name, each in swing.items()]
    return f"Eigenvalue at the iterates over that halfway between them, {loss}: {', '.join(parts)}." if parts else ""


def _by_arm(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(arm), rows_where(runs, arm=arm)) for arm in dict.fromkeys(runs["arm"])]


def edge_table(runs: pd.DataFrame, note: str) -> TextTable:
    """Return the table of arms and learning rates: where the edge is, who reached it and what happened there."""
    header = ["arm", "η", "edge", "reached", *(name.replace("_", " ") for name in SHOWN)]
    rows: list[Sequence[str]] = []
    for arm, of_arm in _by_arm(runs):
        for rate in dict.fromkeys(of_arm["learning_rate"]):
            group = rows_where(of_arm, learning_rate=rate)
            edge = significant(float(np.nanmean(floats(group, "edge"))), 3) if floats(group, "edge").size else ABSENT
            count = f"{int(np.isfinite(floats(group, 'onset')).sum())}/{len(group)}"
            cells = [mean_and_std(summarise(floats(group, name))) for name in SHOWN]
            rows.append([arm, f"{rate:g}", edge, count, *cells])
    caption = (
        "Mean ± sample standard deviation over the seeds. Edge: curvature at which the optimiser becomes unstable on a "
        "quadratic loss. Onset: update of the first eigenvalue at or above it; fitted: update by which the training "
        "accuracy was reached. Hover and between: median eigenvalue in units of the edge from onset until fitted, at "
        "the iterates and halfway between consecutive ones; peak: the largest until fitted; rises after: share of "
        "updates in between that raise the loss; loss ratio: loss when fitted, or in the end, over that at the onset; "
        "late: last eigenvalue of the run over the median at the edge. Settled and batch: of small batches, medians of "
        "eigenvalue and batch sharpness in the second half of the run, in units of the edge. "
        f"{note}"
    )
    return TextTable("edge_table", "The edge of stability", header, rows, runs, caption)

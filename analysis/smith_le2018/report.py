"""The report on Smith & Le 2018, "A Bayesian Perspective on Generalization and SGD" (arXiv 1710.06451)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.numbers import ABSENT, difference, mean_and_std, ratio, significant
from analysis.report.report import Drawings, Report, TextTable
from analysis.runs import Tables, counts
from analysis.smith_le2018 import figures as figures
from analysis.smith_le2018 import numbers as numbers
from analysis.smith_le2018.collapse import collapse_findings, draw_collapse, equal_times
from analysis.smith_le2018.equation import NETWORK, RIDGE, draw_equation, equation_findings, equation_text
from analysis.smith_le2018.evidence import SWEPT, draw_evidence, evidence_findings, evidence_text, minima
from analysis.smith_le2018.findings import setting_of, sweep_findings
from analysis.smith_le2018.numbers import SWEEPS, TESTED
from analysis.statistics.intervals import Interval, Summary
from sharpness.plots.frames import records


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables, what the numbers show and the verdicts."""
    base, rows, ended = numbers.base_of(settings), numbers.at_the_end(tables), ended_of(tables)
    swept, ridge = tables.rows("evidence", *SWEPT), tables.rows("ridge_equation", *RIDGE)
    network, equal = (
        tables.rows("network_equation", *NETWORK),
        equal_times(tables.rows("test_accuracy", *TESTED), base["num_train"]),
    )
    found = numbers.settings_found(rows, base)
    accuracies, peaks, lowest = numbers.accuracy_table(rows), numbers.peak_table(found, base), minima(swept)
    slopes = {name: numbers.slope_of(found, name) for name in SWEEPS}
    drawings = {
        "accuracy_vs_batch": partial(figures.accuracy_vs_batch, accuracies, peaks, base, ended),
        "best_batch": partial(figures.best_batch, peaks, slopes, ended),
        "collapse": partial(draw_collapse, equal, ended),
        "equation": partial(draw_equation, ridge, network, ended),
        "evidence": partial(draw_evidence, swept, counts(tables)),
    }
    made = [] if peaks.empty else [peak_text(peaks, ended)]
    made += [] if network.empty else [equation_text(network, ended)]
    made += [] if lowest.empty else [evidence_text(lowest, counts(tables))]
    judged = [
        *sweep_findings(found, base, slopes, equal_slopes(equal, base), settings),
        *collapse_findings(equal, setting_of(settings)),
        *equation_findings(ridge, network, settings),
        *evidence_findings(lowest, settings),
    ]
    said = [f"{ended} Intervals are over seeds; all networks of one N share their images.", *remarks(peaks)]
    return Report(Drawings(drawings), made, said, judged)


def equal_slopes(equal: pd.DataFrame, base: Mapping[str, Any]) -> dict[str, Interval]:
    """Return the slopes of the best batch size after equal times, for what changes the time of an update."""
    found = numbers.settings_found(equal, base)
    return {name: numbers.slope_of(found, name) for name in ("learning_rate", "momentum")}


def ended_of(tables: Tables) -> str:
    """Say how many networks were trained, and how many of them diverged."""
    rows = numbers.at_the_end(tables)
    diverged = int(np.sum(np.asarray(rows["diverged"], dtype=bool)))
    return f"{len(rows)} networks of the grid of batch sizes, {diverged} of which diverged; {counts(tables)}"


def remarks(peaks: pd.DataFrame) -> list[str]:
    """Say which settings have no peak and why, and which batch sizes were left out."""
    said = []
    for row in records(peaks):
        where = f"{SWEEPS[row['varied']].name} {row['value']:g}"
        if not row["found"]:
            said.append(f"{where}: no peak: {row['reason']}; not in the slope.")
        if row["left_out"]:
            said.append(f"{where}: {row['left_out']} left out of the peak.")
    return list(dict.fromkeys(said))


def peak_text(peaks: pd.DataFrame, ended: str) -> TextTable:
    """Return the table of best batch sizes."""
    rows = []
    for row in records(peaks):
        batch = Interval(row["batch"], row["lower"], row["upper"], row["seeds"])
        top = Summary(row["best_accuracy"], row["best_accuracy_std"], row["seeds"])
        shown = ratio(batch) if row["found"] else ABSENT
        scale = ABSENT if row["g"] is None else significant(row["g"], 2)
        rise = Interval(row["rise"], row["rise_lower"], row["rise_upper"], row["seeds"])
        risen = ABSENT if rise.value is None else difference(rise)
        rows.append([SWEEPS[row["varied"]].name, f"{row['value']:g}", shown, scale, risen, mean_and_std(top)])
    header = ["Varied", "Value", "Best batch", "g there", "Rise over the ends (pp)", "Best accuracy (%)"]
    caption = (
        "Best batch size at a fixed number of updates: vertex of a parabola in log B around the best mean test "
        "accuracy, with a 95 % bootstrap interval over seeds; a dash where the best batch is an end of the "
        "grid or more than 5 % of the resamples have no peak. g = rate (N/B - 1)/(1 - m). Rise: the best batch, chosen "
        "by the other seeds, over the better end of the grid. Accuracy: mean ± sample standard deviation of each "
        f"seed's highest, which is optimistic. {ended}"
    )
    return TextTable("best_batch_table", "Best batch size", header, rows, peaks, caption)

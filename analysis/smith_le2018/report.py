"""The figures of Smith & Le 2018, "A Bayesian Perspective on Generalization and SGD" (arXiv 1710.06451)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.report.numbers import ABSENT, difference, mean_and_std, ratio, significant
from analysis.report.report import Drawings, Report, TextTable
from analysis.runs import Tables, counts
from analysis.smith_le2018 import figures as figures
from analysis.smith_le2018 import numbers as numbers
from analysis.smith_le2018.evidence import SWEPT, draw_evidence, evidence_findings, evidence_text, minima
from analysis.smith_le2018.findings import sweep_findings
from analysis.smith_le2018.numbers import COSTS, SWEEPS, rise_over_ends
from analysis.statistics.intervals import Interval, Summary
from sharpness.plots.frames import records


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables, what the numbers show and the verdicts."""
    base, swept = numbers.base_of(settings), tables.rows("evidence", *SWEPT)
    found = numbers.settings_found(tables, base)
    accuracies, peaks, optima = numbers.accuracy_table(tables), numbers.peak_table(found), numbers.optimum_table(found)
    slopes = {name: numbers.slope_of(peaks, optima, name) for name in SWEEPS}
    onset = numbers.onset_table(found)
    onset_slopes = {name: numbers.onset_slope(onset, name) for name in SWEEPS}
    best, costly = figures.Sizes(optima, "batch", slopes), figures.Sizes(onset, "onset", onset_slopes)
    ended = counts(tables)
    drawings = Drawings(
        {
            "accuracy_vs_batch": lambda: figures.accuracy_vs_batch(accuracies, peaks, base, ended),
            "best_batch": lambda: figures.best_batch(peaks, best, costly, ended),
            "evidence": lambda: draw_evidence(swept, ended),
        }
    )
    lowest = minima(swept)
    verdicts = sweep_findings(rise_over_ends(numbers.curve_of(tables, base).accuracy), slopes, settings)
    return Report(
        drawings,
        [peak_text(peaks, ended), *([] if lowest.empty else [evidence_text(lowest, ended)])],
        [
            f"{ended} Intervals are over seeds; all runs share their images.",
            *remarks(peaks),
            *onset_remarks(onset_slopes),
        ],
        [*verdicts, *evidence_findings(lowest, settings)],
    )


def remarks(peaks: pd.DataFrame) -> list[str]:
    """Say which settings have no peak and why, and which batch sizes and seeds were left out."""
    said = []
    for row in records(peaks):
        where = f"{SWEEPS[row['varied']].name} {row['value']:g}"
        if not row["found"]:
            said.append(f"{where}: no peak: {row['reason']}; not in the slope.")
        elif row["seeds_with_peak"] < row["seeds"]:
            said.append(f"{where}: {row['seeds'] - row['seeds_with_peak']} of {row['seeds']} seeds have no own peak.")
        if row["left_out"]:
            said.append(f"{where}: {row['left_out']} left out of the peak.")
    return list(dict.fromkeys(said))


def onset_remarks(slopes: Mapping[str, Interval]) -> list[str]:
    """Say how the batch size below which noise costs accuracy scales: no claim of the paper's, but seen without a peak.

    Where accuracy has hardly a peak, this end of the curve still tells whether the noise scale is what counts.
    """
    said = []
    for name, slope in slopes.items():
        text = f"none ({slope.reason})" if slope.value is None else difference(slope)
        costs = f"log-log slope of the batch that costs {COSTS:g} pp to the best"
        said.append(f"{SWEEPS[name].name}: {costs}: {text}.")
    return said


def peak_text(peaks: pd.DataFrame, ended: str) -> TextTable:
    """Return the table of best batch sizes."""
    rows = []
    for row in records(peaks):
        batch = Interval(row["batch"], row["lower"], row["upper"], row["seeds"])
        top = Summary(row["best_accuracy"], row["best_accuracy_std"], row["seeds"])
        shown = ratio(batch) if row["found"] else ABSENT
        scale = ABSENT if row["g"] is None else significant(row["g"], 2)
        seeds = f"{row['seeds_with_peak']} of {row['seeds']}"
        rows.append([SWEEPS[row["varied"]].name, f"{row['value']:g}", shown, scale, mean_and_std(top), seeds])
    header = ["Varied", "Value", "Best batch", "g there", "Best accuracy (%)", "Seeds with a peak"]
    caption = (
        "Best batch size at a fixed number of updates: vertex of a parabola in log B around the best mean test "
        "accuracy, with a 95 % bootstrap interval over seeds; a dash where the best batch is an end of the "
        "grid or more than 5 % of the resamples have no peak. g = rate (N/B - 1)/(1 - m). Accuracy: mean ± sample "
        f"standard deviation of each seed's highest, which is optimistic. {ended}"
    )
    return TextTable("best_batch_table", "Best batch size", header, rows, peaks, caption)

"""The figures of Smith et al. 2018, "Don't Decay the Learning Rate, Increase the Batch Size" (arXiv 1711.00489)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.numbers import ABSENT, difference, mean_and_std
from analysis.report.report import Drawings, Report, TextTable
from analysis.runs import Tables, counts
from analysis.smith2018 import figures as figures
from analysis.smith2018.findings import findings
from analysis.smith2018.numbers import FINAL, ORIGINAL, final_table, phase_table
from analysis.statistics.intervals import Interval, Summary
from sharpness.plots.frames import floats, records, rows_where


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table of updates and accuracies, what the numbers show and the verdicts."""
    ended, final, phases = counts(tables), final_table(tables, settings), phase_table(tables, settings)
    drawings = Drawings(
        {
            "schedules": lambda: figures.schedules(tables.epochs, ended),
            "training_loss": lambda: figures.training_loss(tables.epochs, settings, ended),
            "controls": lambda: figures.controls(tables.epochs, settings, ended),
            "test_accuracy": lambda: figures.test_accuracy(tables.epochs, settings, ended),
            "fewer_updates": lambda: figures.fewer_updates(tables.runs, ended),
        }
    )
    sentences = [f"{ended} Differences are paired by seed.", *remarks(final)]
    return Report(drawings, [updates_text(final, ended)], sentences, findings(final, phases, settings))


def remarks(final: pd.DataFrame) -> list[str]:
    """Say whether every run made the updates that its schedule plans, and which did not finish."""
    counted, planned = floats(final, "updates"), floats(final, "planned")
    known = np.isfinite(counted)
    said = [f"The updates of {np.sum(counted[known] == planned[known])} of {np.sum(known)} schedules are as planned."]
    for row in records(rows_where(final.assign(lost=final["n"] < final["runs"]), lost=True)):
        said.append(f"{row['optimizer']}, {row['arm']}: {row['n']} of {row['runs']} runs finished.")
    return said


def updates_text(final: pd.DataFrame, ended: str) -> TextTable:
    """Return the table of schedules with their updates and where they ended."""
    rows = []
    for row in records(final):
        to_original = Interval(row["difference"], row["lower"], row["upper"], row["n"])
        rows.append(
            [f"{row['arm']}, {row['optimizer']}", f"{row['rate']:g}", f"{row['batch']}", f"{row['momentum']:g}"]
            + [ABSENT if row["updates"] is None else f"{row['updates']:.0f}"]
            + [mean_and_std(Summary(row[name], row[f"{name}_std"], row["n"])) for name in FINAL]
            + [ABSENT if row["arm"] == ORIGINAL else difference(to_original)]
        )
    header = ["Schedule", "Rate", "Batch", "Momentum", "Updates"]
    header += ["Train loss (nats)", "Test accuracy (%)", "Change (pp)"]
    caption = (
        "Schedules with their first learning rate and batch size, their updates, and loss over the training set and "
        "accuracy over the test images of the final weights: mean ± sample standard deviation over the finished runs. "
        "Change: test accuracy minus that of the decaying rate with the same optimiser, paired by seed, with a 95 % "
        f"Student t interval. {ended}"
    )
    return TextTable("updates", "Schedules, updates and accuracies", header, rows, final, caption)

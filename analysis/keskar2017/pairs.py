"""The figures and the table of Keskar et al. (2017), "On Large-Batch Training for Deep Learning" (arXiv 1609.04836)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.keskar2017 import drawn, sentences
from analysis.keskar2017 import pair_figures as figures
from analysis.keskar2017.captions import gap_caption, interpolation_caption, status_line, training_caption
from analysis.keskar2017.load import Cell, Study, load_study
from analysis.keskar2017.pair_tables import HEADER, comparison_table, keskar_setting, text_rows
from analysis.keskar2017.render import provenance
from analysis.report import Drawing, Rendered, Report, TextTable, drawn_all, write_report
from analysis.statistics import Interval, kendall_tau
from analysis.tidy import Place
from sharpness.plots import style
from sharpness.plots.frames import floats


def render(places: Iterable[Place], measured: Iterable[Path], settings: Mapping[str, Any], out: Path) -> Rendered:
    """Read the pairs and write the three figures and the table into ``out``.

    Raises :class:`InputError` for damaged or inconsistent run folders.
    """
    study = load_study(Cell(labels["role"], labels["seed"], folder) for labels, folder in places)
    return write_report(report(study), out, provenance(study))


def report(study: Study) -> Report:
    """Return the figures, the table and what the numbers show."""
    return Report(drawings(study), [comparison(study)], describe(study))


def comparison(study: Study) -> TextTable:
    """Return the table of small against large batch."""
    numbers = comparison_table(study)
    title = "Small batch (SB) against large batch (LB)"
    return TextTable("table", title, HEADER, text_rows(numbers), numbers, _table_caption(study))


def describe(study: Study) -> list[str]:
    """Return what the numbers show as plain sentences, beginning with how many runs there are."""
    gaps = drawn.gap_table(study)
    result = sentences.counts(study) + sentences.differences(study, comparison_table(study))
    result += sentences.correlations(_correlations(gaps), gaps) + sentences.interpolation(study)
    return result + sentences.pyhessian(study) + sentences.unmeasured(study)


def _correlations(gaps: pd.DataFrame) -> dict[str, Interval]:
    """Return Kendall's tau-b of the generalisation gap with each kind of sharpness."""
    return {name: kendall_tau(floats(gaps, name), floats(gaps, "generalisation_gap")) for name in drawn.SHARPNESS}


def drawings(study: Study) -> dict[str, Drawing | str]:
    """Return the figures by name, each with its numbers and caption, or the reason why it cannot be drawn."""
    return drawn_all(
        {
            "training_curves": lambda: _training_curves(study),
            "linear_interpolation": lambda: _linear_interpolation(study),
            "gap_vs_sharpness": lambda: _gap_vs_sharpness(study),
        }
    )


def _training_curves(study: Study) -> Drawing | str:
    numbers = drawn.training_table(study)
    if not np.isfinite(floats(numbers, "train_loss")).any():
        return "no run has a finite training loss"
    figure, axes = style.new_figure(style.FULL, 4.0, 2, 2)
    figures.training_curves(numbers, axes)
    figure.align_ylabels(axes)
    return Drawing(figure, numbers, training_caption(study))


def _linear_interpolation(study: Study) -> Drawing | str:
    numbers = drawn.interpolation_table(study)
    if numbers.empty:
        return "no pair of finished runs was interpolated"
    figure, axes = style.new_figure(style.COLUMN, 2.5)
    figures.linear_interpolation(numbers, axes[0, 0])
    return Drawing(figure, numbers, interpolation_caption(study, numbers))


def _gap_vs_sharpness(study: Study) -> Drawing | str:
    numbers = drawn.gap_table(study)
    if all(drawn.drawable(numbers, quantity).empty for quantity in drawn.SHARPNESS):
        return "no finished run has both a generalisation gap and a positive sharpness"
    figure, axes = style.new_figure(style.FULL, 2.7, 1, 2)
    figures.gap_vs_sharpness(numbers, axes, _correlations(numbers), keskar_setting(study))
    return Drawing(figure, numbers, gap_caption(study, numbers))


def _table_caption(study: Study) -> str:
    return (
        "Mean ± sample standard deviation over the finished runs; LB - SB and the geometric ratio LB / SB paired by "
        f"seed with 95 % Student t intervals. {status_line(study)}"
    )

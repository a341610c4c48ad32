"""The figures and the table of Keskar et al. (2017), "On Large-Batch Training for Deep Learning" (arXiv 1609.04836)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import drawn, figures, sentences
from analysis.captions import gap_caption, interpolation_caption, status_line, training_caption
from analysis.load import Cell, Study, load_study
from analysis.render import provenance, save_table
from analysis.statistics import Interval, kendall_tau
from analysis.tables import comparison_table, keskar_setting
from sharpness.plots import style
from sharpness.plots.frames import floats
from sharpness.plots.save import remove_figure, save_figure


@dataclass(frozen=True)
class Rendered:
    """What was rendered: the study, the comparison table, the files written, and what the numbers show."""

    study: Study
    table: pd.DataFrame
    files: list[Path]
    sentences: list[str]


@dataclass(frozen=True)
class Drawing:
    """A figure, the numbers drawn in it and its caption."""

    figure: Figure
    numbers: pd.DataFrame
    caption: str


def render(cells: Iterable[Cell], out: Path) -> Rendered:
    """Read the runs of all cells and write the three figures and the table into ``out``.

    A figure without any data is not written, an older one of that name is removed, and a sentence says why. Raises
    :class:`InputError` for damaged or inconsistent run folders.
    """
    study = load_study(cells)
    table, origin = comparison_table(study), provenance(study)
    files, refusals = [], []
    for name, drawing in drawings(study).items():
        if isinstance(drawing, str):
            remove_figure(out, name)
            refusals.append(f"{name} was not drawn: {drawing}.")
        else:
            files += save_figure(drawing.figure, drawing.numbers, out, name, drawing.caption, origin)
    files += save_table(table, out, _table_caption(study), origin)
    return Rendered(study, table, files, describe(study) + refusals)


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
    with mpl.rc_context(style.STYLE):
        return {
            "training_curves": _training_curves(study),
            "linear_interpolation": _linear_interpolation(study),
            "gap_vs_sharpness": _gap_vs_sharpness(study),
        }


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

"""The figures of Smith & Le (2018), section 5: accuracy against batch size, and the best batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.report.numbers import difference
from analysis.report.report import Drawing
from analysis.smith_le2018.numbers import COSTS
from analysis.statistics.intervals import Interval
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.style import FULL, new_figure, shades

LABELS = {
    "learning_rate": r"Learning rate $\epsilon$",
    "num_train": r"Training images $N$",
    "momentum": r"$1/(1-m)$, $m$ the momentum",
}
LEGENDS = {"learning_rate": r"$\epsilon$ = {:g}", "num_train": r"$N$ = {:g}", "momentum": r"$m$ = {:g}"}
SHOWN = 12
"""Percentage points below the best accuracy that are shown: curves fall far below, and the peak is flat."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def accuracy_vs_batch(
    accuracies: pd.DataFrame, peaks: pd.DataFrame, base: Mapping[str, Any], ended: str
) -> Drawing | str:
    """Draw mean test accuracy against batch size, one panel for each thing varied; stars at the fitted peaks."""
    if not np.isfinite(floats(accuracies, "mean")).any():
        return "no finished run was measured"
    figure, axes = new_figure(FULL, 2.75, 1, len(LABELS))
    parts = []
    for ax, name in zip(axes[0], LABELS, strict=True):
        others = {key: value for key, value in base.items() if key != name}
        shown = rows_where(accuracies, **others).assign(varied=name)
        parts.append(shown)
        log_axis(ax.xaxis, floats(accuracies, "batch_size"))
        _curves(ax, shown, name, rows_where(peaks, varied=name))
        top = np.nanmax(floats(accuracies, "mean"))
        low = max(np.nanmin(floats(shown, "mean")) - 0.5, top - SHOWN)
        ax.set(xlabel="Batch size $B$", ylabel="Test accuracy (%)", ylim=(low, top + 1))
    fixed = r"$\epsilon$ = {learning_rate:g}, $N$ = {num_train:g}, $m$ = {momentum:g}".format(**base)
    caption = (
        "Accuracy over the test images after a fixed number of updates against the batch size, for several learning "
        f"rates (left), numbers of training images (middle) and momenta (right); what is not varied is {fixed}. Mean "
        "over the finished runs, bars one sample standard deviation over seeds; a batch at which a run did not finish "
        "has a hollow mark. Stars: the vertex of a parabola in log B around the best batch, where there is a peak "
        f"inside the grid. The axes end {SHOWN} points below the best accuracy of all at most. {ended}"
    )
    return Drawing(figure, pd.concat(parts, ignore_index=True), caption)


def _curves(ax: Axes, shown: pd.DataFrame, name: str, peaks: pd.DataFrame) -> None:
    values = groups(shown, name)
    colors = shades(value for value, _ in values)
    for (value, rows), marker in zip(values, MARKERS, strict=False):
        color = colors[value]
        rows = rows_where(rows.assign(drawn=np.isfinite(floats(rows, "mean"))), drawn=True)
        x, y, bars = floats(rows, "batch_size"), floats(rows, "mean"), np.nan_to_num(floats(rows, "std"))
        label = LEGENDS[name].format(value)
        ax.errorbar(x, y, bars, color=color, marker=marker, markersize=3, elinewidth=0.7, linewidth=1, label=label)
        lost = floats(rows, "diverged") + floats(rows, "missing") > 0
        ax.plot(x[lost], y[lost], linestyle="", marker=marker, markersize=3, color=color, markerfacecolor="white")
        peak = rows_where(peaks, value=value, found=True)
        for best in floats(peak, "batch"):
            height = np.interp(np.log(best), np.log(x), y)
            ax.plot(best, height, marker="*", markersize=8, color=color, markeredgecolor="white", zorder=5)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1.8, columnspacing=1.2)


@dataclass(frozen=True)
class Sizes:
    """Batch sizes against what they are to be proportional to: each seed's, and the slope by sweep."""

    by_seed: pd.DataFrame
    column: str
    slopes: Mapping[str, Interval]


def best_batch(peaks: pd.DataFrame, best: Sizes, onset: Sizes, ended: str) -> Drawing | str:
    """Draw the best batch size and the one that costs a little against what they are to be proportional to."""
    found = rows_where(peaks, found=True)
    if found.empty and onset.by_seed.empty:
        return "no setting has a peak inside the grid of batch sizes, nor a batch that costs too much"
    figure, axes = new_figure(FULL, 2.9, 1, len(LABELS))
    heights = [floats(found, name) for name in ("batch", "lower", "upper")]
    heights += [floats(each.by_seed, each.column) for each in (best, onset)]
    colors = shades(("best", "costs"), 0.425)
    for ax, name in zip(axes[0], LABELS, strict=True):
        every, rows = rows_where(peaks, varied=name), rows_where(found, varied=name)
        x, y = floats(rows, "x"), floats(rows, "batch")
        log_axis(ax.xaxis, floats(every, "x"))
        log_axis(ax.yaxis, np.concatenate(heights), padding=1.6)
        for each, color in zip((best, onset), colors.values(), strict=True):
            own = rows_where(each.by_seed, varied=name)
            ax.plot(floats(own, "x"), floats(own, each.column), linestyle="", marker=".", markersize=3, color=color)
        bars = np.stack([y - floats(rows, "lower"), floats(rows, "upper") - y])
        ax.errorbar(x, y, bars, color=colors["best"], marker="o", linestyle="", capsize=2, elinewidth=1, label="best")
        means = log_means(rows_where(onset.by_seed, varied=name), onset.column)
        ax.plot(*means, color=colors["costs"], marker="^", linestyle="", label=f"costs {COSTS:g} points")
        _lines(ax, x, y, best.slopes[name], colors["best"])
        _lines(ax, *means, onset.slopes[name], colors["costs"])
        ax.set(xlabel=LABELS[name], ylabel="Batch size $B$")
        share = f"peak in {len(rows)} of {len(every)}"
        text = f"best: {_slope_text(best.slopes[name])}, {share}\n{COSTS:g} points: {_slope_text(onset.slopes[name])}"
        ax.set_title(text.replace("-", "\N{MINUS SIGN}"), fontsize="small")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    caption = (
        "Best batch size (stars of the accuracy against the batch size) with its 95 % bootstrap interval over seeds, "
        "at the settings that have a peak inside the grid; and, no claim of the paper's, the batch size below which "
        f"the accuracy lies more than {COSTS:g} points under its best, geometric mean over seeds. Dots: each seed's "
        "own. Solid: fitted power laws, their slopes in the titles with 95 % bootstrap intervals over seeds; dashed: "
        f"slope 1. A slope needs settings with a value of their own: of the best batch only those with a peak. {ended}"
    )
    numbers = pd.concat([found.assign(size="best"), onset.by_seed.assign(size="costs")], ignore_index=True)
    return Drawing(figure, numbers, caption)


def log_means(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return each x and the geometric mean of a column there."""
    x = np.unique(floats(rows, "x"))
    return x, np.array([np.exp(np.mean(np.log(floats(rows_where(rows, x=value), column)))) for value in x])


def _slope_text(slope: Interval) -> str:
    return "no slope" if slope.value is None else difference(slope)


def _lines(ax: Axes, x: np.ndarray, y: np.ndarray, slope: Interval, color: Any) -> None:
    """Draw the fitted line, where there is one, and one of slope 1, through the mean of the logarithms."""
    if len(x) < 2:
        return
    middle, height = np.exp(np.mean(np.log(x))), np.exp(np.mean(np.log(y)))
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, height * ends / middle, color="0.5", linestyle="--", linewidth=0.9, zorder=1)
    if slope.value is not None:
        ax.plot(ends, height * (ends / middle) ** slope.value, color=color, linewidth=0.9, zorder=1)

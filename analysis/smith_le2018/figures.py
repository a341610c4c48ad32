"""The figures of Smith & Le (2018), section 5: what noise gains against batch size, and the best batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.report.numbers import difference
from analysis.report.report import Drawing
from analysis.statistics.intervals import Interval
from sharpness.plots.axes import fixed_ticks, log_axis
from sharpness.plots.frames import floats, groups, rows_if, rows_where
from sharpness.plots.style import COLUMN, LOOKS, new_figure, shades

SHORT = {"learning_rate": r"$\epsilon$", "num_train": r"$N$", "momentum": r"$1/(1-m)$"}
LEGENDS = {"learning_rate": r"$\epsilon$ = {:g}", "num_train": r"$N$ = {:g}", "momentum": r"$m$ = {:g}"}
LOWEST = -6.0
"""Percentage points under the full batch that are shown: curves fall far below where noise lets nothing be learned."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def accuracy_vs_batch(table: pd.DataFrame, peaks: pd.DataFrame, base: Mapping[str, Any], ended: str) -> Drawing | str:
    """Draw what noise gains over the full batch against batch size, a panel for each thing varied; stars at peaks."""
    if not np.isfinite(floats(table, "gain")).any():
        return "no network was measured beside its full batch"
    figure, axes = new_figure(COLUMN, 6.4, len(SHORT), 1)
    top = float(np.nanmax(floats(table, "upper"))) if np.isfinite(floats(table, "upper")).any() else 1.0
    parts = []
    for ax, name in zip(axes[:, 0], SHORT, strict=True):
        others = {key: value for key, value in base.items() if key != name}
        shown = rows_where(table, **others).assign(varied=name)
        parts.append(shown)
        log_axis(ax.xaxis, floats(table, "batch_size"))
        _curves(ax, shown, name, rows_where(peaks, varied=name))
        ax.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
        ax.set(xlabel="Batch size $B$", ylabel="Gain over\nfull batch (pp)", ylim=(LOWEST, top + 0.5))
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, handlelength=1.2, columnspacing=0.8)
    fixed = r"$\epsilon$ = {learning_rate:g}, $N$ = {num_train:g}, $m$ = {momentum:g}".format(**base)
    caption = (
        "Test accuracy after a fixed number of updates less that of the full batch of the same seed, in percentage "
        "points, against the batch size, for several learning rates (top), numbers of training images (middle) and "
        f"momenta (bottom); what is not varied is {fixed}. Mean over seeds with 95 % intervals. Stars: the best batch "
        "size, the vertex of a parabola in log B around the best mean accuracy, where there is a peak inside the grid. "
        f"The axes end {-LOWEST:g} points under the full batch. {ended}"
    )
    return Drawing(figure, pd.concat(parts, ignore_index=True), caption)


def _curves(ax: Axes, shown: pd.DataFrame, name: str, peaks: pd.DataFrame) -> None:
    values = groups(shown, name)
    colors = shades(value for value, _ in values)
    for (value, rows), marker in zip(values, MARKERS, strict=False):
        color = colors[value]
        rows = rows_if(rows, np.isfinite(floats(rows, "gain")))
        x, y = floats(rows, "batch_size"), floats(rows, "gain")
        bars = np.nan_to_num(np.stack([y - floats(rows, "lower"), floats(rows, "upper") - y]))
        style = {"color": color, "marker": marker, "markersize": 3, "linewidth": 0.9, "elinewidth": 0.5}
        ax.errorbar(x, y, bars, label=LEGENDS[name].format(value), **style)
        for best in floats(rows_where(peaks, value=value, found=True), "batch"):
            height = np.interp(np.log(best), np.log(x), y)
            ax.plot(best, height, marker="*", markersize=9, color=color, markeredgecolor="white", zorder=5)


def best_batch(peaks: pd.DataFrame, slopes: Mapping[str, Interval], ended: str) -> Drawing | str:
    """Draw the best batch sizes against what they are to be proportional to, in multiples of the base setting."""
    found = rows_where(peaks, found=True)
    if found.empty:
        return "no setting has a peak inside the grid of batch sizes"
    figure, axes = new_figure(COLUMN, 3.4)
    ax, handles = axes[0, 0], []
    for place, (name, look) in enumerate(zip(SHORT, LOOKS, strict=False)):
        own = rows_where(found, varied=name)
        x, y = floats(own, "times") * 1.04 ** (place - 1), floats(own, "batch")
        bars = np.stack([y - floats(own, "lower"), floats(own, "upper") - y])
        ax.errorbar(x, y, bars, color=look.color, marker=look.marker, linestyle="", capsize=2, elinewidth=0.8)
        slope = slopes[name]
        if slope.value is not None:
            middle, height = np.exp(np.log(x).mean()), np.exp(np.log(y).mean())
            ends = np.array([x.min(), x.max()])
            ax.plot(ends, height * (ends / middle) ** slope.value, color=look.color, linewidth=0.9)
        text = "no slope" if slope.value is None else difference(slope).replace("-", "\N{MINUS SIGN}")
        handles.append(look.handle(f"{SHORT[name]}: {text}", linestyle="-"))
    x, y = floats(found, "times"), floats(found, "batch")
    ends = np.array([x.min(), x.max()])
    middle = np.exp(np.log(y[x == 1]).mean()) if (x == 1).any() else np.exp(np.log(y).mean())
    ax.plot(ends, middle * ends, color="0.5", linestyle="--", linewidth=0.9)
    handles.append(Line2D([], [], color="0.5", linestyle="--", label="proportional"))
    log_axis(ax.xaxis, x)
    fixed_ticks(ax.xaxis, np.unique(np.round(x, 6)))
    log_axis(ax.yaxis, [*floats(found, "lower"), *floats(found, "upper"), *(middle * ends)])
    ax.set(xlabel="Multiple of the base setting", ylabel="Best batch size $B$")
    figure.legend(handles=handles, loc="outside upper center", handlelength=1.4)
    caption = (
        "Best batch size (the stars of the accuracy against the batch size) with its 95 % bootstrap interval over "
        "seeds, at the settings that have a peak inside the grid, against the learning rate, the number of training "
        "images and 1/(1 - m), each as a multiple of the base setting's. Solid: fitted power laws, their exponents "
        f"above with 95 % bootstrap intervals over seeds; dashed: proportional. {ended}"
    )
    return Drawing(figure, found, caption)

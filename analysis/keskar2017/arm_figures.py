"""The figures of what is varied on one network, batch size, start, remedies and critics: a table in, a figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from analysis.keskar2017.association import GROUPS, MEASURES, OUTCOMES, association
from analysis.keskar2017.figures import ROLE, legend, roles
from analysis.report.forest import draw_forest
from analysis.report.numbers import rounded
from analysis.statistics.intervals import Interval
from analysis.statistics.threshold import Threshold
from sharpness.plots.axes import fixed_ticks, log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.seeds import each_seed
from sharpness.plots.style import COLUMN, FULL, LOOKS, Look, new_figure

PHI = r"Sharpness $\phi$ (%)"
LOOK = dict(zip(GROUPS, (*LOOKS, Look("#949494", "v", "")), strict=True))
AXES = {"test_accuracy": "Change of test accuracy (pp)", "test_loss": "Change of test loss (nats)"}
PANELS = (("test_accuracy", "Test accuracy (%)"), ("phi", PHI))


def batch_size(table: pd.DataFrame, found: Threshold) -> Figure:
    """Draw test accuracy and sharpness against the batch size, one dot per run, lines through the means: Figure 4."""
    figure, axes = new_figure(COLUMN, 3.6, 2, 1)
    for ax, (column, label) in zip(axes.flat, PANELS, strict=True):
        sizes, means = _means(ax, table, "batch_size", column, LOOKS[0])
        ax.plot(sizes, means, **LOOKS[0].artist)
        log_axis(ax.xaxis, floats(table, "batch_size"))
        ax.xaxis.set_major_locator(FixedLocator(apart(sizes)))
        ax.set(ylabel=label)
        if found.batch.lower is not None and found.batch.upper is not None and found.batch.value is not None:
            ax.axvspan(found.batch.lower, found.batch.upper, color="0.85", linewidth=0, zorder=0)
            ax.axvline(found.batch.value, color="0.3", linestyle=":", linewidth=1)
    log_axis(axes[1, 0].yaxis, floats(table, "phi"))
    axes[1, 0].set(xlabel="Batch size")
    if found.batch.value is not None:
        legend(figure, [Line2D([], [], color="0.3", linestyle=":", label="threshold and its 95 % interval")])
    return figure


def apart(sizes: Sequence[float], factor: float = 1.8) -> list[float]:
    """Return the sizes, ascending, without those that are too close to the one before to be labelled.

    >>> apart([32, 64, 80, 128])
    [32, 64, 128]
    """
    kept: list[float] = []
    for size in sizes:
        if not kept or size >= factor * kept[-1]:
            kept.append(size)
    return kept


def mean_of(values: NDArray[np.float64], log: bool) -> float:
    """Return the mean of the finite values, of a logarithmic axis the geometric one of the positive; NaN without any.

    >>> mean_of(np.array([1.0, 4.0, 0.0]), True), mean_of(np.array([1.0, 4.0, np.nan]), False)
    (2.0, 2.5)
    """
    kept = values[np.isfinite(values) & ((values > 0) | (not log))]
    if not len(kept):
        return float("nan")
    return float(np.exp(np.mean(np.log(kept)))) if log else float(np.mean(kept))


def _means(ax: Axes, table: pd.DataFrame, x: str, column: str, look: Look) -> tuple[list[float], list[float]]:
    """Draw each run as a small dot and return where the means are."""
    ax.plot(floats(table, x), floats(table, column), ".", color=look.color, markersize=2.5, alpha=0.5)
    means = {value: mean_of(floats(rows, column), column == "phi") for value, rows in groups(table, x)}
    return list(means), list(means.values())


def warm_start(table: pd.DataFrame) -> Figure:
    """Draw accuracy of SB iterates and of LB started from them, and the sharpness of the latter: Figure 5.

    ``table`` has for role LB a row per run, with ``warm_epochs`` 0 for those from the start, which are drawn as a
    level, and for SB the test accuracy of each run at the end of each epoch.
    """
    figure, axes = new_figure(COLUMN, 3.8, 2, 1)
    small, large = (rows_where(table, role=role) for role in ("SB", "LB"))
    cold, warm = rows_where(large, warm_epochs=0), rows_where(large.assign(warm=large["warm_epochs"] > 0), warm=True)
    epochs = np.unique(floats(warm, "warm_epochs"))
    small = rows_where(small.assign(shown=np.isin(floats(small, "warm_epochs"), epochs)), shown=True)
    for ax, (column, label) in zip(axes.flat, PANELS, strict=True):
        for rows, look in ((warm, ROLE["LB"]), *([] if column == "phi" else [(small, ROLE["SB"])])):
            where, means = _means(ax, rows, "warm_epochs", column, look)
            ax.plot(where, means, **look.artist)
        if np.isfinite(level := mean_of(floats(cold, column), column == "phi")):
            ax.axhline(level, color="0.35", linestyle=":", linewidth=1)
        ax.set(ylabel=label)
        log_axis(ax.xaxis, epochs)
    log_axis(axes[1, 0].yaxis, floats(large, "phi"))
    axes[1, 0].set(xlabel="Epochs of SB training before LB")
    from_start = Line2D([], [], color="0.35", linestyle=":", label="LB from x0")
    legend(figure, [ROLE["SB"].handle("SB, at that epoch"), ROLE["LB"].handle("LB started from it"), from_start])
    return figure


def along_training(table: pd.DataFrame) -> Figure:
    """Draw sharpness against training loss at checkpoints along training: Figure 6."""
    figure, axes = new_figure(COLUMN, 2.6)
    ax = axes[0, 0]
    for role, rows in groups(table, "role"):
        each_seed(ax, rows.sort_values("epoch"), "loss", "phi", color=ROLE[role].color, alpha=0.4, sort=False)
        means = [[mean_of(floats(at, name), True) for _, at in groups(rows, "epoch")] for name in ("loss", "phi")]
        ax.plot(*means, **ROLE[role].artist)
    log_axis(ax.xaxis, floats(table, "loss"))
    log_axis(ax.yaxis, floats(table, "phi"))
    ax.invert_xaxis()
    ax.set(xlabel="Training cross-entropy (nats), training goes right", ylabel=PHI)
    legend(figure, roles(table))
    return figure


def forests(differences: Mapping[str, Interval], ratios: Mapping[str, Interval]) -> Figure:
    """Draw LB against SB under each condition: the difference of test accuracy and the ratio of sharpness."""
    figure, axes = new_figure(FULL, 0.8 + 0.26 * len(differences), 1, 2)
    draw_forest(axes[0, 0], differences, 0.0)
    draw_forest(axes[0, 1], ratios, 1.0, log=True)
    axes[0, 0].set(xlabel="Test accuracy, LB − SB (pp)")
    axes[0, 1].set(xlabel=r"Sharpness $\phi$, LB / SB")
    axes[0, 1].set_yticks(range(len(ratios)), [])
    return figure


def conditions(table: pd.DataFrame) -> Figure:
    """Draw the change of each outcome against the factor of each measure, one mark for the mean over the seeds.

    ``table`` is :func:`analysis.keskar2017.association.changes`; a row of panels for each outcome, a column for each
    measure; above each panel the association over all conditions.
    """
    figure, axes = new_figure(FULL, 4.2, len(OUTCOMES), len(MEASURES))
    for down, outcome in enumerate(OUTCOMES):
        for across, (measure, name) in enumerate(MEASURES.items()):
            ax = axes[down, across]
            for group, rows in groups(table, "group"):
                of_each = [(floats(each, measure), floats(each, outcome)) for _, each in groups(rows, "condition")]
                means = [[mean_of(values, log=False) for values in side] for side in zip(*of_each, strict=True)]
                style = {"color": LOOK[group].color, "marker": LOOK[group].marker, "linestyle": ""}
                ax.plot(*means, markersize=3.5, alpha=0.85, **style)
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=1)
            ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
            ax.set_title(_tau(association(table, measure, outcome)), fontsize=7)
            ax.set_ylabel(AXES[outcome] if across == 0 else "")
            ax.set_xlabel(f"{_of_axis(name)}\n(times that of SB)" if down else "")
            _factors(ax)
    handles = [LOOK[group].handle(group, linestyle="") for group in GROUPS if group in set(table["group"])]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handletextpad=0.2)
    return figure


def _of_axis(name: str) -> str:
    """Return the name of a measure as an axis has it."""
    return name.replace("λ_max", r"$\lambda_{\max}$") if name[0] == "λ" else name[0].upper() + name[1:]


def _tau(found: Interval) -> str:
    if found.value is None or found.lower is None or found.upper is None:
        return r"$\tau$ not given"
    value, low, high = (rounded(x, 2).replace("-", "\N{MINUS SIGN}") for x in (found.value, found.lower, found.upper))
    return rf"$\tau$ = {value} [{low}, {high}]"


def _factors(ax: Axes) -> None:
    """Label an axis of logarithms by factors, at powers of ten and, over less than two decades, of a half decade."""
    low, high = (x / np.log(10) for x in ax.get_xlim())
    step = 1.0 if high - low > 2 else 0.5 if high - low > 0.8 else 0.25
    powers = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    fixed_ticks(ax.xaxis, powers * np.log(10), lambda at: f"{np.exp(at):.2g}")

"""The figures of what is varied on one network, batch size, start, remedies and critics: a table in, a figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from analysis.keskar2017.association import GROUPS, MEASURES, OUTCOMES, association
from analysis.keskar2017.figures import ROLE, legend, roles
from analysis.keskar2017.numbers import AFTER, ROLES
from analysis.report.forest import draw_forest
from analysis.report.numbers import rounded
from analysis.statistics.intervals import Interval, exponential, student
from analysis.statistics.threshold import Threshold
from sharpness.plots.axes import fixed_ticks, log_axis
from sharpness.plots.frames import floats, groups, rows_if, rows_where
from sharpness.plots.seeds import each_seed, mean_of_seeds
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure

PHI = r"Sharpness $\phi$ (%)"
LOOK = dict(zip(GROUPS, (*LOOKS, Look("#949494", "v", "")), strict=True))
AXES = {"test_accuracy": r"$\Delta$ test accuracy (pp)", "test_loss": r"$\Delta$ test loss (nats)"}
PANELS = (("test_accuracy", "Test accuracy (%)"), ("phi", PHI))


def batch_size(table: pd.DataFrame, found: Threshold) -> Figure:
    """Draw test accuracy and sharpness against the batch size: a dot per run, means with their intervals: Figure 4."""
    figure, axes = new_figure(COLUMN, 3.6, 2, 1)
    for ax, (column, label) in zip(axes.flat, PANELS, strict=True):
        _runs_and_mean(ax, table, "batch_size", column, LOOKS[0])
        _labelled(ax, floats(table, "batch_size"))
        ax.set(ylabel=label)
        if found.batch.lower is not None and found.batch.upper is not None and found.batch.value is not None:
            ax.axvspan(found.batch.lower, found.batch.upper, color="0.85", linewidth=0, zorder=0)
            ax.axvline(found.batch.value, color="0.3", linestyle=":", linewidth=1)
    log_axis(axes[1, 0].yaxis, floats(table, "phi"))
    axes[1, 0].set(xlabel="Batch size")
    if found.batch.value is not None:
        legend(figure, [Line2D([], [], color="0.3", linestyle=":", label="threshold and its 95 % interval")])
    return figure


def _labelled(ax: Axes, values: NDArray[np.float64]) -> None:
    """Make the x axis logarithmic, labelled at the values themselves."""
    log_axis(ax.xaxis, values)
    ax.xaxis.set_major_locator(FixedLocator(apart(np.unique(values).tolist())))


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


def _runs_and_mean(ax: Axes, table: pd.DataFrame, x: str, column: str, look: Look, line: bool = True) -> None:
    """Draw each run as a small dot, and the mean over the seeds, of sharpness geometric, with its interval."""
    log = column == "phi"
    shown = rows_if(table, np.isfinite(floats(table, column)) & ((floats(table, column) > 0) | (not log)))
    ax.plot(floats(shown, x), floats(shown, column), ".", color=look.color, markersize=2.5, alpha=0.5)
    interval_of_seeds(ax, shown, x, column, log, **look.artist | ({} if line else {"linestyle": ""}))


def interval_of_seeds(ax: Axes, rows: pd.DataFrame, x: str, y: str, log: bool, **style: Any) -> None:
    """Draw the mean over the seeds with a bar from end to end of its interval, of a logarithmic axis both geometric."""
    bars = {"err_style": "bars", "err_kws": {"elinewidth": 1.0, "capsize": 2.0}}
    mean_of_seeds(ax, rows, x, y, log, errorbar=partial(_ends, log=log), **bars, **style)


def _ends(values: Any, log: bool) -> tuple[float, float]:
    """Return the ends of the 95 % Student t interval of the mean, both the mean itself of a single seed.

    >>> [round(end, 2) for end in _ends([1.0, 3.0], False)]
    [-10.71, 14.71]
    """
    found = exponential(student(np.log(values))) if log else student(values)
    assert found.value is not None  # no bar is asked for where nothing is
    low, high = (found.value if end is None else end for end in (found.lower, found.upper))
    return low, high


def warm_start(table: pd.DataFrame) -> Figure:
    """Draw accuracy of SB iterates and of LB started from them, and the sharpness of the latter: Figure 5.

    ``table`` has for role LB a row per run, with ``warm_epochs`` 0 for those from the start, whose mean is drawn as a
    level, and for SB the test accuracy of the iterates themselves, if it was measured.
    """
    figure, axes = new_figure(COLUMN, 3.8, 2, 1)
    warm, cold = (rows_if(table, mask) for mask in (table["warm_epochs"] > 0, table["warm_epochs"] == 0))
    handles = {"SB": ROLE["SB"].handle("SB, at that epoch"), "LB": ROLE["LB"].handle("LB started from it")}
    for ax, (column, label) in zip(axes.flat, PANELS, strict=True):
        for role, rows in groups(warm, "role"):
            if np.isfinite(floats(rows, column)).any():
                _runs_and_mean(ax, rows, "warm_epochs", column, ROLE[role])
        if np.isfinite(level := mean_of(floats(cold, column), column == "phi")):
            ax.axhline(level, color="0.35", linestyle=":", linewidth=1)
        ax.set(ylabel=label)
        _labelled(ax, floats(warm, "warm_epochs"))
    log_axis(axes[1, 0].yaxis, floats(table, "phi"))
    axes[1, 0].set(xlabel="Epochs of SB training before LB")
    shown = [handles[role] for role in ROLES if role in set(warm["role"])]
    if len(cold):
        shown.append(Line2D([], [], color="0.35", linestyle=":", label="LB from x0"))
    legend(figure, shown)
    return figure


def escape(table: pd.DataFrame) -> Figure:
    """Draw sharpness and test accuracy of the minimum of LB, and of SB, before and after SB or LB goes on from there.

    ``table`` is :func:`analysis.keskar2017.numbers.going_on`: a column of panels for each minimum, a thin line for each
    seed from the minimum to where it ends, and means with their intervals.
    """
    figure, axes = new_figure(COLUMN, 3.4, 2, 2)
    for across, start in enumerate(reversed(ROLES)):
        rows = rows_where(table, minimum=start)
        for ax, (column, label) in zip(axes[:, across], reversed(PANELS), strict=True):
            for after in ROLES:
                each_seed(ax, rows_if(rows, rows["after"].isin(["", after])), "place", column, color="0.75", alpha=1.0)
            for after, look in ROLE.items():
                _runs_and_mean(ax, rows_where(rows, after=after), "place", column, look, line=False)
            _runs_and_mean(ax, rows_where(rows, after=""), "place", column, ROLE[start], line=False)
            ax.set(ylabel=label if across == 0 else "", xlim=(-0.5, 2.5))
            ax.set_xticks(list(AFTER.values()), ["SB", "before", "LB"])
            ax.grid(visible=False, axis="x")
        axes[0, across].set(title=f"from the minimum of {start}")
        axes[1, across].set(xlabel="Goes on as")
    for ax in axes[0]:
        log_axis(ax.yaxis, floats(table, "phi"))
    limits = [ax.get_ylim() for ax in axes[1]]
    for ax in axes[1]:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    legend(figure, roles(table.rename(columns={"minimum": "role"}), lines=False))
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
    """Draw LB against SB under each condition: the difference of test accuracy above the ratio of sharpness."""
    figure, axes = new_figure(COLUMN, 1.1 + 0.36 * len(differences), 2, 1)
    draw_forest(axes[0, 0], differences, 0.0)
    draw_forest(axes[1, 0], ratios, 1.0, log=True)
    axes[0, 0].set(xlabel="Test accuracy, LB − SB (pp)")
    axes[1, 0].set(xlabel=r"Sharpness $\phi$, LB / SB")
    return figure


def conditions(table: pd.DataFrame) -> Figure:
    """Draw the change of each outcome against the factor of each measure, one mark for the mean over the seeds.

    ``table`` is :func:`analysis.keskar2017.association.changes`; a row of panels for each measure, a column for each
    outcome; above each panel the association over all conditions.
    """
    figure, axes = new_figure(COLUMN, 6.6, len(MEASURES), len(OUTCOMES))
    for down, (measure, name) in enumerate(MEASURES.items()):
        for across, outcome in enumerate(OUTCOMES):
            ax = axes[down, across]
            for group, rows in groups(table, "group"):
                of_each = [(floats(each, measure), floats(each, outcome)) for _, each in groups(rows, "condition")]
                means = [[mean_of(values, log=False) for values in side] for side in zip(*of_each, strict=True)]
                style = {"color": LOOK[group].color, "marker": LOOK[group].marker, "linestyle": ""}
                ax.plot(*means, markersize=3.5, alpha=0.85, **style)
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=1)
            ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
            ax.set_title(_tau(association(table, measure, outcome)), fontsize=7)
            ax.set_xlabel(f"{_of_axis(name)} (× SB)", fontsize=7.5)
            ax.set_ylabel(AXES[outcome], fontsize=7.5)
            _factors(ax)
    handles = [LOOK[group].handle(group, linestyle="") for group in GROUPS if group in set(table["group"])]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, handletextpad=0.2)
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

"""Figures 1 to 7 of Keskar et al. 2017 in form, the remedies and the critics: a table and axes in, axes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from analysis.keskar2017.threshold import Threshold
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.line import SPLITS, End, draw_lines
from sharpness.plots.style import COLUMN, FULL, LOOKS, Look, new_figure

ROLE = {"SB": replace(LOOKS[0], label="small batch (SB)"), "LB": replace(LOOKS[1], label="large batch (LB)")}
ENDS = [End(0, "SB", ROLE["SB"]), End(1, "LB", ROLE["LB"])]
PHI = r"Sharpness $\phi$ (%)"
PANELS = (("test_accuracy", "Test accuracy (%)"), ("phi", PHI))
ACROSS = 3
"""Panels beside each other, one for each network."""
ALPHAS = {
    "line": r"$\alpha$ in $(1-\alpha)\,w_{\mathrm{SB}} + \alpha\,w_{\mathrm{LB}}$",
    "arc": r"$\alpha$ in $\cos(\frac{\alpha\pi}{2})\,w_{\mathrm{SB}} + \sin(\frac{\alpha\pi}{2})\,w_{\mathrm{LB}}$",
}


def panels(networks: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each network, named above it."""
    across = min(len(networks), ACROSS)
    down = -(-len(networks) // across)
    figure, axes = new_figure(COLUMN if across == 1 else FULL, height * down, down, across)
    for ax in axes.flat[len(networks) :]:
        ax.set_visible(False)
    used = list(axes.flat[: len(networks)])
    for ax, network in zip(used, networks, strict=True):
        ax.set_title(network)
    return figure, used


def training_curves(table: pd.DataFrame) -> Figure:
    """Draw train and test accuracy (%) against epochs, a panel per network: Figure 2."""
    names = list(dict.fromkeys(table["network"]))
    figure, axes = panels(names, 2.3)
    for ax, name in zip(axes, names, strict=True):
        rows = rows_where(table, network=name)
        for role, runs in groups(rows, "role"):
            for split, dashes in SPLITS.items():
                for _, run in groups(runs, "seed"):
                    values = floats(run, f"{split}_accuracy")
                    ax.plot(floats(run, "epoch"), values, color=ROLE[role].color, linestyle=dashes, linewidth=0.7)
        later = rows_where(rows.assign(later=floats(rows, "epoch") > 0), later=True)
        values = np.concatenate([floats(later, f"{split}_accuracy") for split in ("train", "test")])
        if np.isfinite(values).any():
            ax.set_ylim(np.nanmin(values) - 1, np.nanmax(values) + 1)
        ax.set(xlabel="Epoch", ylabel="Accuracy (%)")
    _legend(figure, [*_colors(), *_splits()])
    return figure


def sketch(table: pd.DataFrame) -> Figure:
    """Draw the loss around both minima against the distance from each, a panel per network: Figure 1, measured."""
    names = list(dict.fromkeys(table["network"]))
    figure, axes = panels(names, 2.4)
    for ax, name in zip(axes, names, strict=True):
        rows = rows_where(table, network=name)
        for order, (_, of_seed) in enumerate(groups(rows, "seed")):
            width, opacity = (1.4, 1.0) if order == 0 else (0.5, 0.4)
            for role, curve in groups(of_seed, "role"):
                for split, dashes in SPLITS.items():
                    style: dict[str, Any] = {"linestyle": dashes, "linewidth": width, "alpha": opacity}
                    x, y = floats(curve, "from_minimum"), floats(curve, f"{split}_loss")
                    ax.plot(x, y, color=ROLE[role].color, **style)
        ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
        ax.set(xlabel="Distance from the minimum", ylabel="Cross-entropy (nats)")
        values = np.concatenate([floats(rows, f"{split}_loss") for split in ("train", "test")])
        log_axis(ax.yaxis, values)
        ax.margins(x=0)
    _legend(figure, [*_colors(), *_splits()])
    return figure


def between(table: pd.DataFrame, path: str) -> Figure:
    """Draw loss and accuracy along the line (Figure 3) or the arc (Figure 7) between SB and LB of one network."""
    figure, axes = new_figure(COLUMN, 2.5)
    lines = [rows for _, rows in groups(table, "seed")]
    draw_lines(axes[0, 0], lines, ENDS, ALPHAS[path], "Cross-entropy (nats)")
    return figure


def batch_size(table: pd.DataFrame, found: Threshold) -> Figure:
    """Draw test accuracy and sharpness against the batch size, one dot per run, lines through the means: Figure 4."""
    figure, axes = new_figure(COLUMN, 3.6, 2, 1)
    for ax, (column, label) in zip(axes.flat, PANELS, strict=True):
        sizes, means = _means(ax, table, "batch_size", column, LOOKS[0])
        ax.plot(sizes, means, color=LOOKS[0].color, marker=LOOKS[0].marker)
        log_axis(ax.xaxis, floats(table, "batch_size"))
        ax.xaxis.set_major_locator(FixedLocator(apart(sizes)))
        ax.set(ylabel=label)
        if found.batch.lower is not None and found.batch.upper is not None and found.batch.value is not None:
            ax.axvspan(found.batch.lower, found.batch.upper, color="0.85", linewidth=0, zorder=0)
            ax.axvline(found.batch.value, color="0.3", linestyle=":", linewidth=1)
    log_axis(axes[1, 0].yaxis, floats(table, "phi"))
    axes[1, 0].set(xlabel="Batch size")
    if found.batch.value is not None:
        handles = [Line2D([], [], color="0.3", linestyle=":", label="threshold and its 95 % interval")]
        _legend(figure, handles)
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
            ax.plot(where, means, color=look.color, marker=look.marker, linestyle=look.linestyle)
        if np.isfinite(level := mean_of(floats(cold, column), column == "phi")):
            ax.axhline(level, color="0.35", linestyle=":", linewidth=1)
        ax.set(ylabel=label)
        log_axis(ax.xaxis, epochs)
    log_axis(axes[1, 0].yaxis, floats(large, "phi"))
    axes[1, 0].set(xlabel="Epochs of SB training before LB")
    handles = [
        _handle(ROLE["SB"], "SB, at that epoch", True),
        _handle(ROLE["LB"], "LB started from it", True),
        Line2D([], [], color="0.35", linestyle=":", label="LB from x0"),
    ]
    _legend(figure, handles)
    return figure


def along_training(table: pd.DataFrame) -> Figure:
    """Draw sharpness against training loss at checkpoints along training: Figure 6."""
    figure, axes = new_figure(COLUMN, 2.6)
    ax = axes[0, 0]
    for role, rows in groups(table, "role"):
        for _, run in groups(rows, "seed"):
            path = run.sort_values("epoch")
            ax.plot(floats(path, "loss"), floats(path, "phi"), color=ROLE[role].color, linewidth=0.5, alpha=0.4)
        means = [[mean_of(floats(at, name), True) for _, at in groups(rows, "epoch")] for name in ("loss", "phi")]
        look = ROLE[role]
        ax.plot(*means, color=look.color, marker=look.marker, linestyle=look.linestyle)
    log_axis(ax.xaxis, floats(table, "loss"))
    log_axis(ax.yaxis, floats(table, "phi"))
    ax.invert_xaxis()
    ax.set(xlabel="Training cross-entropy (nats), training goes right", ylabel=PHI)
    _legend(figure, _roles(line=True))
    return figure


def arms(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw test accuracy and sharpness of arms below each other: one dot per run, a mark at the mean.

    Each row has ``name``, and for one or both roles the ``runs``.
    """
    figure, axes = new_figure(FULL, 0.7 + 0.28 * len(rows), 1, 2)
    for ax, (column, label) in zip(axes.flat, PANELS, strict=True):
        drawn = []
        for place, row in enumerate(rows):
            for role, runs in row["runs"].items():
                shift = 0.0 if len(row["runs"]) == 1 else {"SB": -0.14, "LB": 0.14}[role]
                drawn.append(_dots(ax, place + shift, floats(runs, column), ROLE[role], column == "phi"))
        ax.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
        ax.set_yticks(range(len(rows)), [row["name"] for row in rows] if column == "test_accuracy" else [])
        if column == "phi":
            log_axis(ax.xaxis, np.concatenate(drawn))
        else:
            ax.xaxis.set_major_locator(MaxNLocator(5))
    _legend(figure, _roles(line=False))
    return figure


def _dots(ax: Axes, place: float, values: NDArray[np.float64], look: Look, log: bool) -> NDArray[np.float64]:
    ax.plot(values, np.full(len(values), place), ".", color=look.color, markersize=3, alpha=0.5)
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    ax.plot(mean_of(values, log), place, color=look.color, marker=look.marker, markersize=5, linestyle="", **edge)
    return values


def _handle(look: Look, label: str, line: bool) -> Line2D:
    return Line2D([], [], color=look.color, marker=look.marker, linestyle=look.linestyle if line else "", label=label)


def _roles(line: bool) -> list[Line2D]:
    return [_handle(look, look.label, line) for look in ROLE.values()]


def _colors() -> list[Line2D]:
    """Return what stands for the roles where dashes stand for something else."""
    return [Line2D([], [], color=look.color, linewidth=2.5, label=look.label) for look in ROLE.values()]


def _splits() -> list[Line2D]:
    return [Line2D([], [], color="0.4", linestyle=dashes, label=name) for name, dashes in SPLITS.items()]


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put the legend above all axes, in as many columns as fit."""
    wide = figure.get_figwidth() > COLUMN
    columns = len(handles) if wide or len(handles) < 3 else 2
    figure.legend(handles=list(handles), loc="outside upper center", ncols=columns, handlelength=2.6)

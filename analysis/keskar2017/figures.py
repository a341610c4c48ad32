"""The figures of the pairs of small and large batch: a table in, a figure out; no file is read or written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.keskar2017.curves import splits_along
from analysis.keskar2017.numbers import EPSILONS, ROLES, drawable
from analysis.report.forest import draw_forest
from analysis.report.numbers import correlation
from analysis.statistics.intervals import Interval
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.line import SPLITS, End, draw_lines
from sharpness.plots.seeds import CROSS, runs_and_means
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure

ROLE = {"SB": replace(LOOKS[0], label="small batch (SB)"), "LB": replace(LOOKS[1], label="large batch (LB)")}
ENDS = [End(0, "SB", ROLE["SB"]), End(1, "LB", ROLE["LB"])]
CURVES = (
    ("train_loss", "Train loss (nats)"),
    ("test_loss", "Test loss (nats)"),
    ("train_accuracy", "Train accuracy (%)"),
    ("test_accuracy", "Test accuracy (%)"),
)
SHARPNESS_LABELS = {
    "top_eigenvalue": r"$\lambda_{\max}$ (nats)",
    "keskar_sharpness": rf"Metric 2.1 (%, $\epsilon$ = {EPSILONS[0]:g})",
    "worst_case": "Adaptive worst case (nats)",
}
ACROSS = 2
"""Panels beside each other, one for each network."""
ALPHAS = {
    "line": r"$\alpha$ in $(1-\alpha)\,w_{\mathrm{SB}} + \alpha\,w_{\mathrm{LB}}$",
    "arc": r"$\alpha$ in $\cos(\frac{\alpha\pi}{2})\,w_{\mathrm{SB}} + \sin(\frac{\alpha\pi}{2})\,w_{\mathrm{LB}}$",
}


def training_curves(table: pd.DataFrame) -> Figure:
    """Draw loss (log axis) and accuracy against epochs: thin lines per seed, a thick mean per role.

    ``table`` is :func:`analysis.keskar2017.curves.training_table`; training is on the left and the test set on the
    right, as far as they were measured along training. A diverged run ends in a cross.
    """
    splits = splits_along(table)
    panels = [(name, label) for name, label in CURVES if name.partition("_")[0] in splits]
    figure, axes = new_figure(COLUMN, 3.8, 2, len(splits))
    for ax, (name, label) in zip(axes.flat, panels, strict=True):
        runs_and_means(ax, table, "epoch", name, "role", ROLE)
        ax.set(xlabel="Epoch", ylabel=label)
        ax.margins(x=0.02)
        if name.endswith("loss"):
            log_axis(ax.yaxis, floats(table, name))
        else:
            _limits_after_start(ax, floats(table, "epoch"), floats(table, name))
    handles = roles(table)
    if len(rows_where(table, status="diverged")):
        handles.append(Line2D([], [], color="0.3", label="diverged", **CROSS))
    legend(figure, handles)
    figure.align_ylabels(axes)
    return figure


def _limits_after_start(ax: Axes, epochs: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    """Fit the axis to what follows epoch 0: chance level before training would squeeze it into a corner."""
    later = values[(epochs > 0) & np.isfinite(values)]
    later = later if len(later) else values[np.isfinite(values)]
    if len(later):
        margin = 0.06 * np.ptp(later) or 1.0
        ax.set_ylim(later.min() - margin, later.max() + margin)


def pairs(table: pd.DataFrame, ratios: Mapping[str, Interval]) -> Figure:
    """Draw test accuracy and test loss of both runs of each seed (top), and the ratio LB / SB of each measure (bottom).

    ``table`` is :func:`analysis.keskar2017.numbers.solutions`, ``ratios`` are by the measure's name.
    """
    figure, axes = new_figure(COLUMN, 3.8, 2, 2)
    grid = axes[0, 0].get_gridspec()
    grid.set_height_ratios([1.5, 1])
    for ax, (name, label) in zip(axes[0], (CURVES[3], CURVES[1]), strict=True):
        for _, runs in groups(table, "seed"):
            places = [ROLES.index(role) for role in runs["role"]]
            ax.plot(places, floats(runs, name), color="0.75", linewidth=0.7, zorder=1)
        for place, (role, look) in enumerate(ROLE.items()):
            values = floats(rows_where(table, role=role), name)
            style = {"color": look.color, "marker": look.marker, "linestyle": ""}
            ax.plot(np.full(len(values), place), values, markersize=3.5, **style)
            if np.isfinite(values).any():
                ax.plot([place - 0.22, place + 0.22], [np.nanmean(values)] * 2, color="0.1", linewidth=1.6, zorder=4)
        ax.set(ylabel=label, xlim=(-0.5, 1.5))
        ax.set_xticks(range(len(ROLES)), ROLES)
        ax.grid(visible=False, axis="x")
    for ax in axes[1]:
        ax.remove()
    forest = figure.add_subplot(grid[1, :])
    draw_forest(forest, ratios, 1.0, log=True)
    forest.set(xlabel="Large batch / small batch")
    return figure


def accuracy_vs_sharpness(table: pd.DataFrame, taus: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Draw test accuracy against each kind of sharpness, one mark per run, the runs of a seed joined.

    ``table`` is :func:`analysis.keskar2017.numbers.solutions` and ``taus`` holds Kendall's tau-b per quantity, within
    each role. Values that are not positive have no place on the logarithmic axis.
    """
    figure, axes = new_figure(COLUMN, 5.8, len(SHARPNESS_LABELS), 1)
    for ax, (quantity, label) in zip(axes.flat, SHARPNESS_LABELS.items(), strict=True):
        shown = drawable(table, quantity)
        for _, pair in groups(shown, "seed"):
            ax.plot(floats(pair, quantity), floats(pair, "test_accuracy"), color="0.75", linewidth=0.6, zorder=1)
        for role, rows in groups(shown, "role"):
            _marks(ax, rows, ROLE[role], quantity)
        if shown.empty:
            ax.text(0.5, 0.5, "no positive value", transform=ax.transAxes, ha="center", va="center", fontsize=8)
        columns = [quantity, "lower", "upper"] if quantity == "top_eigenvalue" else [quantity]
        log_axis(ax.xaxis, np.concatenate([floats(shown, name) for name in columns]), padding=1.6)
        ax.margins(y=0.12)
        ax.set(xlabel=label, ylabel="Test accuracy (%)")
        within = "\n".join(rf"$\tau_b$ within {role} {correlation(taus[quantity][role])}" for role in ROLE)
        ax.set_title(within.replace("-", "\N{MINUS SIGN}"), fontsize=7)
    legend(figure, roles(table, lines=False))
    return figure


def _marks(ax: Axes, rows: pd.DataFrame, look: Look, quantity: str) -> None:
    x, bars = floats(rows, quantity), None
    if quantity == "top_eigenvalue":
        # A bound that was not measured draws no bar; one at or below zero runs to the edge of the logarithmic axis.
        lower, upper = (np.where(np.isfinite(b), b, x) for b in (floats(rows, "lower"), floats(rows, "upper")))
        bars = np.clip(np.stack([x - np.clip(lower, 1e-12, None), upper - x]), 0, None)
    ax.errorbar(
        x,
        floats(rows, "test_accuracy"),
        xerr=bars,
        color=look.color,
        marker=look.marker,
        linestyle="",
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        elinewidth=1.0,
        capsize=2,
    )


def between(table: pd.DataFrame, path: str) -> Figure:
    """Draw loss and accuracy along the line (Figure 3) or the arc (Figure 7) between SB and LB of one network."""
    figure, axes = new_figure(COLUMN, 2.5)
    lines = [rows for _, rows in groups(table, "seed")]
    draw_lines(axes[0, 0], lines, ENDS, ALPHAS[path], "Cross-entropy (nats)")
    return figure


def accuracy_curves(table: pd.DataFrame) -> Figure:
    """Draw train and test accuracy (%) against epochs, as far as measured, a panel per network: Figure 2."""
    figure, panels = _panel_per_network(table, "Epoch", "Accuracy (%)")
    splits = splits_along(table)
    for ax, rows in panels:
        for role, runs in groups(rows, "role"):
            for split in splits:
                for _, each in groups(runs, "seed"):
                    run = each.dropna(subset=[f"{split}_accuracy"])  # the test set may be looked at more rarely
                    values = floats(run, f"{split}_accuracy")
                    ax.plot(
                        floats(run, "epoch"), values, color=ROLE[role].color, linestyle=SPLITS[split], linewidth=0.7
                    )
        later = rows_where(rows.assign(later=floats(rows, "epoch") > 0), later=True)
        values = np.concatenate([floats(later, f"{split}_accuracy") for split in splits])
        if np.isfinite(values).any():
            ax.set_ylim(np.nanmin(values) - 1, np.nanmax(values) + 1)
    dashed = [Line2D([], [], color="0.4", linestyle=SPLITS[split], label=split) for split in splits]
    legend(figure, [*_colors(), *(dashed if len(dashed) > 1 else [])])
    return figure


def sketch(table: pd.DataFrame) -> Figure:
    """Draw how the training loss rises around both solutions, a panel per network: Figure 1, measured."""
    labels = "Distance from the solution (in that of SB and LB)", "Rise of the training loss (nats)"
    figure, panels = _panel_per_network(table, *labels)
    for ax, rows in panels:
        for role, of_role in groups(rows, "role"):
            for _, curve in groups(of_role, "seed"):
                faint = {"color": ROLE[role].color, "linewidth": 0.5, "alpha": 0.4}
                ax.plot(floats(curve, "share"), floats(curve, "rise"), **faint)
            means = [(share, np.mean(floats(at, "rise"))) for share, at in groups(of_role, "share")]
            ax.plot(*zip(*means, strict=True), **ROLE[role].artist, markevery=(1, 3))
        ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
        ax.margins(x=0)
    legend(figure, roles(table))
    return figure


def _panel_per_network(table: pd.DataFrame, x: str, y: str) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Return a figure with a panel for each network and the rows of each; ``x`` and ``y`` are the labels of all."""
    networks = list(dict.fromkeys(table["network"]))
    across = min(len(networks), ACROSS)
    down = -(-len(networks) // across)
    figure, axes = new_figure(COLUMN, 0.9 + 1.4 * down, down, across)
    figure.supxlabel(x, fontsize=8)
    figure.supylabel(y, fontsize=8)
    for ax in axes.flat[len(networks) :]:
        ax.set_visible(False)
    panels = []
    for ax, network in zip(axes.flat, networks, strict=False):
        ax.set_title(network)
        panels.append((ax, rows_where(table, network=network)))
    return figure, panels


def roles(table: pd.DataFrame, lines: bool = True) -> list[Line2D]:
    """Return what stands for the roles that a table has."""
    shown = [ROLE[role] for role in ROLES if role in set(table["role"])]
    return [look.handle(look.label, linestyle=look.linestyle if lines else "") for look in shown]


def _colors() -> list[Line2D]:
    """Return what stands for the roles where dashes stand for something else."""
    return [Line2D([], [], color=look.color, linewidth=2.5, label=look.label) for look in ROLE.values()]


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put the legend above all axes, where it cannot cover data, in as many columns as fit."""
    wide = figure.get_figwidth() > COLUMN
    columns = len(handles) if wide or len(handles) < 3 else 2
    figure.legend(handles=list(handles), loc="outside upper center", ncols=columns, handlelength=2.6)

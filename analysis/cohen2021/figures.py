"""The figures of the edge of stability: eigenvalues while training, batch sharpness, how close to the edge they are.

All are as wide as one column and have the learning rate times the curvature, or its share of the edge, as their axis:
the edge is one line for every rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.report.report import Drawing
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure

ITERATES, MIDPOINTS, BATCHES = LOOKS[0], LOOKS[1], LOOKS[2]
FAINT = 0.25


def eigenvalue_figure(
    history: pd.DataFrame, runs: pd.DataFrame, losses: Mapping[str, str], accuracy: float, note: str
) -> Drawing | str:
    """Draw eta lambda of full-batch descent against updates: a row per rate, a column per loss, one seed bold."""
    shown = rows_if(history, np.isfinite(floats(history, "share")))
    columns = {loss: groups(rows_where(shown, arm=arm), "learning_rate") for loss, arm in losses.items()}
    columns = {loss: rates for loss, rates in columns.items() if rates}
    if not columns:
        return "no run of gradient descent has a measured eigenvalue"
    figure, axes = new_figure(COLUMN, 4.1, max(map(len, columns.values())), len(columns))
    top = 2 * min(1.1 * max(float(floats(shown, "share").max()), 1.1), 1.8)
    for column, (loss, rates) in enumerate(columns.items()):
        for row, (rate, rows) in enumerate(rates):
            ax = axes[row, column]
            _shares(ax, rows, "step", {"share": ITERATES, "midpoint_share": MIDPOINTS})
            _fitted(ax, rows_where(runs, arm=losses[loss], learning_rate=rate))
            ax.set_title(rf"{loss if row == 0 else ''}{', ' if row == 0 else ''}$\eta$ = {rate:g}")
            ax.set(ylim=(0, top))
            ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            ax.tick_params(labelleft=column == 0)
        axes[len(rates) - 1, column].set_xlabel("Updates")
        for row in range(len(rates), len(axes)):
            axes[row, column].set_axis_off()
    figure.supylabel(r"$\eta\,\lambda_{\max}$", fontsize=9)
    _legend(figure, {"at iterates": ITERATES, "between them": MIDPOINTS})
    caption = (
        "Learning rate times top eigenvalue of the Hessian of the training loss during full-batch gradient descent: at "
        "the iterates and halfway between consecutive ones, where their oscillation is averaged out. One seed is bold, "
        f"the others are faint; values above {top:.3g} are cut off. Vertical dashes: the update by which "
        f"{100 * accuracy:g} % of the training examples were right, mean over seeds. {note}"
    )
    return Drawing(figure, shown, caption)


def batch_figure(history: pd.DataFrame, note: str) -> Drawing | str:
    """Draw eta times eigenvalue and batch sharpness of small batches against epochs: a row per rate, one seed bold."""
    shown = rows_if(history, np.isfinite(floats(history, "batch_share")))
    if shown.empty:
        return "no run in small batches has a measured batch sharpness"
    rates = groups(shown, "learning_rate")
    arms = list(dict.fromkeys(shown["arm"]))
    figure, axes = new_figure(COLUMN, 1.1 + 1.15 * len(rates), len(rates), len(arms))
    top = 2 * 1.1 * max(float(np.nanmax(shown[["share", "batch_share"]].to_numpy(dtype=float))), 1.1)
    for row, (rate, of_rate) in enumerate(rates):
        for column, arm in enumerate(arms):
            ax = axes[row, column]
            _shares(ax, rows_where(of_rate, arm=arm), "epoch", {"share": ITERATES, "batch_share": BATCHES})
            title = rf"$B$ = {arm.rpartition(' ')[2]}" if row == 0 else ""
            ax.set(ylim=(0, top), title=title)
            ax.xaxis.set_major_locator(MaxNLocator(2))
            ax.tick_params(labelleft=column == 0, labelbottom=row == len(rates) - 1)
        axes[row, 0].set_ylabel(rf"$\eta$ = {rate:g}", fontsize=8)
    figure.supylabel(r"$\eta\,\times$ curvature", fontsize=9)
    figure.supxlabel("Epochs", fontsize=9)
    _legend(figure, {r"$\lambda_{\max}$": ITERATES, "batch sharpness": BATCHES})
    caption = (
        "Learning rate times two curvatures during training in batches of B with the square loss: the top eigenvalue "
        "of the Hessian of the whole training loss, and the batch sharpness, the curvature of a batch's own loss along "
        f"its own gradient, on average over batches. One seed is bold, the others are faint. {note}"
    )
    return Drawing(figure, shown, caption)


def edge_figure(runs: pd.DataFrame, band: tuple[float, float], note: str) -> Drawing | str:
    """Draw for every arm and learning rate its medians in units of the edge, a mark per run."""
    names = {"hover": ITERATES, "settled": ITERATES, "between": MIDPOINTS, "batch": BATCHES}
    shown = rows_if(runs, np.isfinite(runs[list(names)].to_numpy(dtype=float)).any(axis=1))
    if shown.empty:
        return "no finished run has enough measured eigenvalues"
    places = list(dict.fromkeys(zip(shown["arm"], shown["learning_rate"], strict=True)))
    figure, axes = new_figure(COLUMN, 0.9 + 0.22 * len(places))
    ax = axes[0, 0]
    ax.axvspan(*band, color="0.93", zorder=0)
    ax.axvline(1, color="0.2", linestyle=":", linewidth=1.2)
    offsets = {"hover": -0.17, "settled": -0.17, "between": 0.17, "batch": 0.17}
    for row in records(shown):
        y = places.index((row["arm"], row["learning_rate"]))
        for name, look in names.items():
            if row[name] is not None:
                style = {"color": look.color, "marker": look.marker, "markersize": 3, "linestyle": ""}
                ax.plot(row[name], y + offsets[name], alpha=0.8, **style)
    ax.set_yticks(range(len(places)), [rf"{arm}, $\eta$ = {rate:g}" for arm, rate in places])
    ax.set(ylim=(len(places) - 0.5, -0.5), xlabel="Share of the edge of stability")
    ax.grid(axis="y", visible=False)
    labels = {"hover": r"$\lambda_{\max}$, iterates", "between": "between them", "batch": "batch sharpness"}
    handles = [names[name].handle(text, linestyle="", markersize=3.5) for name, text in labels.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, columnspacing=0.6, handletextpad=0.1)
    caption = (
        "Median curvature in units of the optimiser's edge of stability, one mark of each kind per run: of full "
        "batches from the first eigenvalue at the edge until the data are fitted, at the iterates and, without "
        "momentum, halfway between consecutive ones; of small batches, whose size stands behind the name, in the "
        f"second half of training. Shaded: {band[0]:g} to {band[1]:g}, which counts as at the edge. With fewer than "
        f"five measurements there is no mark. {note}"
    )
    return Drawing(figure, shown, caption)


def _shares(ax: Axes, rows: pd.DataFrame, x: str, looks: Mapping[str, Look]) -> None:
    """Draw twice the shares of the edge, that is eta times the curvature, a line per seed, the first one bold."""
    seeds = groups(rows, "seed")
    for name, look in looks.items():
        for number, (_, of_seed) in enumerate(reversed(seeds), 1):
            bold = number == len(seeds)
            style: dict[str, Any] = {"linewidth": 1.0, "zorder": 3} if bold else {"linewidth": 0.6, "alpha": FAINT}
            ax.plot(floats(of_seed, x), 2 * floats(of_seed, name), color=look.color, **style)
    ax.axhline(2, color="0.2", linestyle=":", linewidth=1.2, zorder=4)
    ax.set_xlim(0, floats(rows, x).max())
    ax.set_yticks(range(5))


def _fitted(ax: Axes, runs: pd.DataFrame) -> None:
    fitted = floats(runs, "fitted")
    if np.isfinite(fitted).any():
        ax.axvline(float(np.nanmean(fitted)), color="0.5", linestyle="--", linewidth=0.8)


def _legend(figure: Figure, looks: Mapping[str, Look]) -> None:
    handles = [Line2D([], [], color=look.color, label=label) for label, look in looks.items()]
    handles.append(Line2D([], [], color="0.2", linestyle=":", label="edge, 2"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0, handlelength=1.6)

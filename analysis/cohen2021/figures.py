"""The two figures of the edge of stability: eigenvalue and loss while training, and how close to the edge it stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where
from sharpness.plots.seeds import each_seed, hues
from sharpness.plots.style import FULL, LOOKS, new_figure, shades

TITLES = {"GD": "GD, tanh", "Polyak": "Polyak, tanh", "Nesterov": "Nesterov, tanh"}


def eigenvalue_figure(
    history: pd.DataFrame, epochs: pd.DataFrame, runs: pd.DataFrame, accuracy: float, note: str
) -> Drawing | str:
    """Draw the eigenvalue (above) and the training loss (below) against updates, a column per arm."""
    shown = history.loc[np.isfinite(floats(history, "top_eigenvalue"))]
    arms = list(dict.fromkeys(shown["arm"]))
    if not arms:
        return "no run has a measured eigenvalue"
    colors = shades(sorted(set(shown["learning_rate"])))
    figure, axes = new_figure(FULL, 3.6, 2, len(arms))
    losses = rows_if(epochs, (floats(epochs, "step") >= 1) & (floats(epochs, "train_loss") > 0))
    losses = losses.assign(before=floats(losses, "step") - 1)
    finished = rows_where(shown, status="finished")  # a diverging run would squeeze the others
    top = 1.15 * max(floats(finished if len(finished) else shown, "top_eigenvalue").max(), 0.1)
    losses_shown = rows_where(losses, status="finished") if len(finished) else losses
    for column, arm in enumerate(arms):
        eigenvalues, loss = axes[0, column], axes[1, column]
        _eigenvalues(eigenvalues, rows_where(shown, arm=arm), rows_where(runs, arm=arm), colors)
        each_seed(loss, rows_where(losses, arm=arm), "before", "train_loss", **hues("learning_rate", colors))
        eigenvalues.set(title=TITLES.get(arm, arm), ylim=(0, top))
        log_axis(loss.yaxis, floats(losses_shown, "train_loss"))
        last = floats(rows_where(shown, arm=arm), "step").max()
        for ax in (eigenvalues, loss):
            ax.set_xlim(0, last)
            ax.xaxis.set_major_locator(MaxNLocator(3))
            ax.tick_params(labelbottom=ax is loss, labelleft=column == 0)
        loss.set_xlabel("Updates")
    axes[0, 0].set_ylabel(r"$\lambda_{\max}$ (nats)")
    axes[1, 0].set_ylabel("Train loss (nats)")
    fitted = f"{100 * accuracy:g} %"
    handles = [
        *(Line2D([], [], color=color, label=rf"$\eta$ = {rate:g}") for rate, color in colors.items()),
        Line2D([], [], color="0.2", linestyle=":", label="edge"),
        Line2D([], [], color="0.2", linestyle="", marker="|", markersize=7, label=f"{fitted} fitted"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    caption = (
        "Top eigenvalue of the Hessian of the training loss (above) and that loss (below, log axis) while training, "
        "one line per seed and learning rate. Dotted: the edge of stability of the optimiser at that rate; an edge "
        f"above the panel is not drawn. Vertical marks: the update by which {fitted} of the training examples were "
        f"right, at which the authors' code stops; mean over seeds. {note}"
    )
    return Drawing(figure, shown, caption)


def _eigenvalues(ax: Axes, history: pd.DataFrame, runs: pd.DataFrame, colors: dict[float, Any]) -> None:
    each_seed(ax, history, "step", "top_eigenvalue", **hues("learning_rate", colors), linewidth=0.6, alpha=0.7)
    for rate, rows in groups(history, "learning_rate"):
        ax.axhline(float(floats(rows, "edge")[0]), color=colors[rate], linestyle=":", linewidth=1.2, zorder=3)
        fitted = floats(rows_where(runs, learning_rate=rate), "fitted")
        if np.isfinite(fitted).any():
            ax.plot(np.nanmean(fitted), 0, marker="|", color=colors[rate], markersize=12, clip_on=False, zorder=4)


def edge_figure(runs: pd.DataFrame, band: tuple[float, float], note: str) -> Drawing | str:
    """Draw for every arm and learning rate the eigenvalue in units of the edge: median at it, and the largest."""
    shown = runs.loc[np.isfinite(floats(runs, "peak"))]
    if shown.empty:
        return "no finished run has a measured eigenvalue"
    places = [
        (arm, rate)
        for arm in dict.fromkeys(shown["arm"])
        for rate in sorted(set(rows_where(shown, arm=arm)["learning_rate"]))
    ]
    figure, axes = new_figure(FULL, 2.5)
    ax = axes[0, 0]
    ax.axhspan(*band, color="0.93", zorder=0)
    ax.axhline(1, color="0.2", linestyle=":", linewidth=1.2)
    for row in records(shown):
        x = places.index((row["arm"], row["learning_rate"])) + 0.06 * (row["seed"] % 5 - 2)
        ax.plot(x + 0.02, row["peak"], color=LOOKS[1].color, marker=LOOKS[1].marker, markersize=3.5, fillstyle="none")
        if row["hover"] is not None:
            ax.plot(x - 0.02, row["hover"], color=LOOKS[0].color, marker=LOOKS[0].marker, markersize=3.5)
    ax.set_xticks(range(len(places)), [f"{arm}\n$\\eta$ = {rate:g}" for arm, rate in places])
    ax.set(xlim=(-0.5, len(places) - 0.5), ylabel=r"$\lambda_{\max}$ / edge")
    ax.set_ylim(0, 1.1 * max(floats(shown, "peak").max(), band[1]))
    ax.grid(axis="x", visible=False)
    handles = [
        LOOKS[0].handle("median after the onset", linestyle="", markersize=3.5),
        LOOKS[1].handle("largest", linestyle="", markersize=3.5, fillstyle="none"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    caption = (
        "Top eigenvalue in units of the optimiser's edge of stability, one mark of each kind per run (seeds side by "
        f"side): the median from the first eigenvalue at the edge until the data are fitted (filled; {band[0]:g} to "
        f"{band[1]:g}, shaded, counts as at the edge) and the largest until then (open). A run without a filled mark "
        f"did not reach the edge, or had fewer than five measurements there. {note}"
    )
    return Drawing(figure, shown, caption)

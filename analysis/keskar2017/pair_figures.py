"""One function per kind of figure: a table and axes in, axes out; no file is read or written here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.keskar2017.drawn import drawable
from analysis.numbers import correlation
from analysis.statistics import Interval
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.line import End, draw_lines
from sharpness.plots.style import LOOKS, Look

ROLE = {
    "SB": replace(LOOKS[0], label="small batch (SB)"),
    "LB": replace(LOOKS[1], label="large batch (LB)"),
}
ENDS = [End(0, "SB", ROLE["SB"]), End(1, "LB", ROLE["LB"])]

PANELS = (
    ("train_loss", "Train loss (nats)"),
    ("test_loss", "Test loss (nats)"),
    ("train_accuracy", "Train accuracy (%)"),
    ("test_accuracy", "Test accuracy (%)"),
)
CROSS: dict[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.5}


def training_curves(table: pd.DataFrame, axes: np.ndarray) -> np.ndarray:
    """Draw loss (log axis) and accuracy against epochs on 2 x 2 axes: thin lines per seed, a thick mean per role.

    ``table`` is that of :func:`analysis.keskar2017.drawn.training_table`. A diverged run ends in a cross.
    """
    for ax, (name, label) in zip(axes.flat, PANELS, strict=True):
        for role, rows in groups(table, "role"):
            _role_curves(ax, rows, ROLE[role], name)
        ax.set(xlabel="Epoch", ylabel=label)
        ax.margins(x=0.02)
        if name.endswith("loss"):
            log_axis(ax.yaxis, floats(table, name))
        else:
            _limits_after_start(ax, floats(table, "epoch"), floats(table, name))
    handles = _role_handles(table)
    if len(rows_where(table, status="diverged")):
        handles.append(Line2D([], [], color="0.3", linestyle="", label="diverged", **CROSS))
    _legend_above(axes.flat[0], handles)
    return axes


def _role_curves(ax: Axes, rows: pd.DataFrame, look: Look, name: str) -> None:
    for _, run in groups(rows_where(rows, line="run"), "seed"):
        epochs, values = floats(run, "epoch"), floats(run, name)
        ax.plot(epochs, values, color=look.color, linestyle=look.linestyle, linewidth=0.6, alpha=0.45)
        measured = np.flatnonzero(np.isfinite(values))
        if len(rows_where(run, status="diverged")) and len(measured):
            last = measured[-1]
            ax.plot(epochs[last], values[last], color=look.color, linestyle="", zorder=4, **CROSS)
    mean = rows_where(rows, line="mean")
    ax.plot(
        floats(mean, "epoch"),
        floats(mean, name),
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markevery=max(1, len(mean) // 6),
    )


def _limits_after_start(ax: Axes, epochs: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    """Fit the axis to what follows epoch 0: chance level before training would squeeze it into a corner."""
    later = values[(epochs > 0) & np.isfinite(values)]
    later = later if len(later) else values[np.isfinite(values)]
    if len(later):
        margin = 0.06 * np.ptp(later) or 1.0
        ax.set_ylim(later.min() - margin, later.max() + margin)


def linear_interpolation(table: pd.DataFrame, ax: Axes) -> tuple[Axes, Axes | None]:
    """Draw loss and accuracy along (1 - alpha) SB + alpha LB, the first seed's pair bold, the others faint.

    ``table`` is that of :func:`analysis.keskar2017.drawn.interpolation_table`. Returns the axes of the
    loss and of the accuracy.
    """
    lines = [rows for _, rows in groups(table, "seed")]
    alpha = r"$\alpha$ in $(1-\alpha)\,w_{\mathrm{SB}} + \alpha\,w_{\mathrm{LB}}$"
    return draw_lines(ax, lines, ENDS, alpha, "Cross-entropy (nats)")


def gap_vs_sharpness(
    table: pd.DataFrame, axes: np.ndarray, taus: Mapping[str, Interval], setting: tuple[float, str] | None
) -> np.ndarray:
    """Draw the generalisation gap against lambda_max (left, with its interval) and phi (right), one mark per run.

    ``table`` is that of :func:`analysis.keskar2017.drawn.gap_table`, ``taus`` holds Kendall's tau-b per quantity and
    ``setting`` the epsilon and start of phi. Values that are not positive have no place on the logarithmic axis.
    """
    unit = f"%, $\\epsilon$ = {setting[0]:g}" if setting else "%"
    labels = {
        "top_eigenvalue": r"Top Hessian eigenvalue $\lambda_{\max}$ (nats)",
        "keskar_sharpness": rf"Keskar sharpness $\phi$ ({unit})",
    }
    for ax, (quantity, label) in zip(axes.flat, labels.items(), strict=True):
        shown = drawable(table, quantity)
        for _, pair in groups(shown, "seed"):
            ax.plot(floats(pair, quantity), floats(pair, "generalisation_gap"), color="0.75", linewidth=0.6, zorder=1)
        for role, rows in groups(shown, "role"):
            _marks(ax, rows, ROLE[role], quantity)
        if shown.empty:
            ax.text(0.5, 0.5, "no positive value", transform=ax.transAxes, ha="center", va="center", fontsize=8)
        columns = [quantity, "lower", "upper"] if quantity == "top_eigenvalue" else [quantity]
        log_axis(ax.xaxis, np.concatenate([floats(shown, name) for name in columns]), padding=1.6)
        ax.margins(y=0.12)
        ax.set(xlabel=label, ylabel="Train $-$ test accuracy (pp)")
        ax.set_title(rf"Kendall $\tau_b$ {correlation(taus[quantity])}".replace("-", "\N{MINUS SIGN}"))
    _legend_above(axes.flat[0], _role_handles(table, lines=False))
    return axes


def _marks(ax: Axes, rows: pd.DataFrame, look: Look, quantity: str) -> None:
    x, bars = floats(rows, quantity), None
    if quantity == "top_eigenvalue":
        # A bound that was not measured draws no bar; one at or below zero runs to the edge of the logarithmic axis.
        lower, upper = (np.where(np.isfinite(b), b, x) for b in (floats(rows, "lower"), floats(rows, "upper")))
        bars = np.clip(np.stack([x - np.clip(lower, 1e-12, None), upper - x]), 0, None)
    ax.errorbar(
        x,
        floats(rows, "generalisation_gap"),
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


def _role_handles(table: pd.DataFrame, lines: bool = True) -> list[Line2D]:
    looks = [look for role, look in ROLE.items() if len(rows_where(table, role=role))]
    return [
        Line2D([], [], color=k.color, marker=k.marker, linestyle=k.linestyle if lines else "", label=k.label)
        for k in looks
    ]


def _legend_above(ax: Axes, handles: list[Line2D]) -> None:
    """Put the legend above all axes, where it cannot cover data."""
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=2.6)

"""The figures of the edge of stochastic stability: curvature while training, and where it settles."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where
from sharpness.plots.style import COLUMN, LOOKS, new_figure

LOOK = {"batch": LOOKS[2], "top": LOOKS[0]}
NAMES = {"batch": "batch sharpness", "top": r"$\lambda_{\max}$"}
PLATEAU = {"color": "0.2", "linestyle": ":", "linewidth": 1.2}
FAINT = 0.25


def history_figure(history: pd.DataFrame, note: str) -> Drawing | str:
    """Draw both curvatures against epochs at the smallest rate, for smallest and largest batch; one seed is bold."""
    shown = rows_if(history, np.isfinite(floats(history, "batch")))
    if shown.empty:
        return "no run has a measured batch sharpness"
    places = []
    for _, rows in groups(shown, "momentum"):
        first = rows_where(rows, learning_rate=rows["learning_rate"].min())
        sizes = sorted(set(first["batch_size"]))
        places += [rows_where(first, batch_size=size) for size in dict.fromkeys((sizes[0], sizes[-1]))]
    figure, axes = new_figure(COLUMN, 0.8 + 1.05 * len(places), len(places), 1)
    for rows, ax in zip(places, axes[:, 0], strict=True):
        momentum, batch = float(rows["momentum"].iloc[0]), int(rows["batch_size"].iloc[0])
        for name, look in LOOK.items():
            for number, (_, own) in enumerate(reversed(groups(rows, "seed")), 1):
                bold = number == len(set(rows["seed"]))
                style = {"linewidth": 1.1} if bold else {"linewidth": 0.6, "alpha": FAINT}
                ax.plot(floats(own, "epoch"), 2 * floats(own, name), color=look.color, **style)
        for plateau in {2 * (1 - momentum), 2 * (1 + momentum)}:
            ax.axhline(plateau, **PLATEAU)
        top = 2.2 * max(1 + momentum, float(np.nanmax(rows[list(LOOK)].to_numpy(dtype=float))))
        ax.set(title=rf"$b$ = {momentum:g}, $B$ = {batch}", ylim=(0, top), xlim=(0, floats(rows, "epoch").max()))
    figure.supylabel(r"$\eta\,\times$ curvature", fontsize=9)
    axes[-1, 0].set_xlabel("Epochs")
    handles = [Line2D([], [], color=LOOK[name].color, label=text) for name, text in NAMES.items()]
    handles.append(Line2D([], [], label=r"$2\,(1\mp b)$", **PLATEAU))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0, handlelength=1.6)
    caption = (
        "Learning rate times batch sharpness and top eigenvalue during training with momentum b in batches of B, at "
        "the smaller rate, to which the rate grows first. Dotted: the plateaus of small and of large batches. One seed "
        f"is bold. {note}"
    )
    return Drawing(figure, pd.concat(places), caption)


def plateau_figure(runs: pd.DataFrame, note: str) -> Drawing | str:
    """Draw where both curvatures settled in units of 2 / eta, a mark per run, with the plateaus of each momentum."""
    shown = rows_if(runs, np.isfinite(floats(runs, "batch")))
    if shown.empty:
        return "no finished run has enough measurements"
    keys = ["momentum", "batch_size", "learning_rate"]
    places = sorted({tuple(row) for row in shown.filter(keys).to_numpy()})
    figure, axes = new_figure(COLUMN, 0.9 + 0.24 * len(places))
    ax = axes[0, 0]
    for row in records(shown):
        y = places.index(tuple(row[key] for key in keys))
        for name, shift in (("batch", 0.16), ("top", -0.16)):
            if row[name] is not None:
                look = LOOK[name]
                ax.plot(row[name], y + shift, color=look.color, marker=look.marker, ms=3.5, linestyle="", alpha=0.8)
    for y, (momentum, *_) in enumerate(places):
        for plateau in {1 - momentum, 1 + momentum}:
            ax.plot([plateau, plateau], [y - 0.45, y + 0.45], color="0.2", linewidth=1.2)
    ax.set_yticks(range(len(places)), [rf"$b$ {b:g}, $B$ {int(size)}, $\eta$ {eta:g}" for b, size, eta in places])
    every = [*floats(shown, "batch"), *floats(shown, "top"), *(1 - m for m, *_ in places), *(1 + m for m, *_ in places)]
    log_axis(ax.xaxis, [each for each in every if np.isfinite(each)], 1.15)
    ax.set(ylim=(len(places) - 0.5, -0.5), xlabel=r"Curvature in units of $2\,/\,\eta$")
    ax.grid(axis="y", visible=False)
    handles = [LOOK[name].handle(text, linestyle="", markersize=3.5) for name, text in NAMES.items()]
    handles.append(Line2D([], [], color="0.2", marker="|", linestyle="", label=r"$1\mp b$"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=0.8, handletextpad=0.1)
    caption = (
        "Median batch sharpness and top eigenvalue in the second half of training, in units of 2 / eta, a mark of each "
        f"kind per run. Strokes: the plateaus of small and of large batches, 1 - b and 1 + b. {note}"
    )
    return Drawing(figure, shown, caption)

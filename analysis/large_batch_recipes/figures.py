"""The figures of the large-batch recipes: error against batch, steps to the goal, and time on many workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.report.report import Drawing
from sharpness.plots.axes import fixed_ticks, log_axis
from sharpness.plots.frames import floats, records, rows_where
from sharpness.plots.seeds import range_of_seeds
from sharpness.plots.style import FULL, LOOKS, Line, Look, new_figure, shades

PANELS = {
    "Goyal et al., You et al.": ("linear", "linear + warm-up", "LARS, linear", "LARS, sqrt"),
    "Hoffer et al.": ("fixed rate", "sqrt", "sqrt + ghost", "sqrt + ghost + longer"),
    "Masters & Luschi": ("linear",),
}
BASE = "base"
DASHES: Mapping[str, Line] = {"ring": "-", "2D torus": "--"}


def recipes_figure(runs: pd.DataFrame, settings: Mapping[str, Any], margin: float, note: str) -> Drawing | str:
    """Draw the final test error against the batch size: growing batches by recipe, and the linear rule downwards."""
    shown = runs.loc[np.isfinite(floats(runs, "error"))]
    if shown.empty:
        return "no run has a final error"
    base = settings["base"]["training"]["batch_size"]
    figure, axes = new_figure(FULL, 3.1, 1, 3)
    for ax, (title, recipes) in zip(axes[0], PANELS.items(), strict=True):
        downwards = title == "Masters & Luschi"
        part = shown if downwards else shown.loc[floats(shown, "batch") >= base]
        drawn = [
            _errors(ax, part, recipe, look)
            for recipe, look in zip(recipes, LOOKS, strict=False)
            if len(rows_where(part, recipe=recipe))
        ]
        mean = floats(rows_where(shown, recipe=BASE), "error")
        if len(mean):
            ax.axhspan(mean.mean(), mean.mean() + margin, color="0.9", zorder=0, linewidth=0)
        ax.axvline(base, color="0.5", linestyle=":", linewidth=1)
        batch_axis(ax, floats(part, "batch"))
        error_axis(ax, floats(shown, "error"))
        ax.tick_params(labelleft=ax is axes[0, 0])
        ax.set_title(title)
        ax.legend(handles=drawn, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=1)
    axes[0, 0].set_ylabel("Test error (%)")
    caption = (
        "Final test error (log axis) against the batch size: means over seeds, bars: their whole range; a diverged "
        f"run counts as a guess ({100 * settings['chance']:g} %). Dotted: the base batch {base}, whose run all "
        f"recipes share; grey: at most {margin:g} percentage point above it. Right: the linear rule at batches below "
        f"the base too. All runs see the training set {settings['base']['training']['epochs']} times, but for "
        f"'longer', which makes as many updates as the base. {note}"
    )
    return Drawing(figure, shown, caption)


def _errors(ax: Axes, runs: pd.DataFrame, recipe: str, look: Look) -> Line2D:
    """Draw one recipe with the base batch as its own, and return its handle."""
    own = runs.loc[[name in (recipe, BASE) for name in runs["recipe"]]]
    if recipe.startswith("LARS"):  # with an optimiser of its own the base batch is one too
        smallest = runs.loc[(runs["recipe"] == "LARS, linear") & (runs["batch"] == runs["batch"].min())]
        own = pd.concat([smallest, rows_where(runs, recipe=recipe)]).drop_duplicates()
    range_of_seeds(ax, own, "batch", "error", **look.artist)
    return look.handle(recipe)


def error_axis(ax: Axes, errors: np.ndarray) -> None:
    """Make the axis of errors in % logarithmic, with ticks close enough for less than a decade."""
    log_axis(ax.yaxis, errors)
    ticks = np.outer(10.0 ** np.arange(-1, 3), [1, 1.5, 2, 3, 5, 7]).ravel()
    low, high = ax.get_ylim()
    fixed_ticks(ax.yaxis, ticks[(ticks >= low) & (ticks <= min(high, 100))])


def batch_axis(ax: Axes, batches: np.ndarray) -> None:
    """Give an axis of batch sizes ticks at the largest and every second power of two, or every one, below it."""
    log_axis(ax.xaxis, batches)
    low, high = np.log2(batches.min()), np.log2(batches.max())
    fixed_ticks(ax.xaxis, 2.0 ** np.arange(high, low - 0.5, -2 if high - low > 5 else -1))
    ax.set_xlabel("Batch size")


def workers_figure(
    runs: pd.DataFrame, fastest: pd.DataFrame, projected: pd.DataFrame, settings: Mapping[str, Any], note: str
) -> Drawing | str:
    """Draw the steps to the goal against the batch (left), and the projected time against workers (right)."""
    if fastest.empty:
        return "no recipe reached the goal with all its runs at any batch"
    figure, axes = new_figure(FULL, 2.8, 1, 2)
    left, right = axes[0]
    _steps(left, runs, fastest)
    batches = [int(batch) for batch in fastest["batch"]]
    colors = shades(batches, 0.9)
    for batch, color in colors.items():
        for topology, line in DASHES.items():
            rows = rows_where(projected, batch=batch, topology=topology)
            right.plot(floats(rows, "workers"), floats(rows, "seconds"), color=color, linestyle=line, linewidth=1)
    handles = [Line2D([], [], color=color, label=f"B = {batch}") for batch, color in colors.items()]
    handles += [Line2D([], [], color="0.2", linestyle=line, label=name) for name, line in DASHES.items()]
    right.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    log_axis(right.xaxis, floats(projected, "workers"))
    log_axis(right.yaxis, floats(projected, "seconds"))
    right.set(xlabel="Workers", ylabel="Projected time to the goal (s)")
    caption = (
        f"Left: steps to a test error of {100 * settings['goal_error']:g} %, one mark per run that reached it; "
        "joined: the recipe with the lowest median at each batch, of those whose runs all reached it; dashed: in "
        "proportion to 1 / B from the smallest batch. Right: those steps times the modelled time of a step on so "
        f"many workers; no run used more than one. {note}"
    )
    return Drawing(figure, projected, caption)


def _steps(ax: Axes, runs: pd.DataFrame, fastest: pd.DataFrame) -> None:
    reached = runs.loc[np.isfinite(floats(runs, "steps"))]
    ax.plot(floats(reached, "batch"), floats(reached, "steps"), color="0.7", marker="o", markersize=2.5, linestyle="")
    x, y = floats(fastest, "batch"), floats(fastest, "steps")
    ax.plot(x, y, color=LOOKS[0].color, marker=LOOKS[0].marker)
    ax.plot(x, y[0] * x[0] / x, color="0.2", linestyle="--", linewidth=1)
    for row in records(fastest):
        last = row["batch"] == x[-1]
        place: dict[str, Any] = {"xytext": (-5, -7) if last else (4, 4), "ha": "right" if last else "left"}
        place |= {"textcoords": "offset points", "fontsize": 6, "color": "0.25"}
        place |= {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4}}
        ax.annotate(row["recipe"], (row["batch"], row["steps"]), **place)
    batch_axis(ax, floats(reached, "batch"))
    log_axis(ax.yaxis, np.concatenate([floats(reached, "steps"), y[0] * x[0] / x]), padding=1.6)
    ax.set_ylabel("Steps to the goal")

"""The figures of the large-batch recipes: error against batch size and against the rate, and time on many workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.large_batch_recipes.numbers import ARMS, mean_errors, of_seeds, tuned, value_of
from analysis.report.report import Drawing
from analysis.statistics.intervals import student
from sharpness.plots.axes import fixed_ticks, log_axis
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure, shades

RECIPES = ("linear", "linear + warm-up", "tuned", "LARS, tuned")
"""What stands beside Figure 1 of Goyal et al. 2017."""
NORMED = {
    "BatchNorm, constant rate": "at the same rate",
    "BatchNorm, sqrt": "by the square-root rule",
    "sqrt + ghosts": "and ghost batches",
    "sqrt + ghosts + longer": "and as many updates",
    "BatchNorm, tuned": "tuned there",
    "ghosts, tuned": "tuned there, ghost batches",
}
"""What stands beside Table 1 of Hoffer et al. 2017, a change after the other, and what tuning at the batch gives."""
PLAIN_TEXT = (
    "Without norms, beside Figure 1 of Goyal et al. 2017: there the linear rule with warm-up keeps the 23.6 % of batch "
    "256 up to 8,192, 32 times as many, where it has 23.7 %, and has 24.8, 27.6 and 34.0 % at twice that and so on."
)
LEGENDS = {
    "linear": "linear rule",
    "linear + warm-up": "linear rule, warm-up",
    "tuned": "rate tuned at each $B$",
    "LARS, tuned": "LARS, tuned at each $B$",
}
ASIDE = (0.89, 1.12, 0.7, 1.4)
"""Factors by which arrows of the arms stand aside of each other; marks stand aside by their fourth roots."""
ABOVE = 4.5
"""Percentage points above the lowest error at which the axis ends."""


def recipes_figure(arms: pd.DataFrame, base: tuple[str, int], margin: float, note: str) -> Drawing | str:
    """Draw the mean test error of the recipes without norms against the batch size, on a plain axis."""
    rows = pd.concat([mean_errors(arms, name) for name in RECIPES], ignore_index=True)
    if rows.empty:
        return "no recipe has an error"
    figure, axes = new_figure(COLUMN, 3.0)
    ax = axes[0, 0]
    low = float(floats(rows, "error").min())
    limits = (low - 0.6, low + ABOVE)
    start = floats(rows_where(arms, arm=base[0], batch=base[1]), "error")
    if len(start):
        ax.axhspan(start.mean(), start.mean() + margin, color="0.9", zorder=0, linewidth=0)
    for name, look, aside in zip(RECIPES, LOOKS, ASIDE, strict=True):
        _errors(ax, rows_where(rows, arm=name), look, limits, aside)
    handles = [look.handle(LEGENDS[name]) for name, look in zip(RECIPES, LOOKS, strict=True)]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)
    batch_axis(ax, floats(rows, "batch"))
    ax.set(ylabel="Test error (%)", ylim=limits)
    caption = (
        f"{PLAIN_TEXT} Final test error against the batch size: mean over seeds, bars: 95 % intervals. Arrows: the "
        f"error lies above the axis, as the number says (90 is a guess). Grey: at most {margin:g} points above batch "
        f"{base[1]} at its tuned rate. {note}"
    )
    return Drawing(figure, rows, caption)


def _errors(ax: Axes, rows: pd.DataFrame, look: Look, limits: tuple[float, float], aside: float) -> None:
    inside = rows_if(rows, floats(rows, "error") <= limits[1])
    x, y = aside**0.25 * floats(inside, "batch"), floats(inside, "error")
    bars = np.nan_to_num(np.stack([y - floats(inside, "lower"), floats(inside, "upper") - y]))
    ax.errorbar(x, y, bars, elinewidth=0.8, capsize=1.5, linewidth=1.1, **_without_width(look))
    outside = rows_if(rows, floats(rows, "error") > limits[1])
    for row in records(outside):
        x = aside * row["batch"]
        place = {"xy": (x, limits[1]), "xytext": (x, limits[1] - 0.55)}
        arrow = {"arrowstyle": "->", "color": look.color, "linewidth": 1.0}
        text = {"ha": "center", "va": "top", "fontsize": 6.5, "color": look.color}
        ax.annotate(f"{row['error']:.0f}", **place, arrowprops=arrow, **text)


def norms_figure(arms: pd.DataFrame, small: int, large: int, margin: float, note: str) -> Drawing | str:
    """Draw the mean test error with BatchNorm at a small batch, and at a large one after each change."""
    rows = [rows_where(mean_errors(arms, "BatchNorm, tuned"), batch=small).assign(change=f"$B$ = {small}, tuned")]
    for name, change in NORMED.items():
        rows.append(rows_where(mean_errors(arms, name), batch=large).assign(change=f"$B$ = {large}, {change}"))
    table = pd.concat(rows, ignore_index=True)
    if rows[0].empty:
        return "the base batch with BatchNorm has no error"
    figure, axes = new_figure(COLUMN, 2.2)
    ax, look = axes[0, 0], LOOKS[0]
    start = float(floats(table, "error")[0])
    ax.axvspan(start, start + margin, color="0.9", zorder=0, linewidth=0)
    places = -np.arange(len(table))
    x = floats(table, "error")
    bars = np.nan_to_num(np.stack([x - floats(table, "lower"), floats(table, "upper") - x]))
    ax.errorbar(x, places, xerr=bars, linestyle="", capsize=1.5, elinewidth=0.8, color=look.color, marker=look.marker)
    ax.set_yticks(places, [str(change) for change in table["change"]])
    ax.set(xlabel="Test error (%)", ylim=(-len(table) + 0.4, 0.6))
    caption = (
        f"With BatchNorm: final test error at batch {small} and at batch {large} after one change after the other, and "
        "with rates tuned there; mean over seeds, bars: 95 % intervals. Grey: at most "
        f"{margin:g} points above batch {small}. Deeper and wider, it has errors of 1.73, 2.95, 2.45, "
        "2.40 and 1.47 % in the first five rows in Table 1 of Hoffer et al. 2017 (F1 on MNIST, batches 128 and 4,096). "
        f"{note}"
    )
    return Drawing(figure, table, caption)


def _without_width(look: Look) -> dict[str, Any]:
    return {**look.artist, "markersize": 3.5}


def rates_figure(rows: pd.DataFrame, settings: Mapping[str, Any], note: str) -> Drawing | str:
    """Draw the held-out error against the rate, a line for each batch, with the tuned and the rule's rate."""
    own = rows_where(of_seeds(rows, settings, tuning=True), recipe="plain")
    if own.empty:
        return "no network without norms was trained"
    table = _by_rate(own)
    figure, axes = new_figure(COLUMN, 3.0)
    ax, low = axes[0, 0], float(floats(table, "error").min())
    parts = groups(table, "batch")
    for (batch, part), color in zip(parts, shades([batch for batch, _ in parts]).values(), strict=True):
        shown = rows_if(part, floats(part, "error") <= USED)
        ax.plot(floats(shown, "value"), floats(shown, "error"), color=color, linewidth=1.1, label=f"$B$ = {batch}")
        _mark(ax, part, tuned(rows, settings, "plain", batch), color, {"marker": "o", "markersize": 4.5})
        rule = value_of(rows, settings, ARMS["linear"], batch)
        _mark(ax, part, rule, color, {"marker": "D", "markersize": 7, "markerfacecolor": "none"})
    handles, _ = ax.get_legend_handles_labels()
    style: dict[str, Any] = {"color": "0.2", "linestyle": ""}
    handles += [Line2D([], [], marker="o", markersize=4.5, label="tuned", **style)]
    handles += [Line2D([], [], marker="D", markersize=6, markerfacecolor="none", label="linear rule", **style)]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0)
    log_axis(ax.xaxis, floats(table, "value"))
    ax.set(xlabel="Learning rate", ylabel="Held-out error (%)", ylim=(low - 0.6, low + 2 * ABOVE))
    caption = (
        "How rates are tuned: final held-out error against the learning rate without norms, mean over the seeds that "
        "tune, by batch size. Discs: the lowest, which is the tuned rate. Diamonds: what the linear rule makes of that "
        f"of the base batch, where it lies inside the axes. Lines end where training fails. {note}"
    )
    return Drawing(figure, table, caption)


USED = 40.0
"""Errors in % from which on a line is not drawn: the axis ends far below."""


def _by_rate(tuning: pd.DataFrame) -> pd.DataFrame:
    table = [
        {"batch": batch, "value": value, "error": found.value, "lower": found.lower, "upper": found.upper}
        for batch, part in groups(tuning, "batch")
        for value, own in groups(part, "value")
        for found in [student(floats(own, "held_out"))]
    ]
    return pd.DataFrame(table)


def _mark(ax: Axes, part: pd.DataFrame, value: float | None, color: Any, style: Mapping[str, Any]) -> None:
    rows = part if value is None else rows_if(part, np.isclose(floats(part, "value"), value))
    if value is not None and len(rows):
        ax.plot(value, floats(rows, "error")[0], color=color, linestyle="", zorder=4, **style)


def batch_axis(ax: Axes, batches: np.ndarray) -> None:
    """Give an axis of batch sizes a tick at each of them, logarithmic."""
    log_axis(ax.xaxis, batches)
    fixed_ticks(ax.xaxis, sorted(set(batches)))
    ax.set_xlabel("Batch size $B$")


def workers_figure(
    fastest: pd.DataFrame, projected: pd.DataFrame, settings: Mapping[str, Any], note: str
) -> Drawing | str:
    """Draw the projected time to the goal on a ring against the number of workers, a line for each batch."""
    if fastest.empty:
        return "no recipe always reached the goal at any batch"
    figure, axes = new_figure(COLUMN, 2.8)
    ax = axes[0, 0]
    colors = shades([int(batch) for batch in fastest["batch"]])
    ring = rows_where(projected, topology="ring")
    for batch, color in colors.items():
        rows = rows_where(ring, batch=batch)
        x = floats(rows, "workers")
        ax.plot(x, floats(rows, "seconds"), color=color, linewidth=1.2, label=f"$B$ = {batch}")
        ax.fill_between(x, floats(rows, "lower"), floats(rows, "upper"), color=color, alpha=0.2, linewidth=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0)
    log_axis(ax.xaxis, floats(ring, "workers"))
    log_axis(ax.yaxis, floats(ring, "seconds"))
    ax.set(xlabel="Workers in a ring", ylabel="Projected time to the goal (s)")
    caption = (
        f"Time to a held-out error of {100 * settings['goal_error']:g} % on so many workers, projected: the steps "
        "measured at each batch, with the recipe and rate that need the fewest, times the time of a step by a model "
        "with assumed constants. Bands: 95 % intervals of the steps over seeds. Nothing ran on more than one worker. "
        f"{note}"
    )
    return Drawing(figure, projected, caption)

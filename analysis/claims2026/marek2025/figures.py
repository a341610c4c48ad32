"""The figures of small batches of language: tuned losses against the batch size, losses against the rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.claims2026.marek2025.numbers import FIXED, HELD, SGD, batches_of, means_by_rate
from analysis.report.report import Drawing
from sharpness.plots.axes import fixed_ticks, log_axis, number_axis
from sharpness.plots.frames import floats, records, rows_if, rows_where
from sharpness.plots.seeds import CROSS, dodged, hues, mean_of_seeds, range_of_seeds
from sharpness.plots.style import COLUMN, LOOKS, new_figure, shades

LOOK = dict(zip((HELD, FIXED, SGD), LOOKS, strict=False))
LOSS = "Test loss (nats a byte)"


def losses_figure(best: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test loss at the tuned rate against the batch size, a line for each way to train."""
    if best.empty:
        return "no run finished"
    figure, axes = new_figure(COLUMN, 2.7)
    ax = axes[0, 0]
    apart = dodged(best, "batch", "way", list(LOOK), 1.15)
    for way, look in LOOK.items():
        range_of_seeds(ax, rows_where(apart, way=way), "batch", "test_loss", **look.artist)
    log_axis(ax.xaxis, floats(best, "batch"))
    fixed_ticks(ax.xaxis, batches_of(best))
    number_axis(ax.yaxis, floats(best, "test_loss"))
    ax.set(xlabel="Batch size (windows)", ylabel=LOSS)
    figure.legend(handles=[look.handle(way) for way, look in LOOK.items()], loc="outside upper center", ncols=1)
    caption = (
        "Test loss after the same number of bytes against the batch size, each at the learning rate chosen on held-out "
        f"text of the other seeds: mean over the seeds with their whole range, side by side. {note}"
    )
    return Drawing(figure, best, caption)


def rates_figure(rows: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test loss against the learning rate, a panel for each way to train and a line for each batch size."""
    if rows.empty:
        return "no run finished"
    figure, axes = new_figure(COLUMN, 0.9 + 1.6 * len(LOOK), len(LOOK), 1)
    colors, means = shades(batches_of(rows)), means_by_rate(rows)
    for ax, way in zip(axes[:, 0], LOOK, strict=True):
        _draw_rates(ax, rows_where(means, way=way), colors)
        ax.set(ylabel=LOSS, title=way)
    axes[-1, 0].set_xlabel("Learning rate")
    handles = [LOOKS[0].handle(f"B = {b}", color=color, linestyle="-", markersize=3) for b, color in colors.items()]
    if (floats(means, "guesses") > 0).any():
        handles.append(Line2D([], [], color="0.3", label="a run diverged", **CROSS))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    caption = (
        "Test loss after the same number of bytes against the learning rate, mean over the seeds, a line for each "
        "batch size B, each panel with an axis of its own. A rate at which a run diverged has a cross at the upper "
        f"edge and no mean; in its choice such a run counts as a guess, ln 256. {note}"
    )
    return Drawing(figure, rows, caption)


def _draw_rates(ax: Axes, means: pd.DataFrame, colors: Mapping[int, Any]) -> None:
    """Draw the mean losses of each batch size against the rate, and a cross at each rate at which a run diverged."""
    whole = rows_where(means, guesses=0)
    mean_of_seeds(ax, whole, "learning_rate", "test_loss", marker="o", markersize=3, **hues("batch", colors))
    log_axis(ax.xaxis, floats(means, "learning_rate"), steps=(1, 3))
    number_axis(ax.yaxis, floats(whole, "test_loss"))
    for row in records(rows_if(means, floats(means, "guesses") > 0)):
        edge = ax.get_xaxis_transform()
        ax.plot(row["learning_rate"], 1, color=colors[row["batch"]], transform=edge, clip_on=False, **CROSS)

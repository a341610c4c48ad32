"""The figures of small batches of language: tuned losses against the batch size, losses against the rate."""

from __future__ import annotations

import pandas as pd

from analysis.claims2026.marek2025.numbers import FIXED, HELD, SGD, batches_of
from analysis.report.report import Drawing
from sharpness.plots.axes import fixed_ticks, log_axis, number_axis
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.seeds import hues, mean_of_seeds, range_of_seeds
from sharpness.plots.style import COLUMN, FULL, LOOKS, new_figure, shades

LOOK = dict(zip((HELD, FIXED, SGD), LOOKS, strict=False))
LOSS = "Test loss (nats a byte)"


def losses_figure(best: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test loss at the tuned rate against the batch size, a line for each way to train."""
    if best.empty:
        return "no run finished"
    figure, axes = new_figure(COLUMN, 2.7)
    ax = axes[0, 0]
    for way, look in LOOK.items():
        range_of_seeds(ax, rows_where(best, way=way), "batch", "test_loss", **look.artist)
    log_axis(ax.xaxis, floats(best, "batch"))
    fixed_ticks(ax.xaxis, batches_of(best))
    number_axis(ax.yaxis, floats(best, "test_loss"))
    ax.set(xlabel="Batch size (windows)", ylabel=LOSS)
    figure.legend(handles=[look.handle(way) for way, look in LOOK.items()], loc="outside upper center", ncols=1)
    caption = (
        "Test loss after the same number of bytes against the batch size, each at the learning rate chosen on held-out "
        f"text of the other seeds: mean over the seeds with their whole range. {note}"
    )
    return Drawing(figure, best, caption)


def rates_figure(rows: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test loss against the learning rate, a panel for each way to train and a line for each batch size."""
    if rows.empty:
        return "no run finished"
    figure, axes = new_figure(FULL, 2.6, 1, len(LOOK))
    colors = shades(batches_of(rows))
    for ax, way in zip(axes[0], LOOK, strict=True):
        own = rows_where(rows, way=way)
        mean_of_seeds(ax, own, "learning_rate", "test_loss", marker="o", markersize=3, **hues("batch", colors))
        log_axis(ax.xaxis, floats(own, "learning_rate"))
        number_axis(ax.yaxis, floats(rows, "test_loss"))
        ax.set(xlabel="Learning rate", title=way)
        ax.tick_params(labelleft=ax is axes[0, 0])
    axes[0, 0].set_ylabel(LOSS)
    handles = [LOOKS[0].handle(f"B = {b}", color=color, linestyle="-", markersize=3) for b, color in colors.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    caption = (
        "Test loss after the same number of bytes against the learning rate, mean over the seeds, a line for each "
        f"batch size B; a run that diverged counts as a guess, ln 256. {note}"
    )
    return Drawing(figure, rows, caption)

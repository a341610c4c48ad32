"""The figures of Seesaw: losses against updates, losses against the rate."""

from __future__ import annotations

import pandas as pd

from analysis.claims2026.seesaw2025.numbers import ARMS
from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis, number_axis
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.seeds import dodged, marks, range_of_seeds, scatter, without_offsets
from sharpness.plots.style import COLUMN, LOOKS, new_figure

LOOK = dict(zip(ARMS, LOOKS, strict=True))
LOSS = "Test loss (nats a byte)"


def updates_figure(chosen: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test loss against the number of updates, a mark for each run."""
    if chosen.empty:
        return "no run finished"
    figure, axes = new_figure(COLUMN, 2.7)
    ax = axes[0, 0]
    shown = without_offsets(chosen, "test_loss")
    scatter(ax, shown, "step", "test_loss", s=22, alpha=0.85, **marks("arm", LOOK))
    number_axis(ax.xaxis, floats(shown, "step"))
    number_axis(ax.yaxis, floats(shown, "test_loss"))
    ax.set(xlabel="Updates", ylabel=LOSS)
    figure.legend(
        handles=[look.handle(arm, linestyle="") for arm, look in LOOK.items()], loc="outside upper center", ncols=4
    )
    caption = (
        "Test loss after the same number of bytes against the number of updates, four schedules of rate and batch size "
        "from the rate that halving chose on held-out text of the other seeds; a mark for each seed, whose mean over "
        f"the four is moved to that of all seeds. {note}"
    )
    return Drawing(figure, shown, caption)


def rates_figure(rows: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test loss against the learning rate at the start, a line for each schedule."""
    if rows.empty:
        return "no run finished"
    figure, axes = new_figure(COLUMN, 2.7)
    ax = axes[0, 0]
    shown = without_offsets(rows, "test_loss")
    apart = dodged(shown, "learning_rate", "arm", ARMS)
    for arm, look in LOOK.items():
        range_of_seeds(ax, rows_where(apart, arm=arm), "learning_rate", "test_loss", **look.artist)
    log_axis(ax.xaxis, floats(shown, "learning_rate"))
    number_axis(ax.yaxis, floats(shown, "test_loss"))
    ax.set(xlabel="Learning rate at the start", ylabel=LOSS)
    figure.legend(handles=[look.handle(arm) for arm, look in LOOK.items()], loc="outside upper center", ncols=4)
    caption = (
        "Test loss after the same number of bytes against the learning rate at the start, four schedules: mean over "
        "the seeds with their whole range, side by side, each seed's mean over all its runs moved to that of all; a "
        f"run that diverged counts as a guess, ln 256. {note}"
    )
    return Drawing(figure, shown, caption)

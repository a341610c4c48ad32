"""The figures of late switching: losses after equal bytes, and leads at the switch and at the end."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.claims2026.late_switching2026.numbers import ARMS
from analysis.report.report import Drawing
from sharpness.plots.axes import fixed_ticks, log_axis, number_axis
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.seeds import dodged, range_of_seeds, without_offsets
from sharpness.plots.style import COLUMN, LOOKS, new_figure

LOOK = dict(zip(ARMS, LOOKS, strict=True))
LOSS = "Test loss (nats a byte)"


def rates_figure(rows: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test loss after the same bytes against the learning rate, a line for each way to use them."""
    own = rows.loc[rows["arm"].isin(ARMS), :] if not rows.empty else rows
    if own.empty:
        return "no run finished"
    figure, axes = new_figure(COLUMN, 2.7)
    ax = axes[0, 0]
    shown = without_offsets(own, "test_loss")
    apart = dodged(shown, "learning_rate", "arm", ARMS)
    for arm, look in LOOK.items():
        range_of_seeds(ax, rows_where(apart, arm=arm), "learning_rate", "test_loss", **look.artist)
    log_axis(ax.xaxis, floats(shown, "learning_rate"))
    number_axis(ax.yaxis, floats(shown, "test_loss"))
    ax.set(xlabel="Learning rate", ylabel=LOSS)
    figure.legend(handles=[look.handle(arm) for arm, look in LOOK.items()], loc="outside upper center", ncols=4)
    caption = (
        "Test loss after the same number of bytes against the learning rate, with small batches, with large ones, and "
        "with small ones that become large after a quarter (early) or three quarters (late) of the bytes: mean over "
        "the seeds with their whole range, side by side, each seed's mean over all its runs moved to that of all; a "
        f"run that diverged counts as a guess, ln 256. {note}"
    )
    return Drawing(figure, shown, caption)


def catch_up_figure(leads: pd.DataFrame, note: str) -> Drawing | str:
    """Draw how far small batches are behind large ones at the switch, and after it, a line for each seed."""
    if leads.empty:
        return "no run finished"
    figure, axes = new_figure(COLUMN, 2.5)
    ax = axes[0, 0]
    for _, row in leads.iterrows():
        ax.plot([0, 1], [row["at_switch"], row["at_end"]], color=LOOKS[0].color, marker="o", linewidth=0.8, alpha=0.7)
    ax.axhline(0, color="0.5", linestyle=":", linewidth=1)
    fixed_ticks(ax.xaxis, (0, 1), lambda place: "at the switch" if place < 0.5 else "at the end")
    number_axis(ax.yaxis, np.concatenate([[0.0], floats(leads, "at_switch"), floats(leads, "at_end")]))
    ax.set(xlim=(-0.3, 1.3), ylabel="Loss less that of large batches\n(nats a byte)")
    caption = (
        "Test loss of small batches less that of large ones after the same number of updates: where the small ones "
        "become large, and when as many updates again were made. A line for each seed, nats a byte; dotted: no lead. "
        f"{note}"
    )
    return Drawing(figure, leads.reset_index(names="seed"), caption)

"""The figures of the critical batch: along training with the noise scale, the branches, losses against updates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.claims2026.merrill2025.numbers import (
    ADAMS,
    ARMS,
    EUCLIDEAN,
    batches_tried,
    branch_losses,
    checkpoints_of,
    noise_by,
)
from analysis.report.report import Drawing
from sharpness.plots.axes import fixed_ticks, log_axis, number_axis
from sharpness.plots.frames import floats, groups, rows_if, rows_where
from sharpness.plots.seeds import dodged, hues, marks, mean_of_seeds, range_of_seeds, scatter
from sharpness.plots.style import COLUMN, LOOKS, new_figure, shades

LINES = dict(zip(("critical batch", f"noise scale, {EUCLIDEAN}", f"noise scale, {ADAMS}"), LOOKS, strict=False))
LOOK = dict(zip(ARMS, LOOKS, strict=False))
SEEN = "Windows seen"


def critical_figure(rows: pd.DataFrame, noise: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the critical batch and both noise scales along training, log axes."""
    if rows.empty:
        return "no branch was measured"
    numbers = along_training(rows, noise)
    figure, axes = new_figure(COLUMN, 2.9)
    ax = axes[0, 0]
    apart = dodged(numbers, "windows", "line", list(LINES))
    for line, look in LINES.items():
        own = rows_where(apart, line=line)
        range_of_seeds(ax, own, "windows", "value", geometric=True, **look.artist)
        beyond = rows_if(own, own["windows"].isin(rows_where(own, open=True)["windows"]))
        if len(beyond):
            style = look.artist | {"linestyle": "", "markerfacecolor": "white", "zorder": 4}
            mean_of_seeds(ax, beyond, "windows", "value", geometric=True, **style)
    smallest, *_, largest = batches_tried(rows)
    for size in (smallest, largest):
        ax.axhline(size, color="0.5", linestyle=":", linewidth=1)
    log_axis(ax.xaxis, floats(numbers, "windows"))
    log_axis(ax.yaxis, floats(numbers, "value"))
    ax.set(xlabel=SEEN, ylabel="Batch (windows)")
    handles = [look.handle(line) for line, look in LINES.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=1)
    caption = (
        "The critical batch by branches from checkpoints along training, and the gradient noise scale there, on "
        "held-out text, plain and in the geometry of Adam's own state: geometric mean over the seeds with their whole "
        "range, side by side, log axes; a noise scale that is not positive is left out. Dotted: the smallest and the "
        f"largest batch tried. {_open(rows)}{note}"
    )
    return Drawing(figure, numbers, caption)


def _open(rows: pd.DataFrame) -> str:
    """Say in how many seeds the critical batch is open above, by the place of the checkpoint."""
    known = rows_where(rows, open=True)
    counts = [f"{len(own)} of {len(rows_where(rows, windows=at))} after {at}" for at, own in groups(known, "windows")]
    return f"Open marks: of some seeds it is the largest, and may be larger ({', '.join(counts)}). " if counts else ""


def along_training(rows: pd.DataFrame, noise: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of the figure: seed, windows, value, and whether it may be larger than the batches tried."""
    parts = [rows.filter(["seed", "windows", "open"]).assign(value=floats(rows, "critical"))]
    scales = [noise_by(noise, geometry).filter(["seed", "windows", "value"]) for geometry in (EUCLIDEAN, ADAMS)]
    parts += [each.assign(open=False) for each in scales]
    named = [part.assign(line=line) for line, part in zip(LINES, parts, strict=True) if len(part)]
    table = pd.concat(named, ignore_index=True)
    return rows_if(table, floats(table, "value") > 0)


def branches_figure(rows: pd.DataFrame, tolerance: float, note: str) -> Drawing | str:
    """Draw how far branches end above that of the smallest batch against their batch, a line for each checkpoint."""
    losses = branch_losses(rows)
    if losses.empty:
        return "no branch was measured"
    colors = shades(checkpoints_of(losses))
    figure, axes = new_figure(COLUMN, 2.9)
    ax = axes[0, 0]
    mean_of_seeds(ax, losses, "batch", "excess", marker="o", markersize=3, **hues("windows", colors))
    ax.axhline(tolerance, color="0.5", linestyle=":", linewidth=1)
    sizes: Sequence[float] = sorted(set(floats(losses, "batch")))
    log_axis(ax.xaxis, sizes)
    fixed_ticks(ax.xaxis, sizes)
    number_axis(ax.yaxis, np.append(floats(losses, "excess"), tolerance))
    ax.set(xlabel="Batch (windows)", ylabel=f"Loss less that at {sizes[0]:g} (nats a byte)")
    handles = [LOOKS[0].handle(f"{at}", color=color, linestyle="-", markersize=3) for at, color in colors.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, title=SEEN)
    caption = (
        "Loss on held-out text at the end of branches over as many bytes, less that of the branch with the smallest "
        "batch, against the batch; a line for each checkpoint that they begin from, mean over the seeds. Dotted: the "
        f"tolerance of the paper's rule. {note}"
    )
    return Drawing(figure, losses, caption)


def updates_figure(arms: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test loss against the number of updates, a mark for each run."""
    if arms.empty:
        return "no run finished"
    figure, axes = new_figure(COLUMN, 2.7)
    ax = axes[0, 0]
    scatter(ax, arms, "step", "test_loss", s=22, alpha=0.85, **marks("arm", LOOK))
    number_axis(ax.xaxis, floats(arms, "step"))
    number_axis(ax.yaxis, floats(arms, "test_loss"))
    ax.set(xlabel="Updates", ylabel="Test loss (nats a byte)")
    handles = [look.handle(arm, linestyle="") for arm, look in LOOK.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    caption = (
        "Test loss after the same number of bytes against the number of updates: small batches, a batch that doubles "
        f"as the critical batch grows, and the batch that this comes to from the start; a mark for each seed. {note}"
    )
    return Drawing(figure, arms, caption)

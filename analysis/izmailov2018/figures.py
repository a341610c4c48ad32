"""The figures of the study of Izmailov et al. (2018): accuracy, along SWA, random rays and the line."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.stats import gmean

from analysis.izmailov2018.numbers import KINDS, SGD, SWA, arms_of, rises
from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis, number_axis
from sharpness.plots.frames import floats, records, rows_where
from sharpness.plots.seeds import each_seed, marks, mean_of_seeds, scatter
from sharpness.plots.style import COLUMN, LOOKS, new_figure
from sharpness.records import ProbeRecord

LOOK = {SGD: LOOKS[0], SWA: LOOKS[1]}
OWN = "0.55"
"""The colour of the weights that are averaged."""
LINE = {"train_loss": "Train loss (nats)", "test_error": "Test error (%)"}


def accuracy_figure(table: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test error of every run of every arm, those of one seed joined, and the mean of each arm."""
    if table.empty:
        return "no run finished"
    arms = arms_of(table)
    shown = table.assign(place=[arms.index(arm) for arm in table["arm"]], percent=100 * floats(table, "test_error"))
    looks = {arm: LOOK[SGD] if arm == SGD else LOOK[SWA] for arm in arms}
    figure, axes = new_figure(COLUMN, 2.4)
    ax = axes[0, 0]
    each_seed(ax, shown, "place", "percent", color="0.75", alpha=1, linewidth=0.6, zorder=1)
    edged = {"s": 13, "alpha": 1, "linewidth": 0.3, "edgecolor": "white", "zorder": 2}
    scatter(ax, shown, "place", "percent", **marks("arm", looks), **edged)
    for place, arm in enumerate(arms):
        mean = floats(rows_where(shown, arm=arm), "percent").mean()
        ax.hlines(mean, place - 0.28, place + 0.28, color=looks[arm].color, linewidth=1.6, zorder=3)
    number_axis(ax.yaxis, floats(shown, "percent"))
    ax.set_xticks(range(len(arms)), [arm.replace(" ", "\n") for arm in arms])
    ax.set(xlim=(-0.5, len(arms) - 0.5), ylabel="Test error (%)")
    ax.grid(visible=False, axis="x")
    caption = (
        "Test error at the end of training: of the final weights of SGD, and of the averaged weights of SWA at 1 and "
        "more budgets (number: the budget in units of SGD's) and with a cyclical learning rate. Marks: runs, those of "
        f"one seed joined, for they begin together; bars: means. {note}"
    )
    return Drawing(figure, table, caption)


def along_figure(along: pd.DataFrame, ends: pd.DataFrame, note: str) -> Drawing | str:
    """Draw train loss and test error of the weights at SWA's rate and of their average, against the number averaged."""
    if along.empty:
        return "no run of SWA was measured"
    columns = {"test_error": "test_accuracy", "average_test_error": "average_test_accuracy"}
    table = along.assign(**{name: 100 * (1 - floats(along, of)) for name, of in columns.items()})
    sgd = rows_where(ends, arm=SGD)
    figure, axes = new_figure(COLUMN, 4.0, 2, 1)
    for ax, (column, label) in zip(axes.flat, LINE.items(), strict=True):
        log = column == "train_loss"
        for name, color in ((column, OWN), (f"average_{column}", LOOK[SWA].color)):
            each_seed(ax, table, "count", name, color=color, alpha=0.35)
            mean_of_seeds(ax, table, "count", name, log, color=color, linewidth=1.6, zorder=3)
        level = floats(sgd, "train_loss") if log else 100 * floats(sgd, "test_error")
        ax.axhline(float(gmean(level) if log else level.mean()), color=LOOK[SGD].color, linestyle=":")
        number_axis(ax.yaxis, np.concatenate([level, floats(table, column), floats(table, f"average_{column}")]))
        ax.set(ylabel=label, xlim=(1, table["count"].max()))
    axes[1, 0].set_xlabel("Epochs at SWA's rate")
    colors = {"weights": OWN, "average": LOOK[SWA].color}
    handles = [Line2D([], [], color=color, label=text) for text, color in colors.items()]
    handles.append(LOOK[SGD].handle(SGD, linestyle=":", marker=""))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    caption = (
        "Train loss (above) and test error (below) of the weights at the end of each epoch at SWA's constant rate, and "
        "of the average of those until then. Thin: seeds; bold: means, of losses geometric; dotted: mean of SGD at its "
        f"end. {note}"
    )
    return Drawing(figure, table, caption)


def rays_figure(rays: pd.DataFrame, note: str) -> Drawing | str:
    """Draw how test error and train loss rise along random rays, and the difference of SWA and SGD."""
    table = rises(rays)
    if table.empty:
        return "no pair of SGD and SWA was measured"
    figure, axes = new_figure(COLUMN, 4.9, 3, 1)
    for name in (SGD, SWA):
        mean_of_seeds(axes[0, 0], rows_where(table, kind="error"), "distance", name, **LOOK[name].artist, markersize=3)
    axes[0, 0].set_ylabel("Rise of test\nerror (pp)")
    for ax, kind, label in zip(
        axes[1:, 0], KINDS, ("SWA less SGD,\ntest error (pp)", "SWA less SGD,\ntrain loss (nats)"), strict=True
    ):
        own = rows_where(table, kind=kind)
        ax.axhline(0, color="0.4", linewidth=0.7)
        each_seed(ax, own, "distance", "difference", color="0.6", alpha=1)
        mean_of_seeds(ax, own, "distance", "difference", color="0.1", linewidth=1.6, zorder=3)
        ax.set_ylabel(label)
    for ax in axes.flat:
        ax.set_xlim(0, table["distance"].max())
    axes[2, 0].set_xlabel("Distance along random rays")
    figure.legend(handles=[LOOK[name].handle(name) for name in (SGD, SWA)], loc="outside upper center", ncols=2)
    records_of = [ProbeRecord.from_dict(row["record"]).details for row in records(rays)]
    number = len(records_of[0]["train_loss"])
    caption = (
        f"Above: mean rise of the test error along {number} random rays of each seed, the same from the weights of SGD "
        "and of SWA. Below: the difference of the rises of test error and of train loss, SWA less SGD: below 0 SWA is "
        f"the wider one. Thin: seeds, each the mean over its rays; bold: means over the seeds. {note}"
    )
    return Drawing(figure, table, caption)


def line_figure(line: pd.DataFrame, note: str) -> Drawing | str:
    """Draw train loss and test error on the line through SGD and SWA: the mean over the seeds, and each seed."""
    if line.empty:
        return "no pair of SGD and SWA was measured"
    table = line.assign(test_error=100 * (1 - floats(line, "test_accuracy")))
    figure, axes = new_figure(COLUMN, 4.2, 2, 1)
    for ax, (column, label) in zip(axes.flat, LINE.items(), strict=True):
        each_seed(ax, table, "t", column, color="0.6", alpha=1)
        mean_of_seeds(ax, table, "t", column, True, color="0.1", linewidth=1.6, zorder=3)
        log_axis(ax.yaxis, floats(table, column))
        ax.set(xlim=(table["t"].min(), table["t"].max()), ylabel=label)
        _name_ends(ax)
    axes[1, 0].set_xlabel("t in t SGD + (1 − t) SWA")
    lines = [Line2D([], [], color=c, linewidth=w, label=t) for c, w, t in (("0.6", 0.5, "seeds"), ("0.1", 1.6, "mean"))]
    figure.legend(handles=lines, loc="outside upper center", ncols=2)
    numbers = sorted(set(floats(table, "distance")))
    distance = f"{numbers[0]:.3g}" if len(numbers) == 1 else f"{numbers[0]:.3g} to {numbers[-1]:.3g}"
    caption = (
        "Train loss (above) and test error (below) on the straight line through the solutions of SWA (t = 0) and SGD "
        f"(t = 1) of one seed, {distance} apart; {len(set(table['seed']))} seeds, {len(set(table['t']))} points each; "
        f"means geometric, logarithmic axes, no band is drawn. {note}"
    )
    return Drawing(figure, table, caption)


def _name_ends(ax: Axes) -> None:
    for place, name in ((0, SWA), (1, SGD)):
        ax.axvline(place, color=LOOK[name].color, linewidth=1.0, linestyle=LOOK[name].linestyle, zorder=1)
        ax.text(place, 1.01, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)

"""The figures of update equivalence: distances of end points, noise of the gradient, and both senses of stability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, records, rows_where
from sharpness.plots.seeds import hues, lines, marks, range_of_seeds, scatter
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure, shades

ARMS = {"SB": LOOKS[0], "SB + L2": LOOKS[2], "LB": LOOKS[1], "LB + L2": LOOKS[3]}


def stage_looks(names: Mapping[int, str]) -> dict[int, Look]:
    """Return a look for each stage; more than four repeat the last one."""
    return {stage: LOOKS[min(number, len(LOOKS) - 1)] for number, stage in enumerate(names)}


def distance_figure(
    apart: pd.DataFrame, names: Mapping[int, str], rate: float, close: float, note: str
) -> Drawing | str:
    """Draw the relative distance against eta for each B (top) and against the large step's rate times lambda_max."""
    shown = apart.loc[floats(apart, "distance") > 0] if len(apart) else apart
    if shown.empty:
        return "no distance was measured"
    figure, axes = new_figure(COLUMN, 5.6, 2, 1)
    top, bottom = axes[:, 0]
    middle = sorted(names)[len(names) // 2]
    colors = shades(batch for batch, _ in groups(shown, "large_batch"))
    at_middle = rows_where(shown, stage=middle)
    range_of_seeds(top, at_middle, "rate", "distance", True, **hues("large_batch", colors), marker="o", markersize=3)
    handles = [Line2D([], [], color=color, marker="o", markersize=3, label=f"B = {b}") for b, color in colors.items()]
    top.axvline(rate, color="0.5", linestyle=":", linewidth=1)
    top.text(0.97, 0.05, names[middle], transform=top.transAxes, horizontalalignment="right")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.04), "columnspacing": 1.2, "handletextpad": 0.5}
    top.legend(handles=handles, ncols=4, **above)
    scatter(bottom, shown, "product", "distance", **marks("stage", stage_looks(names)))
    ends = np.array([floats(shown, "product").min(), floats(shown, "product").max()])
    bottom.plot(ends, ends / 2, color="0.2", linestyle="--", linewidth=1)
    bound = Line2D([], [], color="0.2", linestyle="--", linewidth=1, label=r"$\eta_B\lambda_{\max}/2$")
    bottom.legend(handles=[*_stages(names), bound], ncols=3, **above)
    for ax in (top, bottom):
        ax.axhline(close, color="0.5", linestyle=":", linewidth=1)
        log_axis(ax.yaxis, floats(shown, "distance"))
    log_axis(top.xaxis, floats(shown, "rate"))
    log_axis(bottom.xaxis, floats(shown, "product"))
    top.set(xlabel=r"Learning rate $\eta$ of the small steps", ylabel="Distance / large step")
    bottom.set(xlabel=r"Rate of the large step $\eta_B$ times $\lambda_{\max}$", ylabel="Distance / large step")
    caption = (
        "Distance between the end points of B / b small steps and of one step of the same B examples at B / b times "
        f"the rate, over the length of the large step. Top: against the rate of the small steps at {names[middle]}, "
        "lines: geometric means over seeds and draws, bars: their whole range; vertical line: the rate of the "
        "training. Bottom: all B, rates, draws and seeds against the large step's rate times the top eigenvalue at "
        "that checkpoint; dashed: what the first order gives at most for one gradient and one Hessian. Dotted "
        f"horizontal line: {100 * close:g} %. {note}"
    )
    return Drawing(figure, shown, caption)


def _stages(names: Mapping[int, str]) -> list[Line2D]:
    """Return what stands for the stages in a legend."""
    return [look.handle(names[stage], linestyle="") for stage, look in stage_looks(names).items()]


def variance_figure(noise: pd.DataFrame, names: Mapping[int, str], note: str) -> Drawing | str:
    """Draw the variance of the mini-batch gradient, in units of that of one example, against the batch size."""
    if noise.empty:
        return "no variance was measured"
    ones = {(row["seed"], row["stage"]): row["variance"] for row in records(rows_where(noise, large_batch=1))}
    one = [ones[seed, stage] for seed, stage in zip(noise["seed"], noise["stage"], strict=True)]
    shown = noise.assign(share=floats(noise, "variance") / np.array(one))
    shown = shown.loc[floats(shown, "share") > 0]
    figure, axes = new_figure(COLUMN, 2.6)
    ax = axes[0, 0]
    scatter(ax, shown, "large_batch", "share", **marks("stage", stage_looks(names)))
    ends = np.array([1.0, floats(shown, "large_batch").max()])
    ax.plot(ends, 1 / ends, color="0.2", linestyle="--", linewidth=1)
    inverse = Line2D([], [], color="0.2", linestyle="--", linewidth=1, label="1 / B")
    ax.legend(handles=[*_stages(names), inverse], loc="lower left")
    log_axis(ax.xaxis, floats(shown, "large_batch"))
    log_axis(ax.yaxis, floats(shown, "share"))
    ax.set(xlabel="Batch size B", ylabel=r"Variance of $g_B$ / that of one example")
    caption = (
        "Mean squared distance of the gradient of a random batch (drawn with replacement) from that of the training "
        f"set, over that of single examples, one mark per seed and checkpoint. {note}"
    )
    return Drawing(figure, shown, caption)


def stability_figure(fell: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the share of steps in which the loss falls (top) and the growth of the weights (bottom) along training."""
    if fell.empty:
        return "no run was watched"
    figure, axes = new_figure(COLUMN, 4.6, 2, 1)
    top, bottom = axes[:, 0]
    start = records(rows_where(fell, stage=min(fell["stage"])))
    first = {(row["arm"], row["seed"]): row["norm"] for row in start}
    norm = [first[arm, seed] for arm, seed in zip(fell["arm"], fell["seed"], strict=True)]
    shown = fell.assign(growth=floats(fell, "norm") / np.array(norm), percent=100 * floats(fell, "share"))
    arms = {arm: look for arm, look in ARMS.items() if arm in set(shown["arm"])}
    shift = {arm: 0.03 * max(shown["stage"]) * (number - 1.5) for number, arm in enumerate(ARMS)}
    shifted = shown.assign(place=floats(shown, "stage") + [shift[arm] for arm in shown["arm"]])
    for ax, column in ((top, "percent"), (bottom, "growth")):
        range_of_seeds(ax, shifted, "place", column, **lines("arm", arms))
        ax.set_xlabel("Epoch")
        ax.set_xticks(sorted(set(shown["stage"])))
    top.axhline(50, color="0.5", linestyle=":", linewidth=1)
    top.set(ylabel="Steps in which the loss falls (%)", ylim=(0, 103))
    bottom.set(ylabel="Length of the weights, start = 1")
    handles = [look.handle(arm) for arm, look in arms.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    caption = (
        "Top: share of the next updates from a checkpoint of each run, in batches of its own kind, after which the "
        "loss over the training set is lower; dotted: half of them. Bottom: length of the weights over that at the "
        f"start. Means over seeds, bars: the whole range; arms are shifted sideways to be told apart. {note}"
    )
    return Drawing(figure, shown, caption)

"""The figures of update equivalence: distances of end points, noise of the gradient, and both senses of stability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, records, rows_where
from sharpness.plots.style import COLUMN, FULL, LOOKS, Look, new_figure, shades

ARMS = {"SB": LOOKS[0], "SB + L2": LOOKS[2], "LB": LOOKS[1], "LB + L2": LOOKS[3]}
POINT = {"linestyle": "", "markersize": 3, "alpha": 0.6, "markeredgewidth": 0}


def stage_looks(names: Mapping[int, str]) -> dict[int, Look]:
    """Return a look for each stage; more than four repeat the last one."""
    return {stage: LOOKS[min(number, len(LOOKS) - 1)] for number, stage in enumerate(names)}


def distance_figure(
    apart: pd.DataFrame, names: Mapping[int, str], rate: float, close: float, note: str
) -> Drawing | str:
    """Draw the relative distance against eta for each B (left) and against the large step's rate times lambda_max."""
    shown = apart.loc[floats(apart, "distance") > 0] if len(apart) else apart
    if shown.empty:
        return "no distance was measured"
    figure, axes = new_figure(FULL, 3.0, 1, 2)
    left, right = axes[0]
    middle = sorted(names)[len(names) // 2]
    handles = _by_rate(left, rows_where(shown, stage=middle))
    left.axvline(rate, color="0.5", linestyle=":", linewidth=1)
    left.set_title(f"{names[middle]}", loc="left")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.04), "columnspacing": 1.2, "handletextpad": 0.5}
    left.legend(handles=handles, ncols=4, **above)
    looks = stage_looks(names)
    for stage, rows in groups(shown, "stage"):
        look = looks[stage]
        right.plot(floats(rows, "product"), floats(rows, "distance"), color=look.color, marker=look.marker, **POINT)
    ends = np.array([floats(shown, "product").min(), floats(shown, "product").max()])
    right.plot(ends, ends / 2, color="0.2", linestyle="--", linewidth=1)
    marks = [Line2D([], [], color=looks[s].color, marker=looks[s].marker, linestyle="", label=names[s]) for s in names]
    marks.append(Line2D([], [], color="0.2", linestyle="--", linewidth=1, label=r"$\eta_B\lambda_{\max}/2$"))
    right.legend(handles=marks, ncols=3, **above)
    for ax in (left, right):
        ax.axhline(close, color="0.5", linestyle=":", linewidth=1)
        log_axis(ax.yaxis, floats(shown, "distance"))
    log_axis(left.xaxis, floats(shown, "rate"))
    log_axis(right.xaxis, floats(shown, "product"))
    left.set(xlabel=r"Learning rate $\eta$ of the small steps", ylabel="Distance / large step")
    right.set(xlabel=r"Rate of the large step $\eta_B$ times $\lambda_{\max}$")
    caption = (
        "Distance between the end points of B / b small steps and of one step of the same B examples at B / b times "
        f"the rate, over the length of the large step. Left: against the rate of the small steps at {names[middle]}, "
        "lines: geometric means over seeds and draws, bars: their whole range; vertical line: the rate of the "
        "training. Right: all B, rates, draws and seeds against the large step's rate times the top eigenvalue at "
        "that checkpoint; dashed: what the first order gives at most for one gradient and one Hessian. Dotted "
        f"horizontal line: {100 * close:g} %. {note}"
    )
    return Drawing(figure, shown, caption)


def _by_rate(ax: Axes, table: pd.DataFrame) -> list[Line2D]:
    """Draw geometric means with their range for each B in a sequential colour, and return the handles."""
    handles = []
    for batch, colour in shades(batch for batch, _ in groups(table, "large_batch")).items():
        rows = rows_where(table, large_batch=batch)
        curve = [(rate, floats(part, "distance")) for rate, part in groups(rows, "rate")]
        rates = np.array([rate for rate, _ in curve])
        means = np.array([np.exp(np.mean(np.log(values))) for _, values in curve])
        spread = [means - [v.min() for _, v in curve], [v.max() for _, v in curve] - means]
        ax.errorbar(rates, means, yerr=np.abs(spread), color=colour, marker="o", markersize=3, elinewidth=0.6)
        handles.append(Line2D([], [], color=colour, marker="o", markersize=3, label=f"B = {batch}"))
    return handles


def variance_figure(noise: pd.DataFrame, names: Mapping[int, str], note: str) -> Drawing | str:
    """Draw the variance of the mini-batch gradient, in units of that of one example, against the batch size."""
    if noise.empty:
        return "no variance was measured"
    ones = {(row["seed"], row["stage"]): row["variance"] for row in records(rows_where(noise, large_batch=1))}
    one = [ones[seed, stage] for seed, stage in zip(noise["seed"], noise["stage"], strict=True)]
    shown = noise.assign(share=floats(noise, "variance") / np.array(one))
    shown = shown.loc[floats(shown, "share") > 0]
    figure, axes = new_figure(COLUMN, 2.6)
    ax, looks = axes[0, 0], stage_looks(names)
    for stage, rows in groups(shown, "stage"):
        look = looks[stage]
        ax.plot(floats(rows, "large_batch"), floats(rows, "share"), color=look.color, marker=look.marker, **POINT)
    ends = np.array([1.0, floats(shown, "large_batch").max()])
    ax.plot(ends, 1 / ends, color="0.2", linestyle="--", linewidth=1)
    handles = [
        Line2D([], [], color=looks[s].color, marker=looks[s].marker, linestyle="", label=names[s]) for s in names
    ]
    handles.append(Line2D([], [], color="0.2", linestyle="--", linewidth=1, label="1 / B"))
    ax.legend(handles=handles, loc="lower left")
    log_axis(ax.xaxis, floats(shown, "large_batch"))
    log_axis(ax.yaxis, floats(shown, "share"))
    ax.set(xlabel="Batch size B", ylabel=r"Variance of $g_B$ / that of one example")
    caption = (
        "Mean squared distance of the gradient of a random batch (drawn with replacement) from that of the training "
        f"set, over that of single examples, one mark per seed and checkpoint. {note}"
    )
    return Drawing(figure, shown, caption)


def stability_figure(fell: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the share of steps in which the loss falls (left) and the growth of the weights (right) along training."""
    if fell.empty:
        return "no run was watched"
    figure, axes = new_figure(FULL, 2.6, 1, 2)
    left, right = axes[0]
    start = records(rows_where(fell, stage=min(fell["stage"])))
    first = {(row["arm"], row["seed"]): row["norm"] for row in start}
    norm = [first[arm, seed] for arm, seed in zip(fell["arm"], fell["seed"], strict=True)]
    shown = fell.assign(growth=floats(fell, "norm") / np.array(norm), percent=100 * floats(fell, "share"))
    for ax, column in ((left, "percent"), (right, "growth")):
        for number, (arm, look) in enumerate(ARMS.items()):
            rows = rows_where(shown, arm=arm)
            if len(rows):
                _means(ax, rows, column, look, shift=0.03 * (number - 1.5))
        ax.set_xlabel("Epoch")
        ax.set_xticks(sorted(set(shown["stage"])))
    left.axhline(50, color="0.5", linestyle=":", linewidth=1)
    left.set(ylabel="Steps in which the loss falls (%)", ylim=(0, 103))
    right.set(ylabel="Length of the weights, start = 1")
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle=look.linestyle, label=arm)
        for arm, look in ARMS.items()
        if len(rows_where(shown, arm=arm))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    caption = (
        "Left: share of the next updates from a checkpoint of each run, in batches of its own kind, after which the "
        "loss over the training set is lower; dotted: half of them. Right: length of the weights over that at the "
        f"start. Means over seeds, bars: the whole range; arms are shifted sideways to be told apart. {note}"
    )
    return Drawing(figure, shown, caption)


def _means(ax: Axes, rows: pd.DataFrame, column: str, look: Look, shift: float) -> None:
    curve = [(stage, floats(part, column)) for stage, part in groups(rows, "stage")]
    means = np.array([np.mean(values) for _, values in curve])
    spread = [means - [v.min() for _, v in curve], [v.max() for _, v in curve] - means]
    x = np.array([stage for stage, _ in curve]) + shift * max(stage for stage, _ in curve)
    style = {"color": look.color, "marker": look.marker, "linestyle": look.linestyle, "elinewidth": 0.7}
    ax.errorbar(x, means, yerr=np.abs(spread), **style)

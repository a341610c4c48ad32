"""The figures of critical batch sizes of the study of McCandlish et al. 2018: the front, and the branches."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.mccandlish2018.figures import CRITICAL, SIMPLE, level_line
from analysis.mccandlish2018.numbers import level
from analysis.mccandlish2018.results import Results
from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, records, rows_where
from sharpness.plots.style import FULL, LOOKS, new_figure


def front(results: Results) -> Drawing | str:
    """Draw steps against examples, steps against batch size, and the learning rates tried."""
    best = results.tuned
    if not np.isfinite(floats(best, "steps")).any():
        return "no run of the front reached the goal"
    figure, axes = new_figure(FULL, 2.6, 1, 3)
    _steps_against_examples(axes[0, 0], results)
    _steps_against_batch(axes[0, 1], results)
    _rates(axes[0, 2], results)
    edges = sum(row["at_edge"] is True for row in records(best))
    caption = (
        f"Steps and examples to a training loss of {results.settings['goal']:g} nats at the best of "
        f"{len(results.settings['factors'])} learning rates for each batch size (left, middle; dots: seeds, squares: "
        "geometric means). Line: (S / S_min - 1)(E / E_min - 1) = 1 fitted to relative errors, dotted: its limits, "
        "bands: B_crit and the mean noise scale until the goal with 95 % intervals. Right: the learning rates tried; "
        "filled: every seed reaches the goal, open: some, crosses: none, ringed: the best, dashed: the centre of the "
        f"grid. At {edges} of {len(best)} batch sizes the best "
        f"is at the edge of the grid. Of {len(results.runs)} runs of the front {int(floats(best, 'reached').sum())} "
        f"reached the goal and {int(floats(best, 'diverged').sum())} diverged. {results.counts}"
    )
    return Drawing(figure, best, caption)


def _steps_against_examples(ax: Axes, results: Results) -> None:
    rows, best, fit = results.front, results.tuned, results.fit
    steps, sizes = floats(rows, "steps_to_result"), floats(rows, "batch_size")
    ax.plot(steps * sizes, steps, linestyle="", marker=".", markersize=3, color="0.6")
    ax.plot(floats(best, "examples"), floats(best, "steps"), linestyle="", marker="s", color=LOOKS[0].color)
    log_axis(ax.xaxis, steps * sizes)
    log_axis(ax.yaxis, steps)
    if fit.s_min.value is not None and fit.e_min.value is not None and fit.s_min.value > 0:
        ratio = np.geomspace(1e-3, 1e3, 200)
        ax.plot(fit.e_min.value * (1 + ratio), fit.s_min.value * (1 + 1 / ratio), color=LOOKS[1].color, zorder=1)
        ax.axhline(fit.s_min.value, color="0.5", linestyle=":", linewidth=0.9)
        ax.axvline(fit.e_min.value, color="0.5", linestyle=":", linewidth=0.9)
    for row in records(best)[:: max(1, len(best) // 4)]:
        if row["steps"] is not None:
            place = (row["examples"], row["steps"])
            text = f"{row['batch_size']}"
            ax.annotate(text, place, xytext=(4, 3), textcoords="offset points", fontsize=7)
    ax.set(xlabel="Examples", ylabel="Steps")


def _steps_against_batch(ax: Axes, results: Results) -> None:
    rows, best, fit = results.front, results.tuned, results.fit
    sizes, steps = floats(rows, "batch_size"), floats(rows, "steps_to_result")
    ax.plot(sizes, steps, linestyle="", marker=".", markersize=3, color="0.6")
    ax.plot(floats(best, "batch_size"), floats(best, "steps"), linestyle="", marker="s", color=LOOKS[0].color)
    log_axis(ax.xaxis, floats(best, "batch_size"))
    log_axis(ax.yaxis, steps)
    if fit.s_min.value is not None and fit.e_min.value is not None:
        x = np.geomspace(*ax.get_xlim(), 100)
        ax.plot(x, fit.s_min.value + fit.e_min.value / x, color=LOOKS[1].color, zorder=1)
    for interval, label, look in ((fit.b_crit, CRITICAL, LOOKS[1]), (results.run_average, SIMPLE, LOOKS[2])):
        level_line(ax, interval, label, look, vertical=True)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    ax.set(xlabel="Batch size", ylabel="Steps")


def _rates(ax: Axes, results: Results) -> None:
    settings, look = results.settings, LOOKS[0]
    for size, at_size in groups(results.runs, "batch_size"):
        for rate, rows in groups(at_size, "learning_rate"):
            share = np.isfinite(floats(rows, "steps_to_result")).mean()
            style = {"marker": "x" if share == 0 else "o", "color": look.color, "markersize": 3.5}
            style["markerfacecolor"] = look.color if share == 1 else "white"
            ax.plot(size, rate, linestyle="", **style)
    best = results.tuned
    ring = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "markeredgecolor": LOOKS[1].color}
    ax.plot(floats(best, "batch_size"), floats(best, "learning_rate"), linestyle="", markeredgewidth=1.2, **ring)
    log_axis(ax.xaxis, floats(results.runs, "batch_size"))
    log_axis(ax.yaxis, floats(results.runs, "learning_rate"))
    x = np.geomspace(*ax.get_xlim(), 50)
    centre = settings["central_rate"] / (1 + settings["central_batch"] / x)
    ax.plot(x, centre, color="0.5", linestyle="--", linewidth=0.8, zorder=1)
    ax.set(xlabel="Batch size", ylabel="Learning rate")


def branches(results: Results) -> Drawing | str:
    """Draw the loss of branches against their batch size, and the critical batch sizes during training."""
    table = results.branches
    if table.empty:
        return "no branches were trained"
    figure, axes = new_figure(FULL, 2.6, 1, 2)
    tolerance = results.settings["tolerance"]
    epochs = [epoch for epoch, _ in groups(table, "epoch")]
    extra = table.assign(extra=_extra(table))
    for (epoch, rows), look in zip(groups(extra, "epoch"), LOOKS, strict=False):
        sizes = [(size, np.mean(floats(each, "extra"))) for size, each in groups(rows, "batch_size")]
        label = f"epoch {epoch:.3g}"
        axes[0, 0].plot(*np.array(sizes).T, color=look.color, marker=look.marker, linestyle=look.linestyle, label=label)
    axes[0, 0].axhline(tolerance, color="0.4", linestyle=":", linewidth=0.9)
    log_axis(axes[0, 0].xaxis, floats(table, "batch_size"))
    axes[0, 0].set_ylim(-0.03, 0.15)
    axes[0, 0].set(xlabel="Batch size of the branch", ylabel="Loss above that of the\nsmallest batch (nats)")
    _critical_sizes(axes[0, 1], results)
    for ax in axes[0]:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0)
    lost = int((~np.isfinite(floats(table, "smoothed_loss"))).sum())
    large, small = (len(rows_where(results.critical, at_edge=edge)) for edge in ("largest", "smallest"))
    caption = (
        f"Branches from checkpoints of {len(epochs)} epochs with k times the batch size and learning rate and the same "
        "number of examples (Merrill et al. 2025). Left: smoothed loss above that of k = 1, mean over seeds; what is "
        f"above the axis rises to divergence ({lost} of {len(table)} losses not finite). Dotted: the tolerance of "
        f"{tolerance:g} nats. Right: the largest batch within it of all smaller ones (of {len(results.critical)} "
        f"{large} at the largest k tried, {small} at the smallest), beside the noise scale at the same checkpoints and "
        "B_crit of the front; geometric means with 95 % Student t intervals over seeds. "
        f"{results.counts}"
    )
    return Drawing(figure, table, caption)


def _critical_sizes(ax: Axes, results: Results) -> None:
    table, values = results.critical, [results.fit.b_crit.value or np.nan]
    for (name, label), look in zip(
        (("critical", "branches"), ("noise_scale", SIMPLE)), (LOOKS[0], LOOKS[2]), strict=True
    ):
        intervals = [(epoch, level(floats(rows, name))) for epoch, rows in groups(table, "epoch")]
        points = [(e, i.value, i.lower or i.value, i.upper or i.value) for e, i in intervals if i.value is not None]
        if not points:
            continue
        x, y, low, high = np.array(points).T
        ax.errorbar(x, y, np.stack([y - low, high - y]), color=look.color, marker=look.marker, capsize=2, label=label)
        values += [*low, *high]
    level_line(ax, results.fit.b_crit, CRITICAL, LOOKS[1])
    log_axis(ax.yaxis, values)
    ax.set(xlabel="Epoch", ylabel="Batch size (examples)")


def _extra(table: pd.DataFrame) -> np.ndarray:
    """Return the smoothed loss of each branch above that of the smallest multiplier from the same checkpoint."""
    first = {
        (row["seed"], row["epoch"]): row["smoothed_loss"]
        for row in records(rows_where(table, multiplier=floats(table, "multiplier").min()))
    }
    start = [first.get((row["seed"], row["epoch"])) for row in records(table)]
    return floats(table, "smoothed_loss") - np.array(start, dtype=float)

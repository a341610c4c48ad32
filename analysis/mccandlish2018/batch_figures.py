"""The figures against the batch size of the study of McCandlish et al. 2018: front, branches and best steps."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.mccandlish2018.figures import CRITICAL, SIMPLE, geometric, level_line
from analysis.mccandlish2018.numbers import level
from analysis.mccandlish2018.results import Results
from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, records
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure


def front(results: Results) -> Drawing | str:
    """Draw steps against examples, steps against batch size, and the learning rates tried."""
    best = results.tuned
    if not np.isfinite(floats(best, "steps")).any():
        return "no run of the front reached the goal"
    figure, axes = new_figure(COLUMN, 6.6, 3, 1)
    _steps_against_examples(axes[0, 0], results)
    _steps_against_batch(axes[1, 0], results)
    _rates(axes[2, 0], results)
    edges = sum(row["at_edge"] is True for row in records(best))
    caption = (
        f"Steps and examples to a training loss of {results.settings['goal']:g} nats at the best of "
        f"{len(results.settings['factors'])} learning rates for each batch size (top, middle; dots: seeds, squares: "
        "geometric means). Line: (S / S_min - 1)(E / E_min - 1) = 1 fitted to relative errors, dotted: its limits, "
        "bands: B_crit and the mean noise scale until the goal with 95 % intervals. Bottom: the learning rates tried; "
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
    """Draw the steps of branches against their batch size, with the hyperbola of each moment of training."""
    table = results.branches
    if not np.isfinite(floats(table, "steps")).any():
        return "no branch reached its target"
    figure, axes = new_figure(COLUMN, 2.9)
    ax, fits = axes[0, 0], results.branch_fits
    x = np.geomspace(0.7 * floats(table, "batch_size").min(), 1.4 * floats(table, "batch_size").max(), 100)
    for k, ((epoch, rows), look) in enumerate(zip(groups(table, "epoch"), LOOKS, strict=False)):
        drawn_means(ax, rows, "steps", look, BESIDE**k)
        fit, crit = fits[epoch], fits[epoch].b_crit.value
        if fit.s_min.value is None or fit.e_min.value is None or crit is None:
            continue
        ax.plot(x, fit.s_min.value + fit.e_min.value / x, color=look.color, linewidth=0.9, zorder=1)
        ax.plot(crit, 2 * fit.s_min.value, marker="x", markersize=8, markeredgewidth=1.8, color=look.color, zorder=3)
    log_axis(ax.xaxis, x, padding=1.0)
    log_axis(ax.yaxis, floats(table, "steps"), padding=1.6)
    share = results.settings["branch"]["share"]
    ax.set(xlabel="Batch size $B$", ylabel=f"Steps to {share:g} of the loss")
    handles = [
        look.handle(moment(rows, epoch), linestyle="")
        for (epoch, rows), look in zip(groups(table, "epoch"), LOOKS, strict=False)
    ]
    cross = Line2D([], [], color="0.3", marker="x", markersize=8, markeredgewidth=1.8, linestyle="", label=CRITICAL)
    figure.legend(handles=[*handles, cross], loc="outside upper center", ncols=2, columnspacing=1.0)
    edges = sum(row["at_edge"] is True for row in records(table))
    caption = (
        f"Branches from {len(fits)} checkpoints of each run, settled by {results.settings['settle']['updates']} large, "
        f"slow updates: the fewest steps to {share:g} of the loss there, over "
        f"{len(results.settings['branch_factors'])} learning rates for each batch size; geometric means over seeds "
        "with 95 % Student t intervals. Lines: S_min + E_min / B; crosses: B_crit = E_min / S_min, where a branch "
        f"needs twice its fewest steps. In {edges} of {len(table)} cases the best rate is at the edge of its grid, and "
        f"{int(np.isnan(floats(table, 'steps')).sum())} do not get there. {results.counts}"
    )
    return Drawing(figure, table, caption)


def saturation(results: Results) -> Drawing | str:
    """Draw the best step and the fall that it brings against the batch size, with the laws of equations 2.6 and 2.7."""
    table = results.search
    if not np.isfinite(floats(table, "rate")).any():
        return "no line search found its best step inside the grid"
    figure, axes = new_figure(COLUMN, 4.6, 2, 1)
    panels = (("rate", r"Best step $\epsilon_{\mathrm{opt}}(B)$"), ("fall", r"Its fall of the loss $\Delta L$ (nats)"))
    for ax, (name, label) in zip(axes[:, 0], panels, strict=True):
        for k, ((_, rows), look) in enumerate(zip(groups(table, "epoch"), LOOKS, strict=False)):
            drawn_means(ax, rows, name, look, BESIDE ** (k - 1))
            _law(ax, rows, name, look)
        log_axis(ax.xaxis, floats(table, "batch_size"), padding=1.6)
        means = table.groupby(["epoch", "batch_size"])[name].median()
        log_axis(ax.yaxis, means.to_numpy(dtype=float), padding=2.0)
        ax.set(ylabel=label)
    axes[1, 0].set(xlabel="Batch size $B$")
    looks = list(zip(groups(table, "epoch"), LOOKS, strict=False))
    handles = [look.handle(moment(rows, epoch), linestyle="") for (epoch, rows), look in looks]
    handles.append(Line2D([], [], color="0.3", marker="|", markersize=8, linestyle="", label=NOISE_LABEL))
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.0)
    caption = (
        "The best step of plain SGD (above) and the fall of the loss that it brings (below) against the batch size, "
        f"at {len(looks)} moments of training: found by line searches over many random batches, geometric means over "
        "seeds with 95 % Student t intervals. Lines: eps_max / (1 + B_noise / B) and dL_max / (1 + B_noise / B) with "
        "eps_max, dL_max and B_noise measured from gradients and Hessian, nothing fitted; bars on them: B_noise, where "
        f"half of the ceiling is reached. {results.counts}"
    )
    return Drawing(figure, table.drop(columns=["rates", "changes"]), caption)


BESIDE = 1.1
"""The factor by which marks of one batch size lie beside each other."""
NOISE_LABEL = r"$B_{\mathrm{noise}}$"


def _law(ax: Axes, rows: pd.DataFrame, name: str, look: Look) -> None:
    """Draw the law with its ceiling and its B_noise as they were measured, geometric means over seeds."""
    largest = floats(rows, f"predicted_{name}") * (1 + floats(rows, "curved_noise_scale") / floats(rows, "batch_size"))
    ceiling = geometric(rows.assign(largest=largest), "largest")
    scale = geometric(rows, "curved_noise_scale")
    x = np.geomspace(0.6 * floats(rows, "batch_size").min(), 1.7 * floats(rows, "batch_size").max(), 100)
    ax.plot(x, ceiling / (1 + scale / x), color=look.color, linewidth=0.9, zorder=1)
    ax.plot(scale, ceiling / 2, marker="|", markersize=11, markeredgewidth=1.8, color=look.color, zorder=3)


def drawn_means(ax: Axes, rows: pd.DataFrame, name: str, look: Look, shift: float) -> None:
    """Draw the geometric mean over seeds at each batch size with its interval; what is not positive is left out.

    ``shift`` is a factor to the side, so that marks of one batch size do not hide each other.
    """
    for size, each in groups(rows, "batch_size"):
        values = floats(each, name)
        found = level(values[values > 0])
        if found.value is None:
            continue
        low, high = (found.value if x is None else x for x in (found.lower, found.upper))
        bars = [[found.value - low], [high - found.value]]
        ax.errorbar(shift * size, found.value, bars, color=look.color, marker=look.marker, capsize=2, elinewidth=0.8)


def moment(rows: pd.DataFrame, epoch: float) -> str:
    """Name a moment of training by its epoch and the loss there, geometric mean over seeds."""
    return f"epoch {epoch:.2g}, loss {geometric(rows, 'loss'):.2g}"

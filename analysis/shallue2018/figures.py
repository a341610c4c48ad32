"""The figures of Shallue et al. 2018: steps, useful batch sizes, errors, and the trials of the searches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.shallue2018 import numbers as of
from analysis.shallue2018.numbers import Results
from sharpness.plots.axes import Axis, fixed_ticks, log_axis
from sharpness.plots.frames import floats, groups, records, rows_where
from sharpness.plots.seeds import mean_of_seeds, scatter
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure

PERFECT: dict[str, Any] = {"color": "0.45", "linestyle": (0, (4, 3)), "linewidth": 0.9}
KINDS = {
    "perfect until": "perfect scaling ends",
    "critical batch": "critical batch $E_{min}/S_{min}$",
    "flat from": "steps stop falling",
    "noise scale": "noise scale $B_{simple}$",
}
"""The batch sizes of a workload that are drawn, and what the legend calls them."""
MARKS: Mapping[str, Mapping[str, Any]] = {
    "reached": {"marker": "o", "color": "#0173b2", "label": "goal reached"},
    "missed": {"marker": "x", "color": "#de8f05", "label": "goal not reached"},
    "diverged": {"marker": "^", "color": "0.45", "label": "diverged"},
}
"""The look of a trial by its outcome."""
BEST: dict[str, Any] = {"linestyle": "", "marker": "o", "mfc": "none", "color": "k", "mew": 0.7}
RULES = (("linear", 1.0), ("square-root", 0.5))
RULE_NAMES = {"linear": "linear", "sqrt": "square-root"}
UP = r"$\uparrow$"


def batch_axis(axis: Axis, batches: Iterable[float]) -> None:
    """Make an axis logarithmic with a tick at every batch size, at most seven."""
    sizes = sorted({float(size) for size in batches})
    log_axis(axis, sizes, padding=1.5)
    fixed_ticks(axis, sizes[:: math.ceil(len(sizes) / 7)])


def powers_of_two(axis: Axis, values: Iterable[float]) -> None:
    """Make an axis logarithmic around the values with ticks at powers of two, at most eight."""
    finite = [v for v in values if np.isfinite(v) and v > 0]
    low, high = math.floor(math.log2(min(finite))), math.ceil(math.log2(max(finite)))
    step = math.ceil((high - low + 1) / 8)
    log_axis(axis, finite, padding=1.5)
    fixed_ticks(axis, [2.0**k for k in range(low, high + 1, step)])


def steps_figure(results: Results) -> Figure:
    """Draw the steps of the best trials against batch size: optimisers, networks, amounts of data."""
    panels = {"Optimisers": "optimisers", "Networks": "networks", "Training images": "data"}
    figure, axes = new_figure(COLUMN, 7.6, 3, 1)
    for ax, (title, comparison) in zip(axes[:, 0], panels.items(), strict=True):
        names = results.named(comparison)
        for look, name in zip(LOOKS, names, strict=False):
            _steps(ax, *of.curve(results.best, name), look, name)
        batch_axis(ax.xaxis, results.of(names[0])["batches"])
        powers_of_two(ax.yaxis, floats(results.best, "steps"))
        ax.set(xlabel="Batch size", ylabel="Steps to the goal", title=title)
        ax.legend()
    return figure


def _steps(ax: Axes, batches: of.Floats, steps: of.Floats, look: Look, name: str) -> None:
    means = of.means(steps)
    ax.plot(batches, means, color=look.color, linestyle=look.linestyle, label=name)
    sizes = np.broadcast_to(batches, steps.shape).ravel()
    ax.plot(sizes, steps.ravel(), look.marker, color=look.color, markersize=2.5, alpha=0.5)
    there = np.flatnonzero(np.isfinite(means))
    if len(there):
        ax.plot(batches, means[there[0]] * batches[there[0]] / batches, **PERFECT, zorder=0.5)


def _legend_below(ax: Axes, columns: int = 1) -> None:
    """Put the legend under the axis, where no data are."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=columns, borderaxespad=0)


def useful_figure(numbers: pd.DataFrame, batches: Sequence[float]) -> Figure:
    """Draw for every workload where perfect scaling ends, the critical batch, where steps are flat, and B_simple.

    Bars are cut ten times beyond the batch sizes measured, where nothing is known.
    """
    names = list(dict.fromkeys(numbers["workload"]))
    figure, axes = new_figure(COLUMN, 1.3 + 0.42 * len(names))
    ax, (low, high) = axes[0, 0], (min(batches) / 10, max(batches) * 10)
    for place, (look, kind) in enumerate(zip(LOOKS, KINDS, strict=True)):
        for row in records(rows_where(numbers, what=kind)):
            if row["value"] is None:
                continue
            y = -names.index(row["workload"]) + 0.27 - 0.18 * place
            ends = [row["value"] if row[end] is None else min(max(row[end], low), high) for end in ("lower", "upper")]
            ax.plot(ends, [y, y], color=look.color, linewidth=1.0)
            ax.plot([row["value"]], [y], look.marker, color=look.color)
    log_axis(ax.xaxis, [low, high], padding=1.0)
    ax.set_yticks([-row for row in range(len(names))], names)
    ax.set(xlabel="Batch size", ylim=(0.5 - len(names), 0.5))
    handles = [
        look.handle(name, linestyle="-", linewidth=1.0) for look, name in zip(LOOKS, KINDS.values(), strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def rules_figure(numbers: pd.DataFrame, base: int) -> Figure:
    """Draw how many times the steps of the tuned rate both rules from the base batch need, plain SGD.

    Where a search's trial at the rule's rate missed the goal, it needs more than an arrow's foot says.
    """
    figure, axes = new_figure(COLUMN, 2.6)
    ax = axes[0, 0]
    ax.axhline(1.0, **PERFECT, label="tuned at each $B$")
    numbers = numbers.assign(times=floats(numbers, "steps") / floats(numbers, "tuned_steps"))
    for look, shift, (rule, label) in zip(LOOKS, (0.94, 1.06), RULE_NAMES.items(), strict=False):
        rows = rows_where(numbers, rule=rule)
        reached, missed = (rows_where(rows, censored=value) for value in (False, True))
        ax.plot(floats(reached, "batch_size") * shift, floats(reached, "times"), look.marker, **_small(look))
        ax.plot(floats(missed, "batch_size") * shift, floats(missed, "times"), marker=UP, ls="", **_small(look, 6))
        whole = [(size, own) for size, own in groups(rows, "batch_size") if not any(own["censored"])]
        means = [of.means(floats(own, "times")[:, None])[0] for _, own in whole]
        ax.plot([size * shift for size, _ in whole], means, **look.artist, label=f"{label} rule from $B$ = {base}")
    batch_axis(ax.xaxis, floats(numbers, "batch_size"))
    log_axis(ax.yaxis, [0.9, *floats(numbers, "times")], padding=1.1)
    ax.set(xlabel="Batch size", ylabel="Steps / steps of the tuned rate")
    _legend_below(ax)
    return figure


def _small(look: Look, size: float = 2.5) -> dict[str, Any]:
    return {"color": look.color, "markersize": size, "alpha": 0.6}


def quality_figure(solutions: pd.DataFrame, budgets: Mapping[str, Any]) -> Figure:
    """Draw the test error at equal epochs and at equal steps against batch size."""
    figure, axes = new_figure(COLUMN, 2.6)
    ax = axes[0, 0]
    for look, kind in zip(LOOKS, ("epochs", "updates"), strict=False):
        number = budgets[kind]
        label = f"{number} {'epoch' if kind == 'epochs' else 'step'}{'' if number == 1 else 's'}"
        rows = rows_where(solutions, kind={"updates": "steps"}.get(kind, kind))
        rows = rows.assign(percent=100 * floats(rows, "test_error")).dropna(subset=["percent"])
        scatter(ax, rows, "batch_size", "percent", color=look.color, marker=look.marker, alpha=0.5)
        line: dict[str, Any] = {"color": look.color, "linestyle": look.linestyle, "label": label}
        mean_of_seeds(ax, rows, "batch_size", "percent", **line)
    batch_axis(ax.xaxis, floats(solutions, "batch_size"))
    ax.set(xlabel="Batch size", ylabel="Test error (%)")
    _legend_below(ax, 2)
    return figure


def rate_figure(results: Results) -> Figure:
    """Draw the best effective rate of each search against batch size, beside both rules from the base batch."""
    base = results.settings["base_batch"]
    figure, axes = panels(len(results.workloads), "Batch size", "Best $\\eta/(1-m)$")
    for ax, name in zip(axes, results.workloads, strict=True):
        rows = rows_where(results.best, workload=name)
        sizes, rates = of.curve(results.best, name, "effective_rate")
        means = of.means(rates)
        ax.plot(
            floats(rows, "batch_size"), floats(rows, "effective_rate"), "o", color=LOOKS[0].color, ms=2.5, alpha=0.6
        )
        ax.plot(sizes, means, color=LOOKS[0].color)
        start = dict(zip(sizes, means, strict=True)).get(float(base), np.nan)
        for look, (_, power) in zip(LOOKS[1:], RULES, strict=False):
            ax.plot(sizes, start * (sizes / base) ** power, ":", color=look.color)
        batch_axis(ax.xaxis, results.of(name)["batches"])
        log_axis(ax.yaxis, results.of(name)["space"]["rates"])
        ax.set_title(name)
    handles = [Line2D([], [], color=LOOKS[0].color, marker="o", ms=2.5, label="tuned")]
    for look, (rule, _) in zip(LOOKS[1:], RULES, strict=False):
        handles.append(Line2D([], [], color=look.color, linestyle=":", label=f"{rule} rule"))
    _legend_of_panels(figure, handles)
    return figure


def trials_figure(results: Results) -> Figure:
    """Draw every trial's effective learning rate at its batch size by outcome."""
    figure, axes = panels(len(results.workloads), "Batch size", "$\\eta/(1-m)$ of the trial")
    for ax, name in zip(axes, results.workloads, strict=True):
        rows, best = (rows_where(table, workload=name) for table in (results.trials, results.best))
        for shift, (outcome, look) in zip((0.85, 1.0, 1.18), MARKS.items(), strict=True):
            own = rows_where(rows, outcome=outcome)
            ax.plot(floats(own, "batch_size") * shift, floats(own, "effective_rate"), ms=2, **_unlabelled(look))
        ax.plot(floats(best, "batch_size") * 0.85, floats(best, "effective_rate"), ms=4, **BEST)
        batch_axis(ax.xaxis, results.of(name)["batches"])
        log_axis(ax.yaxis, results.of(name)["space"]["rates"])
        ax.set_title(name)
    _outcomes(figure)
    return figure


def momentum_figure(results: Results, name: str) -> Figure:
    """Draw the trials of a workload with momentum in the plane of what was searched, a panel for each batch size."""
    own, best = (rows_where(table, workload=name) for table in (results.trials, results.best))
    space, sizes = results.of(name)["space"], groups(own, "batch_size")
    figure, axes = panels(len(sizes), "$\\eta/(1-m)$", "$1-m$")
    for ax, (size, rows) in zip(axes, sizes, strict=True):
        for outcome, look in MARKS.items():
            group = rows_where(rows, outcome=outcome)
            ax.plot(floats(group, "effective_rate"), 1 - floats(group, "momentum"), ms=2.5, **_unlabelled(look))
        chosen = rows_where(best, batch_size=size)
        ax.plot(floats(chosen, "effective_rate"), 1 - floats(chosen, "momentum"), ms=5, **BEST)
        log_axis(ax.xaxis, space["rates"])
        log_axis(ax.yaxis, space["one_minus_momentum"])
        ax.set_title(f"$B$ = {size}")
    _outcomes(figure)
    return figure


def panels(number: int, label_x: str, label_y: str) -> tuple[Figure, list[Axes]]:
    """Return panels two in a row, with labels on the outer axes."""
    columns = min(number, 2)
    rows = math.ceil(number / columns)
    figure, axes = new_figure(COLUMN, 1.6 * rows + 0.7, rows, columns)
    flat = list(axes.ravel())
    for ax in flat[number:]:
        ax.set_axis_off()
    for place, ax in enumerate(flat[:number]):
        if place + columns >= number:
            ax.set_xlabel(label_x)
        if place % columns == 0:
            ax.set_ylabel(label_y)
    return figure, flat[:number]


def _unlabelled(look: Mapping[str, Any]) -> dict[str, Any]:
    return {"linestyle": ""} | {key: value for key, value in look.items() if key != "label"}


def _outcomes(figure: Figure) -> None:
    handles = [Line2D([], [], linestyle="", ms=3, **look) for look in MARKS.values()]
    handles.append(Line2D([], [], ms=4, label="best of a search", **BEST))
    _legend_of_panels(figure, handles)


def _legend_of_panels(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put the legend where no panel is needed, or below all."""
    spare = [ax for ax in figure.axes if not ax.axison]
    if spare:
        spare[0].legend(handles=handles, loc="center", borderaxespad=0)
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=2)

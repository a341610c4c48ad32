"""The figures of Shallue et al. (2018): steps, useful batch sizes and errors against the batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.shallue2018 import numbers as of
from analysis.shallue2018.results import Results
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, records, rows_where
from sharpness.plots.style import COLUMN, FULL, LOOKS, Look, new_figure

PERFECT: dict[str, Any] = {"color": "0.45", "linestyle": (0, (4, 3)), "linewidth": 0.9}
KINDS = {
    "perfect until": "perfect scaling ends",
    "critical batch": "critical batch $E_{min}/S_{min}$",
    "flat from": "steps stop falling",
    "noise scale": "noise scale $B_{simple}$",
}
"""The batch sizes of a workload that are drawn, and what the legend calls them."""


def batch_axis(axis: Axis, batches: Iterable[float]) -> None:
    """Make an axis logarithmic with a tick at every batch size, at most seven."""
    sizes = sorted({float(size) for size in batches})
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (sizes[0] / 1.5, sizes[-1] * 1.5)})
    axis.set_major_locator(FixedLocator(sizes[:: math.ceil(len(sizes) / 7)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def powers_of_two(axis: Axis, values: Iterable[float]) -> None:
    """Make an axis logarithmic around the values with ticks at powers of two, at most eight."""
    finite = [v for v in values if np.isfinite(v) and v > 0]
    low, high = math.floor(math.log2(min(finite))), math.ceil(math.log2(max(finite)))
    step = math.ceil((high - low + 1) / 8)
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (min(finite) / 1.5, max(finite) * 1.5)})
    axis.set_major_locator(FixedLocator([2.0**k for k in range(low, high + 1, step)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def steps_figure(results: Results) -> Figure:
    """Draw the steps of the best trials against batch size: optimisers, networks, amounts of data."""
    panels = {"Optimisers": "optimisers", "Networks": "networks", "Training images": "data"}
    figure, axes = new_figure(FULL, 2.9, 1, 3)
    for ax, (title, comparison) in zip(axes[0], panels.items(), strict=True):
        names = results.named(comparison)
        for look, name in zip(LOOKS, names, strict=False):
            _steps(ax, *of.curve(results.best, name), look, name)
        batch_axis(ax.xaxis, results.of(names[0])["batches"])
        powers_of_two(ax.yaxis, floats(results.best, "steps"))
        ax.set(xlabel="Batch size", title=title)
        _legend_below(ax)
    axes[0, 0].set_ylabel("Steps to the goal")
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
    figure, axes = new_figure(FULL, 0.75 + 0.42 * len(names))
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
        Line2D([], [], color=look.color, marker=look.marker, linewidth=1.0, label=name)
        for look, name in zip(LOOKS, KINDS.values(), strict=True)
    ]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
    return figure


def rules_figure(numbers: pd.DataFrame, base: int) -> Figure:
    """Draw steps to the goal with the rate tuned and with both rules from the base batch, plain SGD."""
    figure, axes = new_figure(COLUMN, 2.9)
    ax = axes[0, 0]
    tuned = rows_where(numbers, rule="linear").assign(steps=floats(rows_where(numbers, rule="linear"), "tuned_steps"))
    kinds = {"tuned at each $B$": tuned.assign(censored=False)}
    for rule, label in (("linear", "linear"), ("sqrt", "square-root")):
        kinds[f"{label} rule from $B$ = {base}"] = rows_where(numbers, rule=rule)
    for look, (label, rows) in zip(LOOKS, kinds.items(), strict=False):
        sizes = groups(rows, "batch_size")
        means = [of.means(floats(own, "steps")[:, None])[0] for _, own in sizes]
        x = [size for size, _ in sizes]
        ax.plot(x, means, color=look.color, linestyle=look.linestyle, marker=look.marker, label=label)
        missed = rows_where(rows, censored=True)
        ax.plot(floats(missed, "batch_size"), floats(missed, "steps"), "x", color=look.color, markersize=5)
    batch_axis(ax.xaxis, floats(numbers, "batch_size"))
    powers_of_two(ax.yaxis, [*floats(numbers, "steps"), *floats(numbers, "tuned_steps")])
    ax.set(xlabel="Batch size", ylabel="Steps to the goal")
    _legend_below(ax)
    return figure


def quality_figure(solutions: pd.DataFrame, budgets: Mapping[str, Any]) -> Figure:
    """Draw the test error at equal epochs and at equal steps against batch size."""
    figure, axes = new_figure(COLUMN, 2.6)
    ax = axes[0, 0]
    for look, kind in zip(LOOKS, ("epochs", "updates"), strict=False):
        number = budgets[kind]
        label = f"{number} {'epoch' if kind == 'epochs' else 'step'}{'' if number == 1 else 's'}"
        rows = rows_where(solutions, kind={"updates": "steps"}.get(kind, kind))
        rows = rows.loc[np.isfinite(floats(rows, "test_error"))]
        ax.plot(
            floats(rows, "batch_size"),
            100 * floats(rows, "test_error"),
            look.marker,
            color=look.color,
            ms=2.5,
            alpha=0.5,
        )
        sizes = groups(rows, "batch_size")
        means = [100 * np.mean(floats(own, "test_error")) for _, own in sizes]
        ax.plot([size for size, _ in sizes], means, color=look.color, linestyle=look.linestyle, label=label)
    batch_axis(ax.xaxis, floats(solutions, "batch_size"))
    ax.set(xlabel="Batch size", ylabel="Test error (%)")
    _legend_below(ax, 2)
    return figure

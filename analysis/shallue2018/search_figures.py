"""Figures of the searches of Shallue et al. (2018): every trial, the best learning rates, and momentum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.shallue2018 import numbers as of
from analysis.shallue2018.figures import batch_axis
from analysis.shallue2018.results import Results
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.style import FULL, LOOKS, new_figure

MARKS: Mapping[str, Mapping[str, Any]] = {
    "reached": {"marker": "o", "color": "#0173b2", "label": "goal reached"},
    "missed": {"marker": "x", "color": "#de8f05", "label": "goal not reached"},
    "diverged": {"marker": "^", "color": "0.45", "label": "diverged"},
}
"""How trials look by outcome."""
BEST: dict[str, Any] = {"linestyle": "", "marker": "o", "mfc": "none", "color": "k", "mew": 0.7}
RULES = (("linear", 1.0), ("square-root", 0.5))


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
        batch_axis(ax.xaxis, sizes)
        log_axis(ax.yaxis, results.of(name)["space"]["rates"])
        ax.set_title(name)
    handles = [Line2D([], [], color=LOOKS[0].color, marker="o", ms=2.5, label="tuned (line: geometric mean)")]
    for look, (rule, _) in zip(LOOKS[1:], RULES, strict=False):
        handles.append(Line2D([], [], color=look.color, linestyle=":", label=f"{rule} rule from $B$ = {base}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
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
        batch_axis(ax.xaxis, floats(rows, "batch_size"))
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
    """Return panels three in a row (of two or four: two), with labels on the outer axes."""
    columns = 2 if number in (2, 4) else min(number, 3)
    rows = math.ceil(number / columns)
    figure, axes = new_figure(FULL, 1.75 * rows + 0.3, rows, columns)
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
    figure.legend(handles=handles, loc="outside lower center", ncols=4)

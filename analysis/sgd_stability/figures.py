"""The figures of the stability of SGD: the map of divergence, steady falls, the shift by a penalty, and escapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from analysis.report.report import Drawing
from sharpness.plots.axes import fixed_ticks, log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.seeds import hues, mean_of_seeds, range_of_seeds
from sharpness.plots.style import COLUMN, LOOKS, new_figure, shades

RATE = r"$\eta\,\lambda_{\max}$"
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.02), "columnspacing": 1.2, "handletextpad": 0.5}
COMPUTED = {"color": "0.1", "linestyle": "-", "linewidth": 1.3}
TYPICAL = {"color": "0.1", "linestyle": ":", "linewidth": 1.3}


def map_figure(walks: pd.DataFrame, rates: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the share of walks that ran away over batch sizes and learning rates, a panel for each penalty."""
    if walks.empty:
        return "no walk was measured"
    penalties = sorted(set(walks["penalty"]))
    figure, axes = new_figure(COLUMN, 0.7 + 1.7 * len(penalties), len(penalties), 1)
    shared = walks.groupby(["penalty", "batch", "rate"])["ran_away"].mean()
    numbers = pd.DataFrame(shared).reset_index()
    mesh = None
    for penalty, ax in zip(penalties, axes[:, 0], strict=True):
        own, limits = rows_where(numbers, penalty=penalty), rows_where(rates, penalty=penalty)
        grid = own.pivot(index="rate", columns="batch", values="ran_away")
        places = np.arange(len(grid.columns))
        mesh = ax.pcolormesh(places, grid.index, grid.to_numpy(), cmap="Blues", vmin=0, vmax=1, rasterized=True)
        for column, style in (("stable_rate", COMPUTED), ("typical_rate", TYPICAL)):
            ax.plot(
                places, [np.exp(np.log(floats(each, column)).mean()) for _, each in groups(limits, "batch")], **style
            )
        ax.grid(False)
        log_axis(ax.yaxis, floats(own, "rate"), 1.0)
        fixed_ticks(ax.xaxis, places, partial(_name, list(grid.columns)))
        ax.set(ylabel=f"Learning rate, {RATE}", title=_penalty(penalty))
        ax.tick_params(labelbottom=ax is axes[-1, 0])
    axes[-1, 0].set_xlabel("Batch size B")
    assert mesh is not None  # there is a penalty, if only of 0
    bar = figure.colorbar(mesh, ax=axes[:, 0].tolist(), format=PercentFormatter(1.0, 0), pad=0.015, aspect=25)
    bar.set_label("Walks that ran away")
    handles = [
        Line2D([], [], label="computed: the mean square stops shrinking", **COMPUTED),
        Line2D([], [], label="nearly every walk begins to grow", **TYPICAL),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=1)
    caption = (
        "Share of walks of SGD on least squares that ran away (first sense of stability), mean over seeds, against "
        "batch size and learning rate in units of 1 / lambda_max, without and with an L2 penalty mu. Solid: the "
        "largest rate at which the mean square of a distance shrinks, computed. Dotted: where the top Lyapunov "
        f"exponent, measured on the same batches, becomes positive. {note}"
    )
    return Drawing(figure, numbers, caption)


def steady_figure(walks: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the share of early steps in which the loss falls against the learning rate, a line for each batch size."""
    if walks.empty:
        return "no walk was measured"
    penalties = sorted(set(walks["penalty"]))[:2]
    figure, axes = new_figure(COLUMN, 0.7 + 1.9 * len(penalties), len(penalties), 1)
    colors = shades(sorted(set(walks["batch"])))
    for penalty, ax in zip(penalties, axes[:, 0], strict=True):
        mean_of_seeds(ax, rows_where(walks, penalty=penalty), "rate", "falls", **hues("batch", colors))
        ax.axhline(0.5, color="0.5", linestyle=":", linewidth=1)
        log_axis(ax.xaxis, floats(walks, "rate"), 1.05)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
        ax.set(ylabel="Steps in which\nthe loss falls", ylim=(0, 1.03), title=_penalty(penalty))
    axes[-1, 0].set_xlabel(f"Learning rate, {RATE}")
    figure.legend(handles=_batches(colors), loc="outside upper center", ncols=min(4, len(colors)))
    caption = (
        "Share of the steps in the first tenth of the walks in which the loss over all examples, with its penalty, "
        "fell (second sense of stability), against the learning rate, mean over walks and seeds, a line for each "
        f"batch size B; the largest B is the full batch. Dotted: half of the steps. {note}"
    )
    return Drawing(figure, walks.filter(["seed", "penalty", "batch", "rate", "falls"]), caption)


def penalty_figure(rates: pd.DataFrame, note: str) -> Drawing | str:
    """Draw how an L2 penalty moves the largest rate at each batch size: measured marks on computed lines."""
    penalties = sorted(set(rates["penalty"]) - {0.0})
    if not penalties:
        return "no walk had a penalty"
    figure, axes = new_figure(COLUMN, 2.7)
    ax = axes[0, 0]
    plain = rows_where(rates, penalty=0.0)[["seed", "batch", "stable_rate", "half_rate"]]
    parts = []
    for penalty, look in zip(penalties, LOOKS, strict=False):
        both = rows_where(rates, penalty=penalty).merge(plain, on=["seed", "batch"], suffixes=("", "_plain"))
        shift = {name: floats(both, f"{name}_rate") / floats(both, f"{name}_rate_plain") for name in ("stable", "half")}
        shown = both[["seed", "batch", "penalty"]].assign(computed=shift["stable"], measured=shift["half"])
        mean_of_seeds(ax, shown, "batch", "computed", True, color=look.color)
        marks = {"color": look.color, "marker": look.marker, "linestyle": "", "markersize": 4}
        range_of_seeds(ax, shown, "batch", "measured", True, **marks)
        parts.append(shown)
    numbers = pd.concat(parts)
    ax.axhline(1, color="0.5", linestyle=":", linewidth=1)
    _batch_axis(ax, floats(numbers, "batch"))
    log_axis(ax.yaxis, [*floats(numbers, "computed"), *floats(numbers, "measured")], 1.1)
    fixed_ticks(ax.yaxis, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4))
    ax.set_ylabel("Largest rate with L2 / without")
    named = [
        look.handle(rf"$\mu$ = {p:g} $\lambda_{{\max}}$", linestyle="-")
        for p, look in zip(penalties, LOOKS, strict=False)
    ]
    ax.legend(handles=named, ncols=2, **ABOVE)
    caption = (
        "The largest learning rate with an L2 penalty over that without, against the batch size, log axes. Lines: "
        "computed, where the mean square stops shrinking; marks: measured, where half of the walks run away, geometric "
        f"mean over the seeds with their whole range. Above 1 the penalty stabilises. {note}"
    )
    return Drawing(figure, numbers, caption)


def escape_figure(basins: pd.DataFrame, rates: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the share of walks that left the sharp basin against eta / B, and the rate at which half left against B."""
    if basins.empty:
        return "no walk between basins was measured"
    sharp = rows_where(basins, basin="sharp")
    sharp = sharp.assign(per_example=floats(sharp, "rate") / floats(sharp, "batch"))
    figure, axes = new_figure(COLUMN, 5.2, 2, 1)
    top, bottom = axes[:, 0]
    colors = shades(sorted(set(sharp["batch"])))
    mean_of_seeds(top, sharp, "per_example", "left", **hues("batch", colors))
    top.legend(handles=_batches(colors), ncols=4, **ABOVE)
    top.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    shown = floats(sharp, "per_example")[floats(sharp, "left") > 0]
    log_axis(top.xaxis, shown, 2.0)
    top.set(xlabel=r"$\eta\,a\;/\;B$", ylabel="Walks that left the sharp basin", ylim=(0, 1.03))
    for column, style in (("stable_rate", COMPUTED), ("typical_rate", TYPICAL)):
        mean_of_seeds(bottom, rates, "batch", column, True, **style)
    range_of_seeds(bottom, rates, "batch", "half_rate", True, **LOOKS[0].artist | {"linestyle": ""})
    _batch_axis(bottom, floats(rates, "batch"))
    log_axis(bottom.yaxis, np.concatenate([floats(rates, column) for column in ("stable_rate", "half_rate")]))
    bottom.set_ylabel(r"Learning rate, $\eta\,a$")
    handles = [
        LOOKS[0].handle("half left", linestyle=""),
        Line2D([], [], label="linear stability", **COMPUTED),
        Line2D([], [], label="typical walk", **TYPICAL),
    ]
    bottom.legend(handles=handles, ncols=3, **ABOVE)
    caption = (
        "A loss of one weight with a sharp basin of curvature a and a flat one. Top: share of walks from the sharp "
        "basin that left it, against the learning rate over the batch size, a line for each B (the largest is the full "
        "batch), mean over seeds: were eta / B all that counts, the lines would be one. Bottom: the rate at which half "
        "left, geometric mean over the seeds with their whole range; solid: the condition of linear stability, "
        f"2 a / (a^2 + p s^2); dotted: where the mean logarithm of a step's factor becomes positive. {note}"
    )
    return Drawing(figure, sharp.drop(columns=["basin", "per_example"]), caption)


def _penalty(penalty: float) -> str:
    return rf"$\mu$ = {penalty:g} $\lambda_{{\max}}$" if penalty else "no L2 penalty"


def _name(batches: Sequence[int], place: float) -> str:
    return str(batches[round(place)])


def _batches(colors: Mapping[int, Any]) -> list[Line2D]:
    return [Line2D([], [], color=color, label=f"B = {batch}") for batch, color in colors.items()]


def _batch_axis(ax: Axes, batches: Iterable[float]) -> None:
    shown = sorted(set(batches))
    log_axis(ax.xaxis, shown)
    fixed_ticks(ax.xaxis, shown)
    ax.set_xlabel("Batch size B")

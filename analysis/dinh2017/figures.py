"""The figures of the study of Dinh et al. (2017): curvature on its bounds, and every measure against alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.dinh2017.numbers import RUN, flags_of, low_area
from analysis.report.report import Drawing
from sharpness.plots.axes import fixed_ticks, log_axis
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.seeds import each_seed, hues, lines, mean_of_seeds, scatter
from sharpness.plots.style import COLUMN, LOOKS, new_figure

ROLES = dict(zip(("SB", "LB"), LOOKS, strict=False))
COLORS = hues("role", {role: look.color for role, look in ROLES.items()})
PREDICTED: dict[str, Any] = {"linestyle": ":", "linewidth": 1.6}
CURVATURE = {"top_eigenvalue": ("bound", r"$\lambda_{\max}$ (nats)"), "trace": ("sum", "Trace (nats)")}
COLUMNS = 2
FLAT = (0.5, 2.0)
"""The axis of a measure that stays within these reaches from one to the other, so that rounding looks like none."""
MARKED: dict[str, Any] = {"markersize": 3.2, "markeredgecolor": "white", "markeredgewidth": 0.3}


def curvature_figure(table: pd.DataFrame, expected: pd.DataFrame, note: str) -> Drawing | str:
    """Draw top eigenvalue and trace against alpha, measured and as the blocks at alpha = 1 predict them."""
    rows = table.loc[table["measure"].isin(list(CURVATURE)) & (floats(table, "value") > 0)]
    if rows.empty:
        return "no run was measured"
    networks = list(dict.fromkeys(rows["network"]))
    numbers = rows[[*RUN, "measure", "alpha", "value"]].merge(expected, how="left", on=[*RUN, "alpha"])
    figure, axes = new_figure(COLUMN, 0.7 + 1.6 * len(networks), len(networks), 2)
    for network, line in zip(networks, axes, strict=True):
        for (measure, (column, label)), ax in zip(CURVATURE.items(), line, strict=True):
            own = rows_where(numbers, network=network, measure=measure)
            _curves(ax, own, "value")
            mean_of_seeds(ax, own, "alpha", column, geometric=True, **COLORS, **PREDICTED, zorder=4)
            log_axis(ax.yaxis, [*floats(own, "value"), *floats(own, column)])
            alpha_axis(ax, floats(rows_where(rows, network=network), "alpha"))
            ax.set(xlabel="α" if network == networks[-1] else "", ylabel=label, title=network)
    handles = [*_roles(), Line2D([], [], color="0.3", **PREDICTED, label="from the blocks at α = 1")]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, handlelength=2.6)
    caption = (
        "Top eigenvalue (left) and trace (right) of the Hessian of one network after rescalings that change no output, "
        "log axes. Thin: each seed; thick with marks: geometric mean over the seeds. Dotted: geometric mean of what "
        "the blocks of the Hessian at alpha = 1 predict, left the bound max_k a_k lambda_max(H_kk), right the sum of "
        "a_k tr H_kk, with a_k = alpha^-2 for the layer that is multiplied by alpha, alpha^2 for one divided by it and "
        f"1 for other weights. {note}"
    )
    return Drawing(figure, numbers, caption)


def measures_figure(
    table: pd.DataFrame, network: str, measures: Mapping[str, tuple[str, bool]], note: str
) -> Drawing | str:
    """Draw the measures over their values at alpha = 1: a panel for each that should move, one for all others."""
    own = rows_where(table, network=network)
    rows = own.loc[np.isfinite(floats(own, "ratio")) & own["measure"].isin(list(measures))]
    if not (floats(rows, "alpha") != 1).any():
        return f"no {network} was measured after a rescaling"
    panels = {title: [name] for name, (title, moves) in measures.items() if moves}
    still = {name: title for name, (title, moves) in measures.items() if not moves}
    panels[f"{len(still)} that should not move"] = list(still)
    down = -(-len(panels) // COLUMNS)
    figure, axes = new_figure(COLUMN, 0.55 + 1.35 * down, down, COLUMNS)
    for (title, names), ax in zip(panels.items(), axes.flat, strict=False):
        _moves(ax, rows.loc[rows["measure"].isin(names)], title, flags_of(own.loc[own["measure"].isin(names)]))
        alpha_axis(ax, floats(rows, "alpha"))
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    figure.supxlabel("α", fontsize=9)
    figure.supylabel("Value / value at α = 1", fontsize=9)
    figure.legend(handles=_roles(), loc="outside upper center", ncols=2, handlelength=2.6)
    caption = (
        f"{network}: each measure over its value at alpha = 1 after rescalings that change no output, log axes. Thin: "
        "each seed; thick with marks: geometric mean. By theory the last panel's measures do not move, each drawn over "
        f"the others: {', '.join(still.values())}. In bold what moved, by a measure's own interval where it has one, "
        f"by 1 % otherwise; the count is of runs and alphas. {note}"
    )
    return Drawing(figure, rows[[*RUN, "measure", "alpha", "value", "ratio", "moved"]], caption)


def _moves(ax: Axes, rows: pd.DataFrame, title: str, moved: Sequence[bool]) -> None:
    """Draw one or several measures over their values at alpha = 1, and say in how many cases one moved."""
    for measure in dict.fromkeys(rows["measure"]):
        _curves(ax, rows_where(rows, measure=measure), "ratio")
    ax.axhline(1, color="0.35", linewidth=0.7, zorder=1)
    values = floats(rows, "ratio")
    flat = not len(values) or (values.min() >= FLAT[0] and values.max() <= FLAT[1])
    log_axis(ax.yaxis, FLAT if flat else values, 1.0 if flat else 1.25)
    count = f"moved in {sum(moved)} of {len(moved)}" if any(moved) else f"did not move in {len(moved)}"
    title = title.replace("λ_max", r"$\lambda_{\max}$")
    ax.set_title(f"{title}\n{count}", fontweight="bold" if any(moved) else "normal", linespacing=1.15)


def volume_figure(areas: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the region of low loss of y = w2 relu(w1 x) (top) and its area within a radius (bottom)."""
    if areas.empty:
        return "no area was measured"
    rise, radii = floats(areas, "rise")[0], np.array(sorted(set(areas["radius"])))
    figure, axes = new_figure(COLUMN, 5.4, 2, 1)
    top, bottom = axes[:, 0]
    reach = 2 * radii.min()
    w1, w2 = np.meshgrid(np.linspace(-reach / 4, reach, 500), np.linspace(-reach / 4, reach, 500))
    product = np.where(w1 > 0, w1 * w2, 0.0)
    top.contourf(w1, w2, np.abs(product - 1), levels=[0, np.sqrt(rise)], colors=[LOOKS[0].color], alpha=0.5)
    turn = np.linspace(0, 2 * np.pi, 200)
    for radius in radii[radii <= reach]:
        top.plot(radius * np.cos(turn), radius * np.sin(turn), color="0.5", linewidth=0.8, linestyle=":")
    top.set(xlabel="$w_1$", ylabel="$w_2$", xlim=(-reach / 4, reach), ylim=(-reach / 4, reach), aspect="equal")
    fine = np.geomspace(radii.min(), radii.max(), 100)
    bottom.plot(fine, low_area(fine, rise), color="0.1", linewidth=1.3)
    scatter(bottom, areas, "radius", "area", color=LOOKS[0].color, s=14)
    log_axis(bottom.xaxis, radii)
    bottom.set(xlabel=r"Radius R / $\sqrt{p}$", ylabel="Area of low loss / p", ylim=(0, None))
    handles = [
        Line2D([], [], color="0.1", linewidth=1.3, label="closed form"),
        LOOKS[0].handle("measured, each seed", linestyle="", **MARKED),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    caption = (
        "The network y = w2 relu(w1 x) of two weights, its minima on the hyperbola w1 w2 = p. Top: where the loss "
        f"rises by less than {100 * rise:g} % of the way to that of the constant network, weights over sqrt(p); "
        "circles: the smallest radii. Bottom: the area of that region within a radius, closed form and measured on "
        f"images of each seed; on this log axis a straight line grows for ever. {note}"
    )
    return Drawing(figure, areas, caption)


def alpha_axis(ax: Axes, alphas: np.ndarray) -> None:
    """Make the horizontal axis that of alpha, with its values as powers of 2 where there is room for them."""
    low, high = alphas.min(), alphas.max()
    ax.set(xscale="log", xlim=(low / 1.4, high * 1.4))
    fixed_ticks(ax.xaxis, sorted({low, 1.0, high}), fraction)


def fraction(value: float) -> str:
    """Return a number, below 1 as a share of 1.

    >>> fraction(0.25), fraction(16.0)
    ('1/4', '16')
    """
    return f"1/{1 / value:g}" if value < 1 else f"{value:g}"


def _curves(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    each_seed(ax, rows, "alpha", column, **COLORS)
    mean_of_seeds(ax, rows, "alpha", column, geometric=True, **lines("role", ROLES), **MARKED, zorder=3)


def _roles() -> list[Line2D]:
    return [look.handle(role, **MARKED) for role, look in ROLES.items()]

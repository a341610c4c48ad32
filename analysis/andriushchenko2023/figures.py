"""The two figures of the grid: Kendall's tau of every measure, and four measures against the generalisation gap."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.andriushchenko2023.numbers import FAMILIES, MEASURES, TARGETS, tau_of
from analysis.report.numbers import correlation
from analysis.report.report import Drawing
from sharpness.plots.axes import number_axis
from sharpness.plots.frames import floats, records, rows_where
from sharpness.plots.seeds import marks, scatter
from sharpness.plots.style import COLUMN, FULL, LOOKS, new_figure

LOOK = dict(zip(FAMILIES, (LOOKS[3], LOOKS[1], LOOKS[0], LOOKS[2]), strict=True))
FAMILY = {
    "norm": "norms",
    "plain": "plain sharpness",
    "adaptive": "adaptive sharpness",
    "normalised": "of logits of length 1",
}
NAMES = {
    "weight_norm": r"$\|w\|_2$",
    "spectral_product": "log product of spectral norms",
    "distance": "distance from the start",
    "eigenvalue": r"$\lambda_{\max}$",
    "trace": "trace of the Hessian",
    "fisher_trace": "trace of the Fisher matrix",
    "directional": "directional sharpness",
    "keskar": "Keskar sharpness",
    "pac_bayes_plain": r"PAC-Bayes $1/\sigma^2$",
    "pac_bayes_adaptive": r"PAC-Bayes $1/\sigma'^2$",
    "radius_adaptive": r"worst case $1/\alpha'^2$",
    "relative_flatness": "relative flatness",
    "fisher_rao_norm": "Fisher-Rao norm",
    "sam_plain": "SAM step",
    "sam_adaptive": "ASAM step",
}
SHOWN = {
    "eigenvalue": r"$\lambda_{\max}$ (nats)",
    "worst_linf_adaptive": "worst case $\\ell_\\infty$,\nadaptive (nats)",
    "worst_linf_adaptive_normalised": "worst case $\\ell_\\infty$, adaptive,\nlogits of length 1 (nats)",
    "spectral_product": "log product of\nspectral norms",
}
"""The measures drawn one by one, with what their axes say."""


def name_of(measure: str) -> str:
    """Return a measure as figures call it.

    >>> name_of("average_plain_normalised"), name_of("average_adaptive")
    ('average case, plain', 'average case, adaptive')
    """
    if measure in NAMES:
        return NAMES[measure]
    case, *rest = measure.removesuffix("_normalised").split("_")
    ball = {"l2": r" $\ell_2$", "linf": r" $\ell_\infty$"}.get(rest[0], "")
    return f"{case} case{ball}, {rest[-1]}"


def tau_figure(taus: pd.DataFrame, target: str, note: str) -> Drawing | str:
    """Draw tau with its interval for every measure: over all settings, one setting each, their mean; with the rate."""
    if not np.isfinite(floats(taus, "value")).any():
        return "no measure has a correlation: too few runs reached the training loss"
    granulated = [
        over for over in dict.fromkeys(rows_where(taus, target=target)["over"]) if over not in ("all", "mean")
    ]
    panels = [(target, "all", "all\nsettings")]
    panels += [(target, over, f"{over.replace('_', ' ')}\nvaried") for over in granulated]
    panels += [(target, "mean", "mean of\nthese")] if granulated else []
    panels.append(("learning_rate", "all", "with the\nlearning rate"))
    figure, axes = new_figure(FULL, 5.2, 1, len(panels))
    places = {measure: -number - 0.8 * _family(measure) for number, measure in enumerate(MEASURES)}
    for ax, (of, over, title) in zip(axes.flat, panels, strict=True):
        _panel(ax, rows_where(taus, target=of, over=over), places)
        ax.set_title(title, fontsize=6.5)
        ax.tick_params(labelleft=ax is axes.flat[0], left=False)
    axes.flat[0].set_yticks(list(places.values()), [name_of(measure) for measure in places])
    figure.supxlabel(
        rf"Kendall $\tau_b$ with the {TARGETS[target].replace(' - ', ' $-$ ')} (last panel: with the learning rate)",
        fontsize=9,
    )
    handles = [LOOK[family].handle(FAMILY[family], linestyle="", markersize=3.5) for family in FAMILIES]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    drawn = taus.loc[(taus["target"] == target) | (taus["target"] == "learning_rate")]
    caption = (
        f"Kendall's tau-b of every measure (larger is sharper) with the {TARGETS[target]}, seeds averaged, with 95 % "
        "bootstrap intervals: over all settings; over settings that differ in the named one alone, averaged over the "
        "others (granulated, Jiang et al. 2020); and the mean of these. Last: with the learning rate itself, over all "
        "settings. Without a mark: no correlation, as where a series is constant; without a bar: one group only. "
        f"{note}"
    )
    return Drawing(figure, drawn, caption)


def _family(measure: str) -> int:
    return next(number for number, members in enumerate(FAMILIES.values()) if measure in members)


def _panel(ax: Axes, rows: pd.DataFrame, places: dict[str, float]) -> None:
    ax.axvline(0, color="0.4", linewidth=0.7, zorder=1)
    for row in records(rows):
        look, y = LOOK[row["family"]], places[row["measure"]]
        if row["value"] is None:
            continue
        if row["lower"] is not None:
            ax.plot([row["lower"], row["upper"]], [y, y], color=look.color, linewidth=0.9, zorder=2)
        ax.plot(row["value"], y, color=look.color, marker=look.marker, markersize=3.2, zorder=3)
    ax.set(xlim=(-1.16, 1.16), xticks=(-1, 0, 1), yticks=list(places.values()))
    ax.set_xticklabels(["$-$1", "0", "1"])
    ax.set_ylim(min(places.values()) - 0.7, 0.7)


def scatter_figure(runs: pd.DataFrame, taus: pd.DataFrame, target: str, note: str) -> Drawing | str:
    """Draw four measures against the gap, a mark per run, by learning rate."""
    if runs.empty:
        return "no run reached the training loss"
    rates = sorted(set(runs["learning_rate"]))
    looks = {rate: LOOKS[min(number, len(LOOKS) - 1)] for number, rate in enumerate(rates)}
    figure, axes = new_figure(COLUMN, 4.4, 2, 2)
    shown = runs.assign(percent=100 * floats(runs, target))
    for ax, measure in zip(axes.flat, SHOWN, strict=True):
        scatter(ax, shown, measure, "percent", **marks("learning_rate", looks))
        number_axis(ax.xaxis, floats(runs, measure), 3)
        ax.set_xlabel(SHOWN[measure], fontsize=8)
        tau = correlation(tau_of(taus, measure, target)).replace("-", "\N{MINUS SIGN}")
        ax.set_title(rf"$\tau_b$ {tau}", fontsize=7)
    figure.supylabel("Train $-$ test accuracy (pp)" if target == "accuracy_gap" else TARGETS[target], fontsize=9)
    handles = [look.handle(rf"$\eta$ = {rate:g}", linestyle="", markersize=3.5) for rate, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    caption = (
        f"Four measures against the {TARGETS[target]} in percentage points, one mark per run, by learning rate. "
        f"Titles: Kendall's tau-b over the settings, seeds averaged, with its 95 % bootstrap interval. {note}"
    )
    columns = ["run_id", *(name for name in runs.columns if name in ("learning_rate", "seed", target, *SHOWN))]
    return Drawing(figure, runs.filter(columns), caption)

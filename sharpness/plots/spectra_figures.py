"""One function per figure of spectra: a table in, a figure out; no file is read or written here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from sharpness.plots.artists import Shown, dot, dots, legend_above, shown_in
from sharpness.plots.axes import asinh_axis, linear_share
from sharpness.plots.caption_text import matrices, with_unit
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network
from sharpness.plots.spectra_tables import BOUNDS, CURVE, EIGENVALUE, common_threshold, end_of, width_asked
from sharpness.plots.style import COLUMN, FULL, STYLE, Look

MOST_ROWS = (12, 40, 100)
"""Up to so many layers a strip is one column wide, is one panel, is two panels; with more it is three."""


def spectral_density(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the densities of :func:`sharpness.plots.spectra_tables.density_table`, below them the extreme eigenvalues.

    The density axis is logarithmic and reaches a decade below 1 / size (dotted), a single eigenvalue per unit.
    """
    shown = shown_in(table, networks)
    extremes = rows_where(table, mark=EIGENVALUE)
    num_rows = len(shown) if len(extremes) else 0
    figure = Figure(figsize=(COLUMN, 2.6 + 0.16 * num_rows), layout="constrained")
    figure.get_layout_engine().set(hspace=0.0, h_pad=0.03)  # type: ignore[union-attr]
    ratios = [1.0, 0.03 + 0.09 * num_rows] if num_rows else [1.0]
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    ax, threshold = axes[0], common_threshold(networks)
    shares = {1 / network.records["density"].details["size"] for network, _ in shown}
    floor = min(shares) / 10
    for network, look in shown:
        _density_curve(ax, rows_where(table, network=network.label, mark=CURVE), look, floor)
    for share in shares:
        ax.axhline(share, color="0.35", linestyle=":", linewidth=0.9, zorder=1)
    ax.text(1.01, max(shares), "$1/n$", transform=ax.get_yaxis_transform(), va="center", fontsize=7)
    _density_axis(ax, floor, np.concatenate([floats(table, "density"), floats(table, "density_upper")]))
    visible = floats(table, "eigenvalue")[(floats(table, "density") > floor) | np.isnan(floats(table, "density"))]
    bounds = np.concatenate([visible, floats(extremes, "lower"), floats(extremes, "upper")])
    if num_rows:
        _extremes(axes[1], extremes, shown)
    for each in axes:
        asinh_axis(each.xaxis, bounds, threshold)
    axes[-1].set_xlabel(spectrum_label(shown, "density"))
    legend_above(figure, shown, marked=bool(num_rows))
    return figure


def _density_axis(ax: Axes, floor: float, values: NDArray[np.float64]) -> None:
    top = 2 * max(values[np.isfinite(values)].max(), 10 * floor)
    decades = range(int(np.ceil(np.log10(floor))), int(np.floor(np.log10(top))) + 1)
    ax.set(yscale="log", ylim=(floor, top), ylabel=r"Density (per unit of $\mathrm{asinh}\,\lambda/\lambda_0$)")
    ax.yaxis.set_major_locator(FixedLocator([10.0**k for k in decades if k % 2 == 0 or len(decades) < 5]))
    ax.yaxis.set_minor_locator(NullLocator())


def _density_curve(ax: Axes, rows: pd.DataFrame, look: Look, floor: float) -> None:
    x, y = floats(rows, "eigenvalue"), floats(rows, "density")
    lower, upper = (np.clip(floats(rows, f"density_{side}"), floor / 10, None) for side in ("lower", "upper"))
    ax.fill_between(x, lower, upper, color=look.color, alpha=0.2, linewidth=0)
    # Clipped far below the axis: a kernel's tail underflows to 0, which has no logarithm.
    ax.plot(x, np.clip(y, floor / 10, None), color=look.color, linestyle=look.linestyle, linewidth=1.1)


def _extremes(ax: Axes, extremes: pd.DataFrame, shown: Shown) -> None:
    for height, (network, look) in enumerate(shown):
        dots(ax, rows_where(extremes, network=network.label), look, -height)
    ax.set_ylim(0.6 - len(shown), 0.6)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def layer_strip(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the eigenvalues of each layer of :func:`sharpness.plots.spectra_tables.layers_table`, one row per layer.

    Many layers go on in a second and a third panel beside the first.
    """
    shown = shown_in(table, networks)
    layers = table.dropna(subset=["position"])
    rows = list(dict.fromkeys(zip(layers["layer"], layers["size"], strict=True)))
    num_panels = 1 + sum(len(rows) > most for most in MOST_ROWS[1:])
    num_rows = -(-len(rows) // num_panels)
    pitch = max(0.085 * (1 + len(shown)), 0.17)
    width = COLUMN if len(rows) <= MOST_ROWS[0] else FULL
    height = max(0.95 + pitch * num_rows, 1.75)  # of the label beside the axes
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, num_panels, squeeze=False, sharex=True)[0]
    values = floats(table, "eigenvalue")
    bounds = np.concatenate([values, floats(table, "lower"), floats(table, "upper")])
    for number, ax in enumerate(axes):
        _panel(ax, rows[number * num_rows : (number + 1) * num_rows], num_rows, table, shown)
        asinh_axis(ax.xaxis, bounds, linear_share(values), max_labels=8 if num_panels == 1 else 5)
        ax.axvline(0, color="0.6", linewidth=0.6, zorder=0.9)
    if num_panels == 1:
        axes[0].set_xlabel(spectrum_label(shown, "layers"))
    else:  # once for all panels, which may be narrower than the label
        figure.supxlabel(spectrum_label(shown, "layers"), fontsize=STYLE["axes.labelsize"])
    axes[0].set_ylabel("Layer (parameters)")
    legend_above(figure, shown, marked=True)
    return figure


def _panel(ax: Axes, rows: Sequence[tuple[str, int]], num_rows: int, table: pd.DataFrame, shown: Shown) -> None:
    """Draw some layers, with room for ``num_rows``, and the top eigenvalues of the whole networks as vertical lines."""
    heights = {row: -height for height, row in enumerate(rows)}
    for number, (network, look) in enumerate(shown):
        offset = 0.6 * (0.5 - (number + 0.5) / len(shown))
        own = rows_where(table, network=network.label)
        layers = own.dropna(subset=["position"])
        for (name, size), height in heights.items():
            dots(ax, rows_where(layers, layer=name, size=size), look, height + offset)
        for top in floats(own, "eigenvalue")[np.asarray(own["position"].isna())]:
            ax.axvline(top, color=look.color, linestyle=look.linestyle, linewidth=1.0, zorder=1)
    ax.set_yticks(list(heights.values()), [f"{name} ({_count(size)})" for name, size in rows])
    ax.set_ylim(0.5 - num_rows, 0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    for height in list(heights.values())[1::2]:
        ax.axhspan(height - 0.5, height + 0.5, color="0.955", linewidth=0, zorder=0)


def convergence(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the interval of the first eigenvalue against products, relative to its final value, in per cent."""
    shown = shown_in(table, networks)
    figure = Figure(figsize=(COLUMN, 2.5), layout="constrained")
    draw_convergence(figure.subplots(), table, shown)
    legend_above(figure, shown, marked=True)
    return figure


def draw_convergence(ax: Axes, table: pd.DataFrame, shown: Shown) -> None:
    """Draw what :func:`convergence` does into axes: the Ritz values, the bound beyond them, and the width asked for."""
    asked = {width_asked(network.records["eigenvalues"]) for network, _ in shown}
    rtols = sorted(width for width in asked if width is not None)
    ends = sorted({end_of(network.records["eigenvalues"]) for network, _ in shown}, reverse=True)
    for network, look in shown:
        _interval_curves(ax, rows_where(table, network=network.label), look, end_of(network.records["eigenvalues"]))
    # Of a bottom eigenvalue it is the lower bound that has the way to go.
    lines = [100 * rtol * {"top": 1, "bottom": -1}[end] for rtol in rtols for end in ends]
    for y in lines:
        ax.axhline(y, color="0.35", linestyle=":", linewidth=0.9, zorder=1)
        place = {"xy": (0.015, y), "xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        ax.annotate(f"asked: {abs(y):g} %", xytext=(0, 2), fontsize=6.5, **place)
    bounds = [floats(table, f"{name}_percent") for name in BOUNDS]
    asinh_axis(ax.yaxis, np.concatenate([*bounds, lines]), 100 * min(rtols, default=1e-2) / 10)
    symbol = {"top": r"\lambda_{\max}", "bottom": r"\lambda_{\min}"}[ends[0]] if len(ends) == 1 else r"\lambda"
    matrix = matrices([(network, network.records["eigenvalues"]) for network, _ in shown])
    ax.set(xlabel=f"{matrix}-vector products", ylabel=rf"Distance from the final ${symbol}$ (%)")
    ax.set_xlim(left=0)


def _interval_curves(ax: Axes, rows: pd.DataFrame, look: Look, end: str) -> None:
    """Draw one network's interval; the bound with a line of its own is the one that no vector proves."""
    x, (ritz, lower, upper) = floats(rows, "products"), (floats(rows, f"{name}_percent") for name in BOUNDS)
    far = upper if end == "top" else lower
    ax.fill_between(x, lower, upper, color=look.color, alpha=0.18, linewidth=0)
    ax.plot(x, ritz, color=look.color, linestyle=look.linestyle, linewidth=1.1)
    ax.plot(x, far, color=look.color, linestyle=look.linestyle, linewidth=1.1)
    dot(ax, float(x[-1]), float(ritz[-1]), look, rows["converged"].iloc[-1])
    for i in np.flatnonzero(np.isfinite(far))[-1:]:
        dot(ax, float(x[i]), float(far[i]), look, rows["converged"].iloc[-1])


def spectrum_label(shown: Shown, probe: str) -> str:
    """Return the label of an axis of eigenvalues."""
    pairs = [(network, network.records[probe]) for network, _ in shown]
    return with_unit(rf"{matrices(pairs)} eigenvalue $\lambda$", pairs)


def _count(size: int) -> str:
    """Return a number of parameters in at most four characters or so.

    >>> _count(512), _count(401_408), _count(2_359_296)
    ('512', '401k', '2.4M')
    """
    if size < 10_000:
        return str(size)
    return f"{size / 1e3:.0f}k" if size < 999_500 else f"{size / 1e6:.1f}M"

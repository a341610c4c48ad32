"""One function per figure of spectra: a table in, a figure out; no file is read or written here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from analysis.frames import floats, rows_where
from analysis.spectra_drawn import BOUNDS, CURVE, EIGENVALUE, Network, common_threshold
from analysis.style import COLUMN, ROLE, TEXT, Look

LOOKS = (
    ROLE["SB"],
    ROLE["LB"],
    Look("#029e73", "^", "-", ""),
    Look("#cc78bc", "D", "--", ""),
)
"""How the networks are drawn, in the order given: colours of seaborn's ``colorblind`` palette."""

SPECTRUM = r"Hessian eigenvalue $\lambda$ (nats)"
FEWEST_DECADES = 1e-5
"""The layer strip is linear below this share of the largest eigenvalue: smaller ones count as zero in float32."""


def spectral_density(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the densities of :func:`analysis.spectra_drawn.density_table`, below them the extreme eigenvalues.

    The density axis is logarithmic and reaches a decade below 1 / size (dotted), a single eigenvalue per unit.
    """
    shown = _shown(table, networks)
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
    axes[-1].set_xlabel(SPECTRUM)
    _legend_above(figure, shown, marked=bool(num_rows))
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


def _extremes(ax: Axes, extremes: pd.DataFrame, shown: Sequence[tuple[Network, Look]]) -> None:
    for height, (network, look) in enumerate(shown):
        _dots(ax, rows_where(extremes, network=network.label), look, -height)
    ax.set_ylim(0.6 - len(shown), 0.6)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def layer_strip(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the extreme eigenvalues of each layer of :func:`analysis.spectra_drawn.layers_table`, one row per layer."""
    shown = _shown(table, networks)
    layers = table.dropna(subset=["position"])
    rows = list(dict.fromkeys(zip(layers["layer"], layers["size"], strict=True)))
    pitch = max(0.085 * (1 + len(shown)), 0.17)
    figure = Figure(figsize=(COLUMN if len(rows) <= 12 else TEXT, 0.95 + pitch * len(rows)), layout="constrained")
    ax = figure.subplots()
    heights = {row: -height for height, row in enumerate(rows)}
    for number, (network, look) in enumerate(shown):
        offset = 0.6 * (0.5 - (number + 0.5) / len(shown))
        for row, height in heights.items():
            _dots(ax, rows_where(layers, network=network.label, layer=row[0], size=row[1]), look, height + offset)
        own = rows_where(table, network=network.label)
        for top in floats(own, "eigenvalue")[np.asarray(own["position"].isna())]:
            ax.axvline(top, color=look.color, linestyle=look.linestyle, linewidth=1.0, zorder=1)
    values = floats(table, "eigenvalue")
    sizes = np.abs(values[values != 0])
    threshold = max(sizes.min(), FEWEST_DECADES * sizes.max()) if len(sizes) else 1.0
    asinh_axis(ax.xaxis, np.concatenate([values, floats(table, "lower"), floats(table, "upper")]), threshold)
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0.9)
    ax.set_yticks(list(heights.values()), [f"{name} ({_count(size)})" for name, size in rows])
    ax.set_ylim(0.5 - len(rows), 0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    for height in list(heights.values())[1::2]:
        ax.axhspan(height - 0.5, height + 0.5, color="0.955", linewidth=0, zorder=0)
    ax.set(xlabel=SPECTRUM, ylabel="Layer (parameters)")
    _legend_above(figure, shown, marked=True)
    return figure


def convergence(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the interval of the top eigenvalue against products, relative to its final value, in per cent."""
    shown = _shown(table, networks)
    figure = Figure(figsize=(COLUMN, 2.5), layout="constrained")
    ax = figure.subplots()
    rtols = sorted({float(network.records["eigenvalues"].knobs["rtol"]) for network, _ in shown})
    for network, look in shown:
        rows = rows_where(table, network=network.label)
        x, (ritz, lower, upper) = floats(rows, "products"), (floats(rows, f"{name}_percent") for name in BOUNDS)
        ax.fill_between(x, lower, upper, color=look.color, alpha=0.18, linewidth=0)
        ax.plot(x, ritz, color=look.color, linestyle=look.linestyle, linewidth=1.1)
        ax.plot(x, upper, color=look.color, linestyle=look.linestyle, linewidth=1.1)
        last = np.flatnonzero(np.isfinite(upper))[-1:]
        _dot(ax, float(x[-1]), float(ritz[-1]), look, rows["converged"].iloc[-1])
        for i in last:
            _dot(ax, float(x[i]), float(upper[i]), look, rows["converged"].iloc[-1])
    for rtol in rtols:
        ax.axhline(100 * rtol, color="0.35", linestyle=":", linewidth=0.9, zorder=1)
        place = {"xy": (0.015, 100 * rtol), "xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        ax.annotate(f"asked: {100 * rtol:g} %", xytext=(0, 2), fontsize=6.5, **place)
    bounds = [floats(table, f"{name}_percent") for name in BOUNDS]
    asinh_axis(ax.yaxis, np.concatenate([*bounds, 100 * np.array(rtols)]), 100 * min(rtols) / 10)
    ax.set(xlabel="Hessian-vector products", ylabel=r"Distance from the final $\lambda_{\max}$ (%)")
    ax.set_xlim(left=0)
    _legend_above(figure, shown, marked=True)
    return figure


def _shown(table: pd.DataFrame, networks: Sequence[Network]) -> list[tuple[Network, Look]]:
    """Return the networks in the table, each with the look of its place among all of them."""
    drawn = set(table["network"])
    return [(network, look) for network, look in zip(networks, LOOKS, strict=False) if network.label in drawn]


def _dots(ax: Axes, rows: pd.DataFrame, look: Look, height: float) -> None:
    """Draw eigenvalues at one height with their intervals; a bound that is not known draws no bar on its side."""
    values = floats(rows, "eigenvalue")
    lower, upper = (np.where(np.isfinite(b), b, values) for b in (floats(rows, "lower"), floats(rows, "upper")))
    ax.hlines(np.full(len(values), height), lower, upper, color=look.color, linewidth=1.2, zorder=2)
    for value, converged in zip(values, rows["converged"], strict=True):
        _dot(ax, value, height, look, converged)


def _dot(ax: Axes, x: float, y: float, look: Look, converged: object) -> None:
    face, edge = ("white", look.color) if converged is False else (look.color, "white")
    style = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 0.8 if face == "white" else 0.35}
    ax.plot(x, y, marker=look.marker, markersize=3.6, linestyle="", clip_on=False, zorder=3, **style)


def asinh_axis(axis: Axis, values: NDArray[np.float64], threshold: float, max_labels: int = 8) -> None:
    """Make an axis linear within +-threshold and logarithmic beyond, around the values, with ticks at powers of ten."""
    inside = np.arcsinh(values[np.isfinite(values)] / threshold)
    low, high = (inside.min(), inside.max()) if len(inside) else (-1.0, 1.0)
    padding = 0.05 * (high - low) or 1.0
    low, high = low - padding, high + padding
    gap = (high - low) / max_labels
    ticks = [0.0, *_powers(threshold, high, gap), *(-power for power in _powers(threshold, -low, gap))]
    name = "x" if isinstance(axis, XAxis) else "y"
    axis.axes.set(**{f"{name}lim": threshold * np.sinh([low, high])})
    getattr(axis.axes, f"set_{name}scale")("asinh", linear_width=threshold)
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= np.arcsinh(tick / threshold) <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick_label))


def _powers(threshold: float, end: float, gap: float) -> list[float]:
    """Return every s-th power of ten that lies between ``gap`` and ``end`` in units of asinh(x / threshold)."""
    if end < gap:
        return []
    step = max(1, int(np.ceil(gap / np.log(10))))
    last = int(np.floor(np.log10(threshold * np.sinh(end))))
    first = int(np.ceil(np.log10(threshold * np.sinh(gap))))
    return [float(10.0**k) for k in range(first, last + 1) if k % step == 0]


def _tick_label(value: float, _position: int | None = None) -> str:
    """Return a plain number near 1 and a power of ten far from it, with a real minus sign.

    >>> _tick_label(0.0), _tick_label(0.1), _tick_label(-1e-4)
    ('0', '0.1', '$-10^{-4}$')
    """
    if value == 0 or 0.05 < abs(value) < 200:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    return f"${'-' if value < 0 else ''}10^{{{round(np.log10(abs(value)))}}}$"


def _count(size: int) -> str:
    """Return a number of parameters in at most four characters or so.

    >>> _count(512), _count(401_408), _count(2_359_296)
    ('512', '401k', '2.4M')
    """
    if size < 10_000:
        return str(size)
    return f"{size / 1e3:.0f}k" if size < 999_500 else f"{size / 1e6:.1f}M"


def _legend_above(figure: Figure, shown: Sequence[tuple[Network, Look]], marked: bool) -> None:
    handles = []
    for network, look in shown:
        handle = Line2D([], [], color=look.color, linestyle=look.linestyle, markersize=3.6, label=network.label)
        handle.set_marker(look.marker if marked else "")
        handles.append(handle)
    short = max(len(network.label) for network, _ in shown) <= len("batch 1000, seed 10")
    columns = min(len(handles), 2) if short else 1
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6)

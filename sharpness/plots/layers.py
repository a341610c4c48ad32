"""The eigenvalues of each layer's diagonal block, a row per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpness.plots.artists import Shown, dots, legend_above, shown_in
from sharpness.plots.axes import asinh_axis, linear_share
from sharpness.plots.caption_text import (
    data,
    drawn_records,
    each,
    eigenvalues_of,
    intervals,
    matrices,
    missing,
)
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, companion, with_record
from sharpness.plots.spectra import LAYER_NUMBERS, eigenvalue_rows, end_of, spectra_frame, spectrum_label
from sharpness.plots.style import COLUMN, FULL, STYLE

LayerRows = Sequence[tuple[str, int]]

MOST_ROWS = (12, 40, 100)
"""Up to so many layers a strip is one column wide, is one panel, is two panels; with more it is three."""


def layers_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return every eigenvalue (nats) of every layer in the network's order; a row without layer is the network's top.

    ``kind`` is the class of the layer's module, where the record has it, and ``size`` its number of parameters.
    """
    rows = []
    for network, record in with_record(networks, "layers"):
        for position, layer in enumerate(record.details["layers"]):
            shared = {"network": network.label, "position": position, "layer": layer["name"]}
            shared |= {"kind": layer.get("kind"), "size": layer["size"]}
            rows += [shared | row for row in eigenvalue_rows(layer, record, layer.get("converged"))]
        top = companion(network, record, "eigenvalues")
        if top is not None and top.value is not None and end_of(top) == "top" and rows:
            bounds = {"eigenvalue": top.value, "lower": top.lower, "upper": top.upper}
            rows.append({"network": network.label, "converged": top.converged} | bounds)
    columns = ("network", "position", "layer", "kind", "size", *LAYER_NUMBERS, "converged")
    return spectra_frame(rows, columns, LAYER_NUMBERS).astype({"position": "Int64", "size": "Int64"})


def layers_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the eigenvalues of each layer of :func:`layers_table`, one row per layer.

    Many layers go on in a second and a third panel beside the first.
    """
    shown, rows = shown_in(table, networks), layers_of(table)
    num_panels = 1 + sum(len(rows) > most for most in MOST_ROWS[1:])
    num_rows = -(-len(rows) // num_panels)
    width = COLUMN if len(rows) <= MOST_ROWS[0] else FULL
    figure = Figure(figsize=(width, layers_height(num_rows, len(shown))), layout="constrained")
    axes = figure.subplots(1, num_panels, squeeze=False, sharex=True)[0]
    for number, ax in enumerate(axes):
        part = rows[number * num_rows : (number + 1) * num_rows]
        draw_layers(ax, table, networks, part, num_rows, max_labels=8 if num_panels == 1 else 5)
    if num_panels > 1:  # once for all panels, which may be narrower than the label
        for ax in axes:
            ax.set(xlabel="", ylabel="")
        figure.supxlabel(spectrum_label(shown, "layers"), fontsize=STYLE["axes.labelsize"])
        axes[0].set_ylabel("Layer (parameters)")
    legend_above(figure, shown, marked=True)
    return figure


def layers_of(table: pd.DataFrame) -> LayerRows:
    """Return the layers of a table in their order, each with its number of parameters."""
    layers = table.dropna(subset=["position"])
    return list(dict.fromkeys(zip(layers["layer"], layers["size"], strict=True)))


def layers_height(num_rows: int, num_networks: int) -> float:
    """Return how many inches so many layers need, with the label beside the axes."""
    return max(0.95 + max(0.085 * (1 + num_networks), 0.17) * num_rows, 1.75)


def draw_layers(
    ax: Axes,
    table: pd.DataFrame,
    networks: Sequence[Network],
    rows: LayerRows | None = None,
    num_rows: int | None = None,
    max_labels: int = 8,
) -> None:
    """Draw layers into axes, by default all of them, with room for ``num_rows``."""
    rows, shown = layers_of(table) if rows is None else rows, shown_in(table, networks)
    _panel(ax, rows, len(rows) if num_rows is None else num_rows, table, shown)
    values = floats(table, "eigenvalue")
    bounds = np.concatenate([values, floats(table, "lower"), floats(table, "upper")])
    asinh_axis(ax.xaxis, bounds, linear_share(values), max_labels=max_labels)
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0.9)
    ax.set(xlabel=spectrum_label(shown, "layers"), ylabel="Layer (parameters)")


def _panel(ax: Axes, rows: LayerRows, num_rows: int, table: pd.DataFrame, shown: Shown) -> None:
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
    kinds = dict(zip(table["layer"], table["kind"], strict=True))
    ax.set_yticks(list(heights.values()), [_words(name, kinds[name], size) for name, size in rows])
    ax.set_ylim(0.5 - num_rows, 0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    for height in list(heights.values())[1::2]:
        ax.axhspan(height - 0.5, height + 0.5, color="0.955", linewidth=0, zorder=0)


def _words(name: str, kind: str | None, size: int) -> str:
    """Return how a layer is called: a place in a sequence says little without what stands there.

    >>> _words("4", "Linear", 512), _words("layer1.conv1", "Conv2d", 2304)
    ('Linear 4 (512)', 'layer1.conv1 (2304)')
    """
    bare = kind and not any(letter.isalpha() for letter in name)
    return f"{f'{kind} ' if bare else ''}{name} ({_count(size)})"


def _count(size: int) -> str:
    """Return a number of parameters in at most four characters or so.

    >>> _count(512), _count(401_408), _count(2_359_296)
    ('512', '401k', '2.4M')
    """
    if size < 10_000:
        return str(size)
    return f"{size / 1e3:.0f}k" if size < 999_500 else f"{size / 1e6:.1f}M"


def layers_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the layers' eigenvalues."""
    shown = drawn_records(networks, "layers", table)
    layers, matrix = table.dropna(subset=["position"]), matrices(shown)
    lines = (
        f"Vertical lines: the top eigenvalue of the whole network's {matrix}; a layer's block is a principal "
        "submatrix, so none of its eigenvalues exceeds it (Cauchy interlacing). "
        if len(layers) < len(table)
        else ""
    )
    ends = each(shown, eigenvalues_of)
    return (
        f"{ends[0].upper()}{ends[1:]} of each layer's diagonal block of the {matrix}, the layers in the network's "
        f"order from top to bottom, on an axis that is linear near zero and logarithmic beyond{intervals(layers)}. "
        f"{data(shown)}. {lines}{missing(table, networks)}"
    ).strip()

"""One page for a checkpoint or a comparison: every measure with its interval, the density and the noise curve."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from sharpness.plots.artists import PITCH, legend_above
from sharpness.plots.caption_text import data, missing
from sharpness.plots.density import density_table, draw_density
from sharpness.plots.forest import draw_forest, forest_caption, forest_table
from sharpness.plots.frames import records
from sharpness.plots.intervals import EXACT, draw_intervals, intervals_table, is_number
from sharpness.plots.networks import Network
from sharpness.plots.noise import draw_noise, noise_table
from sharpness.plots.style import FULL, LOOKS

FEW = 2
"""So many numbers are worth a page."""


def overview_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return what the page draws beside density and noise: intervals of one network, ratios of several.

    A single number is no page: the table is empty where there is but one row.
    """
    table = intervals_table(networks) if len(networks) == 1 else forest_table(networks)
    return table if len(table) >= FEW else table.iloc[:0]


def overview_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw all numbers at the left, and at the right the density and the noise curve, as far as they are there."""
    beside = {
        name: (drawn, draw)
        for name, (drawn, draw) in {
            "density": (density_table(networks), draw_density),
            "noise": (noise_table(networks), draw_noise),
        }.items()
        if not drawn.empty
    }
    rows = len(set(table["quantity"])) + len(set(table["invariant"]))
    height = max(0.8 + PITCH * rows, 2.1 * len(beside) + 0.3, 1.6)
    figure = Figure(figsize=(FULL, height), layout="constrained")
    grid = figure.add_gridspec(max(len(beside), 1), 2 if beside else 1, width_ratios=[1.25, 1] if beside else [1])
    left = figure.add_subplot(grid[:, 0])
    if len(networks) == 1:
        draw_intervals(left, table, networks)
    else:
        draw_forest(left, table, networks)
        legend_above(figure, list(zip(networks, LOOKS, strict=False)), marked=True)
    for number_of_it, (drawn, draw) in enumerate(beside.values()):
        draw(figure.add_subplot(grid[number_of_it, 1]), drawn, networks)
    return figure


def overview_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the page."""
    pairs = [(network, record) for network in networks for record in network.records.values() if is_number(record)]
    beside = ""
    if not density_table(networks).empty:
        beside += " Right: the density of the eigenvalues by stochastic Lanczos quadrature, as in the figure density."
    if not noise_table(networks).empty:
        beside += " The noise of a batch's gradient falls with its size, as in the figure gradient_noise."
    if len(networks) > 1:
        return f"{forest_caption(table, networks)}{beside}"
    few = [row for row in records(table) if row["lower_percent"] is None and row["upper_percent"] is None]
    return (
        f"Every number measured of {networks[0].label}: dot and number: the value; bar: its interval, as the distance "
        "from the value in per cent, linear within "
        f"{EXACT:g} % and logarithmic beyond; without a bar ({len(few)} of {len(table)}): no interval is known, or the "
        f"number is exact; open: not converged.{beside} {data(pairs[:1])}. {missing(table, networks)}"
    ).strip()

"""All eigenvalues asked for with their intervals, above how the interval of the first one became narrow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpness.plots.artists import Shown, dots, legend_above, shown_in
from sharpness.plots.axes import number_axis
from sharpness.plots.caption_text import data, drawn_records, each, eigenvalues_of, intervals, matrices, missing
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, with_record
from sharpness.plots.spectra_captions import convergence_words
from sharpness.plots.spectra_figures import draw_convergence, spectrum_label
from sharpness.plots.spectra_tables import (
    CONVERGENCE_NUMBERS,
    CURVE,
    EIGENVALUE,
    LAYER_NUMBERS,
    convergence_table,
    eigenvalue_rows,
)
from sharpness.plots.style import COLUMN

COLUMNS = ("network", "mark", *LAYER_NUMBERS, "converged", "products", "ritz", *CONVERGENCE_NUMBERS[3:])


def eigenvalues_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return every eigenvalue with its interval (mark ``eigenvalue``) and the course of the first one (mark ``curve``).

    The columns of the course are those of :func:`sharpness.plots.spectra_tables.convergence_table`.
    """
    rows = [
        {"network": network.label, "mark": EIGENVALUE, **row}
        for network, record in with_record(networks, "eigenvalues")
        for row in eigenvalue_rows(record.details, record, record.converged)
    ]
    values = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    curves = convergence_table([n for n in networks if n.label in set(values["network"])]).assign(mark=CURVE)
    table = pd.DataFrame([*rows, *curves.to_dict("records")], columns=pd.Index(COLUMNS))
    numbers = {*LAYER_NUMBERS, *CONVERGENCE_NUMBERS}
    return table.astype(dict.fromkeys(numbers, float) | {"converged": object, "products": "Int64"})


def eigenvalues_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the eigenvalues, a row per network, and below them the interval of the first one against products.

    Without a course, as after a warm start, there are the eigenvalues alone.
    """
    values, curves = rows_where(table, mark=EIGENVALUE), rows_where(table, mark=CURVE)
    shown, followed = shown_in(values, networks), shown_in(curves, networks)
    above = 0.12 + 0.17 * len(shown)
    heights = [above, 1.7] if followed else [above]
    figure = Figure(figsize=(COLUMN, sum(heights) + (1.25 if followed else 0.8)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _rows(axes[0], values, shown)
    if followed:
        draw_convergence(axes[1], curves, followed)
    legend_above(figure, shown, marked=True)
    return figure


def _rows(ax: Axes, values: pd.DataFrame, shown: Shown) -> None:
    for height, (network, look) in enumerate(shown):
        dots(ax, rows_where(values, network=network.label), look, -height)
    number_axis(ax.xaxis, np.concatenate([floats(values, name) for name in LAYER_NUMBERS]))
    ax.set(ylim=(0.6 - len(shown), 0.6), xlabel=spectrum_label(shown, "eigenvalues"))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def eigenvalues_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of both panels."""
    values = rows_where(table, mark=EIGENVALUE)
    drawn = drawn_records(networks, "eigenvalues", values)
    followed = drawn_records(networks, "eigenvalues", rows_where(table, mark=CURVE))
    return (
        f"Above: eigenvalues of the {matrices(drawn)} by Lanczos ({each(drawn, eigenvalues_of)}){intervals(values)}. "
        f"{f'Below: {convergence_words(followed)} ' if followed else ''}{data(drawn)}. {missing(table, networks)}"
    ).strip()

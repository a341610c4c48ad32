"""The figure of a training: each quantity over the steps, with what is proven of it and where the edge is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpness.plots.axes import number_axis
from sharpness.plots.caption_text import title
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.save import save_figure
from sharpness.plots.style import COLUMN, LOOKS, STYLE, shades

AT_THE_EDGE = ("top_eigenvalue", "critical_sharpness", "directional_sharpness", "batch_sharpness")
"""Quantities that training holds at 2 over the rate where it is at an edge of stability."""
NUMBERS = ("value", "lower", "upper", "confidence", "learning_rate", "edge", "loss")


def track_figure(table: pd.DataFrame) -> Figure:
    """Draw a panel for each quantity, a colour for each series, intervals as bands, the edge dashed."""
    quantities = list(dict.fromkeys(table["quantity"]))
    figure = Figure(figsize=(COLUMN, 0.6 + 1.35 * len(quantities)), layout="constrained")
    axes = figure.subplots(len(quantities), 1, sharex=True, squeeze=False)[:, 0]
    for ax, quantity in zip(axes, quantities, strict=True):
        draw_track(ax, table, quantity)
    for ax in axes[:-1]:
        ax.set_xlabel("")
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=1)
    return figure


def draw_track(ax: Axes, table: pd.DataFrame, quantity: str) -> None:
    """Draw one quantity of a table of steps into axes; every series has the colour of its place in the whole table."""
    series = list(dict.fromkeys(table["series"]))
    colors = [look.color for look in LOOKS] if len(series) <= len(LOOKS) else list(shades(series).values())
    rows = rows_where(table, quantity=quantity)
    for name, color in zip(series, colors, strict=False):
        _draw(ax, rows_where(rows, series=name), color, str(name) if len(series) > 1 else "")
    shown = [floats(rows, "value")]
    if quantity in AT_THE_EDGE and np.isfinite(floats(rows, "edge")).any():
        _draw_edge(ax, rows, series)
        shown.append(floats(rows, "edge"))
    number_axis(ax.yaxis, np.concatenate(shown))
    ax.set(xlabel="Step", ylabel=title(quantity))


def _draw(ax: Axes, rows: pd.DataFrame, color: str, label: str) -> None:
    steps, values = floats(rows, "step"), floats(rows, "value")
    lower, upper = (np.where(np.isfinite(end), end, values) for end in (floats(rows, "lower"), floats(rows, "upper")))
    ax.fill_between(steps, lower, upper, color=color, alpha=0.25, linewidth=0)
    ax.plot(steps, values, color=color, marker="o", markersize=3, label=label)


def _draw_edge(ax: Axes, rows: pd.DataFrame, series: Sequence[Any]) -> None:
    for i, name in enumerate(series):
        own = rows_where(rows, series=name)
        ax.plot(
            floats(own, "step"),
            floats(own, "edge"),
            color="0.3",
            linestyle="--",
            linewidth=1.0,
            label="" if i else "edge of stability",
        )


def render_track(rows: Sequence[Mapping[str, Any]], out: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Write ``track`` as PDF, PNG, CSV and JSON and return the paths."""
    table = pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, float))
    caption = (
        "Measures at the checkpoints of a training over its steps; bands are their intervals where they have one. "
        "Dashed: 2 / rate, with momentum m 2 (1 + m) / rate, above which gradient descent leaves a quadratic loss "
        "(Cohen et al. 2021)."
    )
    with mpl.rc_context(STYLE):
        figure = track_figure(table)
    return save_figure(figure, table, out, "track", caption, dict(provenance))

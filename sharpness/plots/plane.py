"""Loss and accuracy in a plane of weight space: filled contours with the checkpoints and a trajectory in it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from sharpness.errors import unknown_name
from sharpness.plots.artists import label_text
from sharpness.plots.caption_text import Pairs, data, drawn_records, each, missing, number, rise_text, unit, with_unit
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.grids import (
    MARKERS,
    QUANTITIES,
    Bands,
    Grid,
    above_minimum,
    axis_texts,
    bands_of,
    checkpoint_text,
    edge_text,
    edge_ticks,
    grid_of,
    marks_of,
    one_unit,
    shown_quantities,
    to_scale,
    wrapped,
)
from sharpness.plots.networks import Network
from sharpness.plots.style import COLUMN, FULL, LOOKS, Look, new_figure
from sharpness.records import ProbeRecord

BESIDE = 1.35
"""Inches of a panel's width that its labels and its colour bar take."""
BAR = (1.03, 0.05)
"""Where a colour bar begins and how wide it is, for a panel of width 1."""
LINE = 0.125
"""Inches of one line of the legend."""
LABEL = 0.33
"""Inches of the label below a panel."""
TICKS = 6.5
"""So many numbers of a colour bar fit into an inch."""
SHORTEST = 1.7
"""Inches that the labels at the side of a panel need, however flat the plane is."""
EDGE: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": "black"}
MARK = EDGE | {"markersize": 5.5, "markeredgewidth": 0.9, "linestyle": ""}
OUTLINE = [Stroke(linewidth=2.2, foreground="black"), Normal()]
PATH = EDGE | {"markersize": 2.5, "markeredgewidth": 0.4, "marker": "o", "color": "white", "linewidth": 0.9}
PATH["path_effects"] = OUTLINE


def plane_figure(table: pd.DataFrame, networks: Sequence[Network], probe: str, columns: int = 2) -> Figure:
    """Draw a panel for each quantity of one network, or for the losses of several, in bands of the same rises.

    ``columns`` panels lie beside each other, or all above each other in one column of a page.
    """
    drawn = drawn_records(networks, probe, table)
    grids = {network.label: grid_of(table, network.label) for network, _ in drawn}
    panels = [(n, record, name) for n, record in drawn for name in shown_quantities(grids[n.label], len(drawn))]
    columns = min(columns, len(panels))
    width = COLUMN if columns == 1 else FULL
    looks = looks_of(drawn, networks)
    legend = legend_of(table, drawn, grids, looks, 56 if columns == 1 else 118)
    lines = sum(str(handle.get_label()).count("\n") + 1 for handle in legend)
    rows = -(-len(panels) // columns)
    most = 2.6 if rows < 3 else 1.8
    tall = {n.label: min(most, (width / columns - BESIDE) * _ratio(grids[n.label], record)) for n, record in drawn}
    height = rows * (max(SHORTEST, *tall.values()) + 0.6) + LINE * lines + 0.1
    height -= LABEL * (rows - 1) * (len(drawn) == 1)  # these stand at the lowest panels alone
    figure, axes = new_figure(width, height, rows, columns)
    bands = {name: bands_of(name, list(grids.values())) for name in {name for *_, name in panels}}
    for ax, (network, record, name) in zip(axes.flat, panels, strict=False):
        draw_plane(ax, table, network, record, name, bands[name], int(TICKS * tall[network.label]), looks)
        if len(drawn) > 1:
            ax.set_title(wrapped(network.label, 36), linespacing=1.0)
    if len(drawn) == 1:
        for ax in list(axes.flat)[: max(0, len(panels) - columns)]:
            ax.set_xlabel("")
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    figure.legend(handles=legend, loc="outside lower center", ncols=1, handlelength=1.6, fontsize=7)
    return figure


def draw_plane(
    ax: Axes,
    table: pd.DataFrame,
    network: Network,
    record: ProbeRecord,
    name: str = "train_loss",
    bands: Bands | None = None,
    most_ticks: int = 14,
    looks: Mapping[str, Look] | None = None,
) -> None:
    """Draw one quantity of one network's plane into axes, with the checkpoints in it and a bar of its colours."""
    grid = grid_of(table, network.label)
    if name not in grid.values:
        raise unknown_name("quantity of the plane", name, grid.values)
    bands = bands_of(name, [grid]) if bands is None else bands
    _panel(ax, grid, name, bands, with_unit(QUANTITIES[name], [(network, record)]), most_ticks)
    _checkpoints(ax, table, network, grid, looks or {})
    ax.set_aspect("equal" if to_scale(record) else "auto")
    x_label, y_label = axis_texts(record, 30)
    ax.set_xlabel(x_label, fontsize=8, linespacing=1.0)
    ax.set_ylabel(y_label, fontsize=8, linespacing=1.0)


def plane_height(width: float, table: pd.DataFrame, network: Network, record: ProbeRecord) -> float:
    """Return how high a figure of one panel of this width is in inches, so that the bar beside it has its room."""
    return max((width - BESIDE) / sum(BAR) * _ratio(grid_of(table, network.label), record), SHORTEST) + 0.6


def _ratio(grid: Grid, record: ProbeRecord) -> float:
    """Return the height of a panel for its width."""
    x, y = grid.size
    return y / x if to_scale(record) else 0.8


def _panel(ax: Axes, grid: Grid, name: str, bands: Bands, label: str, most_ticks: int) -> None:
    """Fill the contours of the values at the points, linear between them, and cross out what is not finite."""
    values = grid.values[name]
    shown = above_minimum(values) if name.endswith("loss") else values
    colors: dict[str, Any] = {"cmap": bands.colors, "norm": bands.norm}
    filled = ax.contourf(grid.xs, grid.ys, np.ma.masked_invalid(shown), levels=bands.edges, **colors)
    inner = bands.edges[1:-1]
    if len(inner):
        style: dict[str, Any] = {"colors": "white", "linewidths": 0.35, "alpha": 0.7}
        ax.contour(grid.xs, grid.ys, np.ma.masked_invalid(shown), levels=inner, **style)
    _gaps(ax, grid, shown, colors)
    ax.set(xlim=(grid.xs.min(), grid.xs.max()), ylim=(grid.ys.min(), grid.ys.max()))
    ax.grid(visible=False)
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(filled, cax=ax.inset_axes((BAR[0], 0, BAR[1], 1)), spacing="uniform")
    ticks = edge_ticks(bands.edges, most_ticks)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(which="both", length=0, labelsize=6.5, pad=1.5)
    bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]
    bar.set_label(_bar_label(name, label, values), fontsize=7.5, linespacing=1.0)


def _bar_label(name: str, label: str, values: NDArray[np.float64]) -> str:
    if name.endswith("accuracy"):
        return f"{label.partition(' (')[0]} (%)"
    loss, _, loss_unit = label.partition(" (")
    minimum = edge_text(float(f"{np.nanmin(values):.4g}"))
    return f"{loss} above its\nminimum of {minimum}{f' ({loss_unit}' if loss_unit else ''}"


def _gaps(ax: Axes, grid: Grid, shown: NDArray[np.float64], colors: dict[str, Any]) -> None:
    """Hatch what no contour can fill, cross each point that is not finite, and dot those that stand alone."""
    finite = np.isfinite(shown)
    if finite.all():
        return
    corner, (width, height) = (grid.xs.min(), grid.ys.min()), grid.size
    with mpl.rc_context({"hatch.linewidth": 0.4}):
        hatched: dict[str, Any] = {
            "facecolor": "0.85",
            "edgecolor": "0.6",
            "hatch": "////",
            "linewidth": 0,
            "zorder": 0,
        }
        ax.add_patch(Rectangle(corner, width, height, **hatched))
    x, y = np.meshgrid(grid.xs, grid.ys)
    cross: dict[str, Any] = {"marker": "x", "markersize": 3, "markeredgewidth": 0.6, "linestyle": "", "color": "0.25"}
    ax.plot(x[~finite], y[~finite], clip_on=False, zorder=2.5, **cross)
    alone = finite & ~_filled(finite)
    ax.scatter(x[alone], y[alone], c=shown[alone], s=9, linewidths=0.3, edgecolors="white", zorder=2.4, **colors)


def _filled(finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which points lie in a filled part: three finite corners of a cell of the grid are filled.

    >>> _filled(np.array([[True, True, False], [True, False, True]])).tolist()
    [[True, True, False], [True, False, False]]
    """
    count = finite.astype(int)
    cells = np.pad(count[:-1, :-1] + count[1:, :-1] + count[:-1, 1:] + count[1:, 1:] >= 3, 1)
    return finite & (cells[:-1, :-1] | cells[1:, :-1] | cells[:-1, 1:] | cells[1:, 1:])


def _checkpoints(ax: Axes, table: pd.DataFrame, network: Network, grid: Grid, looks: Mapping[str, Look]) -> None:
    """Draw the trajectory as a line with points, and the marks upon it."""
    path = rows_where(table, network=network.label, part="trajectory")
    if len(path):
        ax.plot(floats(path, "x"), floats(path, "y"), zorder=3, **PATH)
    for mark, style in styled_marks(table, network, looks):
        if grid.holds(mark["x"], mark["y"]):
            ax.plot(mark["x"], mark["y"], clip_on=False, zorder=4, **style)


def looks_of(drawn: Pairs, networks: Sequence[Network]) -> dict[str, Look]:
    """Return by label how the marks of several networks look; of one alone they are white."""
    return {network.label: look for network, look in zip(networks, LOOKS, strict=False)} if len(drawn) > 1 else {}


def styled_marks(
    table: pd.DataFrame, network: Network, looks: Mapping[str, Look]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the marked checkpoints of a network, each with its style: the first has the network's own shape."""
    own = looks.get(network.label)
    colors = {} if own is None else {"markerfacecolor": own.color, "markeredgecolor": "white"}
    shapes = MARKERS if own is None else own.marker + MARKERS.replace(own.marker, "")
    return [
        (mark, MARK | colors | {"marker": shape}) for mark, shape in zip(marks_of(table, network), shapes, strict=False)
    ]


def legend_of(
    table: pd.DataFrame, drawn: Pairs, grids: Mapping[str, Grid], looks: Mapping[str, Look], width: int
) -> list[Line2D]:
    """Return the marks with their own losses, and the trajectory with its ends."""
    handles = []
    for network, _ in drawn:
        whose = f"{label_text(network.label)}, " if len(drawn) > 1 else ""
        for mark, style in styled_marks(table, network, looks):
            text = checkpoint_text(mark, grids[network.label], unit(drawn), width - len(whose))
            handles.append(Line2D([], [], label=whose + text, **style))
        path = list(rows_where(table, network=network.label, part="trajectory")["name"])
        if path:
            text = f"{whose}trajectory from {label_text(path[0])} to {label_text(path[-1])}"
            handles.append(Line2D([], [], label=textwrap.fill(text, width), **PATH))
    return handles


def plane_caption(table: pd.DataFrame, networks: Sequence[Network], probe: str) -> str:
    """Return the caption of the contours."""
    drawn = drawn_records(networks, probe, table)
    grids = {network.label: grid_of(table, network.label) for network, _ in drawn}
    names = list(dict.fromkeys(name for grid in grids.values() for name in shown_quantities(grid, len(grids))))
    how = f"{bands_text(names, len(grids))}, linear between the points, white lines at their edges"
    gaps, marks = gaps_text(grids, names, "Crossed on grey"), checkpoints_text(table, drawn)
    return f"{plane_text(names, drawn)}. {how}. {marks} {gaps}{end_text(table, networks, drawn)}".strip()


def plane_text(names: Sequence[str], drawn: Pairs) -> str:
    """Say which quantities are drawn, and over which axes."""
    words = [QUANTITIES[name].lower() for name in names]
    listed = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"{listed.capitalize()} in a plane of weight space: {each(drawn, _axes)}"


def _axes(record: ProbeRecord) -> str:
    details = record.details
    names, units = ([axis[key] for axis in details["axes"]] for key in ("name", "unit"))
    text = f"{names[0]} to the right and {names[1]} upwards, in units of {' and '.join(dict.fromkeys(units))}, "
    text += f"{len(details['xs'])} x {len(details['ys'])} points"
    if one_unit(record) and not to_scale(record):
        text += ", not to one scale"
    if details.get("normalisation") == "filter":
        text += ", directions normalised by filters"
    if details.get("eigenvalues"):
        text += f", eigenvalues {' and '.join(number(value) for value in details['eigenvalues'])}"
    return text


def bands_text(names: Sequence[str], num_networks: int) -> str:
    """Say how the bands of colour are spaced."""
    kinds = {"loss" if name.endswith("loss") else "accuracy" for name in names}
    text = "Bands: how far a loss is above the smallest of its points, by decades"
    text += ", the same for every network" if num_networks > 1 else ""
    return text + (", and even steps of an accuracy" if "accuracy" in kinds else "")


def checkpoints_text(table: pd.DataFrame, drawn: Pairs) -> str:
    """Say what the marks and the line are, and how far the points of the line are from the plane."""
    text = "Marks: checkpoints at their projections, with losses measured at the checkpoints themselves."
    path = rows_where(table, part="trajectory")
    if len(path):
        counts = " and ".join(str(len(rows_where(path, network=network.label))) for network, _ in drawn)
        far = number(float(np.nanmax(floats(path, "distance"))))
        text += f" Line: projections of the {counts} checkpoints of a trajectory, up to {far} off the plane."
    return text


def gaps_text(grids: Mapping[str, Grid], names: Sequence[str], how: str) -> str:
    """Count the points that are not finite."""
    counts = []
    for label, grid in grids.items():
        for name in names:
            bad = int(np.sum(~np.isfinite(grid.values[name]))) if name in grid.values else 0
            if bad:
                whose = f" of {label}" if len(grids) > 1 else ""
                counts.append(f"{bad} of {grid.values[name].size} of the {QUANTITIES[name].lower()}{whose}")
    return f"{how}: points that are not finite ({', '.join(counts)}). " if counts else ""


def end_text(table: pd.DataFrame, networks: Sequence[Network], drawn: Pairs) -> str:
    """Say how high the train loss rises over the grid, and on which examples it was measured."""
    rises = [f"{n.label}: " * (len(drawn) > 1) + rise_text(record, record.value) for n, record in drawn]
    rise = f"Largest rise of the train loss over the points above that of the first mark: {'; '.join(rises)}."
    return f"{rise} {data(drawn)}. {missing(table, networks)}"

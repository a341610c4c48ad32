"""The train loss in a plane of weight space as a surface over it, with the checkpoints at their own losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from numpy.typing import NDArray

from sharpness.plots.artists import label_text
from sharpness.plots.caption_text import Pairs, drawn_records, with_unit
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.grids import (
    Bands,
    Grid,
    axis_text,
    bands_of,
    edge_text,
    grid_of,
    log_heights,
    plane_table,
    to_scale,
    wrapped,
)
from sharpness.plots.networks import Network
from sharpness.plots.plane import (
    LINE,
    PATH,
    bands_text,
    checkpoints_text,
    end_text,
    gaps_text,
    legend_of,
    looks_of,
    plane_text,
    styled_marks,
)
from sharpness.plots.style import COLUMN, FULL, Look
from sharpness.records import ProbeRecord

ANGLE = {"elev": 32.0, "azim": -60.0}


def surface_table(networks: Sequence[Network], probe: str) -> pd.DataFrame:
    """Return the table of the plane for the networks with a cell of finite train losses, which a surface is made of."""
    table = plane_table(networks, probe)
    grids = {label: grid_of(table, label) for label in dict.fromkeys(table["network"])}
    labels = [label for label, grid in grids.items() if len(cells(grid))]
    return cast(pd.DataFrame, table.loc[np.isin(list(table["network"]), labels)])


def cells(grid: Grid) -> NDArray[np.float64]:
    """Return the corners of the cells whose four train losses are finite, shape (cells, 4, 3)."""
    x, y = np.meshgrid(grid.xs, grid.ys)
    points = np.stack([x, y, grid.values.get("train_loss", np.full(x.shape, np.nan))], axis=-1)
    around = np.stack([points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]], axis=2).reshape(-1, 4, 3)
    return around[np.isfinite(around).all(axis=(1, 2))]


def surface_figure(table: pd.DataFrame, networks: Sequence[Network], probe: str) -> Figure:
    """Draw a surface per network, all with the same bands and heights."""
    drawn = drawn_records(networks, probe, table)
    grids = {network.label: grid_of(table, network.label) for network, _ in drawn}
    losses = {label: Grid(g.xs, g.ys, {"train_loss": g.values["train_loss"]}) for label, g in grids.items()}
    columns = min(len(drawn), 2)
    width = COLUMN if columns == 1 else FULL
    letters = 56 if columns == 1 else 118
    looks = looks_of(drawn, networks)
    legend = [*legend_of(table, drawn, losses, looks, letters), *axes_lines(drawn, letters)]
    lines = sum(str(handle.get_label()).count("\n") + 1 for handle in legend)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(width, 2.5 * rows + LINE * lines + 0.1), layout="constrained")
    bands, log = bands_of("train_loss", list(grids.values())), log_heights(grids.values())
    for position, (network, record) in enumerate(drawn, 1):
        ax: Any = figure.add_subplot(rows, columns, position, projection="3d")
        draw_surface(ax, table, network, record, bands, log, floats(table, "train_loss"), looks)
        if len(drawn) > 1:
            ax.set_title(wrapped(network.label, 36), linespacing=1.0)
    figure.legend(handles=legend, loc="outside lower center", ncols=1, handlelength=1.6, fontsize=7)
    return figure


def draw_surface(
    ax: Any,
    table: pd.DataFrame,
    network: Network,
    record: ProbeRecord,
    bands: Bands | None = None,
    log: bool | None = None,
    heights: NDArray[np.float64] | None = None,
    looks: Mapping[str, Look] | None = None,
) -> None:
    """Draw the train loss in one network's plane into three-dimensional axes, with the checkpoints at their own losses.

    The bands of colour, whether heights are logarithms, and the losses that the axis holds are by default its own.
    """
    ax.computed_zorder = False  # the checkpoints stand before the surface, wherever they are
    grid = grid_of(table, network.label)
    losses = Grid(grid.xs, grid.ys, {"train_loss": grid.values["train_loss"]})
    log = log_heights([losses]) if log is None else log
    own = floats(rows_where(table, network=network.label), "train_loss")
    _surface(ax, losses, bands_of("train_loss", [losses]) if bands is None else bands, log)
    _axes(ax, own if heights is None else heights, log, with_unit("Train loss", [(network, record)]))
    _trajectory(ax, table, network, losses, log)
    _marks(ax, styled_marks(table, network, looks or {}), losses, log)
    x, y = losses.size
    sides = (1, y / x) if to_scale(record) else (1, 1)
    ax.set_box_aspect((*sides, 0.7), zoom=0.95)
    # Ticks at the ends would meet those of another axis in the corner.
    for axis, side in zip((ax.xaxis, ax.yaxis), sides, strict=True):
        axis.set_major_locator(MaxNLocator(max(2, round(4 * side / max(sides))), prune="both"))


def axes_lines(drawn: Pairs, width: int) -> list[Line2D]:
    """Return lines of the legend that say what the axes are, which have no room for it beside them."""
    texts = []
    for network, record in drawn:
        whose = f"{network.label}, " if len({str(record.details["axes"]) for _, record in drawn}) > 1 else ""
        for letter, axis in zip("xy", record.details["axes"], strict=True):
            texts.append(f"{label_text(whose)}${letter}$: {wrapped(axis_text(axis), width)}")
    return [Line2D([], [], linestyle="", label=text) for text in dict.fromkeys(texts)]


def _surface(ax: Axes3D, grid: Grid, bands: Bands, log: bool) -> None:
    """Draw each cell with the colour of the band that the mean of its corners lies in."""
    corners = cells(grid)
    rises = corners[:, :, 2].mean(axis=1) - np.nanmin(grid.values["train_loss"])
    shown = corners.copy()
    shown[:, :, 2] = _height(corners[:, :, 2], log)
    style: dict[str, Any] = {"edgecolors": (1, 1, 1, 0.35), "linewidths": 0.15, "zorder": 1}
    ax.add_collection3d(Poly3DCollection(list(shown), facecolors=bands.colors(bands.norm(rises)), **style))


def _height(values: Any, log: bool) -> Any:
    """Return heights, NaN for a checkpoint whose loss is not positive where those of the plane all are."""
    return np.log10(np.where(np.asarray(values) > 0, values, np.nan)) if log else values


def _axes(ax: Any, losses: NDArray[np.float64], log: bool, label: str) -> None:
    """Set the height to hold all losses, and the looks of the axes; where it is a logarithm, its ticks are losses."""
    heights = _height(losses, log)
    low, high = float(np.nanmin(heights)), float(np.nanmax(heights))
    pad = 0.05 * (high - low) or 0.5
    ax.set_zlim(low - pad, high + pad)
    ax.zaxis.set_major_locator(FixedLocator(_ticks(low - pad, high + pad, log)))
    ax.zaxis.set_major_formatter(FuncFormatter(lambda tick, _: edge_text(float(f"{10**tick if log else tick:.6g}"))))
    ax.set_xlabel("$x$", fontsize=8, labelpad=-4)
    ax.set_ylabel("$y$", fontsize=8, labelpad=-4)
    ax.set_zlabel(label, fontsize=7.5, labelpad=-3)
    ax.view_init(**ANGLE)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_tick_params(labelsize=6.5, pad=-2)
        axis.set_pane_color((1, 1, 1, 0))
        axis.line.set_linewidth(0.5)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Return ticks between two heights: at decades or, up to two of them, at 1, 2 and 5 times their powers.

    >>> _ticks(-1.2, 0.1, True) == [np.log10(loss) for loss in (0.1, 0.2, 0.5, 1.0)]
    True
    """
    if log:
        steps, powers = (1, 2, 5) if high - low < 2 else (1,), range(int(np.floor(low)), int(np.ceil(high)) + 1)
        ticks = np.log10([float(f"{step}e{power}") for power in powers for step in steps])
    else:
        ticks = np.asarray(MaxNLocator(4).tick_values(low, high))
    inside = ticks[(ticks >= low) & (ticks <= high)]
    return inside[:: max(1, -(-len(inside) // 7))].tolist()


def _trajectory(ax: Any, table: pd.DataFrame, network: Network, grid: Grid, log: bool) -> None:
    """Draw the trajectory at its own losses, over the surface."""
    ax.set(xlim=(grid.xs.min(), grid.xs.max()), ylim=(grid.ys.min(), grid.ys.max()))
    path = rows_where(table, network=network.label, part="trajectory")
    if len(path):
        heights = _height(floats(path, "train_loss"), log)
        ax.plot(floats(path, "x"), floats(path, "y"), heights, zorder=3, **PATH)


def _marks(ax: Any, marks: Sequence[tuple[dict[str, Any], dict[str, Any]]], grid: Grid, log: bool) -> None:
    """Draw the marked checkpoints at their own losses, each on a stem."""
    floor = ax.get_zlim()[0]
    for mark, style in marks:
        x, y, height = mark["x"], mark["y"], float(_height(mark["train_loss"], log))
        if not (grid.holds(x, y) and np.isfinite(height)):
            continue
        ax.plot([x, x], [y, y], [floor, height], color="black", linewidth=0.7, zorder=2)
        ax.plot([x], [y], [height], zorder=4, **style)


def surface_caption(table: pd.DataFrame, networks: Sequence[Network], probe: str) -> str:
    """Return the caption of the surface."""
    drawn = drawn_records(networks, probe, table)
    grids = {network.label: grid_of(table, network.label) for network, _ in drawn}
    how = (
        f"The heights are those of the points, on {'a logarithmic' if log_heights(grids.values()) else 'an even'} axis"
    )
    how += "; each cell has the colour of the mean of its corners"
    marks = f"{checkpoints_text(table, drawn)} They are drawn over the surface, with a line down to the floor."
    gaps = gaps_text(grids, ["train_loss"], "Holes")
    text = f"{plane_text(['train_loss'], drawn)}. {how}. {bands_text(['train_loss'], len(grids))}. {marks} {gaps}"
    return f"{text}{end_text(table, networks, drawn)}".strip()

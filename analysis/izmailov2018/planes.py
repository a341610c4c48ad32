"""The planes through three weights, as Figure 1 of Izmailov et al. (2018) has them: train loss above test error."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.patheffects import withStroke
from scipy.interpolate import RectBivariateSpline

from analysis.report.report import Drawing
from analysis.statistics.resampling import Floats
from sharpness.plots.frames import floats, records, rows_where
from sharpness.plots.grids import Grid, above_minimum, edge_texts, grid_of, plane_table, rise_edges
from sharpness.plots.networks import Network
from sharpness.plots.style import COLUMN, new_figure
from sharpness.records import ProbeRecord

PLANE = "three_point_plane"
SHOWN = {"train_loss": "Train loss (nats)", "test_error": "Test error (%)"}
FINE = 10
"""Points that are drawn for each step of the grid."""
MARK: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": "black"}
WORDS = {
    "plane": "W1, W2 and W3 are the weights at the ends of the last three cycles of the learning rate, and their "
    "average lies in their plane",
    "basin": "start are the weights from which SWA begins and which SGD passes, SGD those at its end, and SWA the "
    "average at the same budget",
}


def plane_drawing(name: str, planes: pd.DataFrame, note: str) -> Drawing | str:
    """Draw train loss and test error in the plane of the first row."""
    if planes.empty:
        return "no run was measured"
    row = records(planes)[0]
    network = Network(name, {PLANE: ProbeRecord.from_dict(row["record"])})
    table = plane_table([network], PLANE)
    table = table.assign(test_error=100 - table["test_accuracy"])
    grid = grid_of(table, name) if len(table) else None
    if grid is None or not all(np.isfinite(grid.values[kind]).all() for kind in ("train_loss", "test_accuracy")):
        return "not every loss in the plane is finite"
    figure, axes = new_figure(COLUMN, 4.5, 2, 1)
    values = {"train_loss": grid.values["train_loss"], "test_error": 100 - grid.values["test_accuracy"]}
    marked = rows_where(table, part="mark")
    for ax, (kind, label) in zip(axes.flat, SHOWN.items(), strict=True):
        _surface(ax, grid, values[kind], label)
        _marks(ax, marked)
        ax.set_ylabel("Distance at right angles")
    axes[1, 0].set_xlabel(f"Distance towards {records(marked)[1]['name']}")
    own = "; ".join(_own(mark) for mark in records(marked))
    caption = (
        f"As Figure 1 of Izmailov et al. (2018), seed {row['seed']}: {WORDS[name]}. Train loss is over all training "
        f"images as they are, error over all test images. {len(grid.xs)} x {len(grid.ys)} points were measured; the "
        "surface is a cubic spline through all of them, and bands grow with the rise above the smallest value. "
        f"{own}. {note}"
    )
    return Drawing(figure, table, caption)


def _surface(ax: Axes, grid: Grid, values: Floats, label: str) -> None:
    """Fill the bands of a cubic spline through the logarithms of the values, whose steps are of all sizes."""
    degrees = {"kx": min(3, len(grid.ys) - 1), "ky": min(3, len(grid.xs) - 1)}
    spline = RectBivariateSpline(grid.ys, grid.xs, np.log(values), **degrees)
    xs, ys = (np.linspace(at[0], at[-1], FINE * (len(at) - 1) + 1) for at in (grid.xs, grid.ys))
    fine = np.exp(spline(ys, xs))
    low = float(fine.min())
    edges = low + rise_edges(above_minimum(fine).ravel())
    colors = mpl.colormaps["viridis"].resampled(len(edges) - 1)
    filled = ax.contourf(xs, ys, fine, levels=edges, cmap=colors, norm=BoundaryNorm(list(edges), colors.N))
    ax.contour(xs, ys, fine, levels=edges[1:-1], colors="white", linewidths=0.4, alpha=0.7)
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(filled, cax=ax.inset_axes((1.03, 0, 0.05, 1)), spacing="uniform")
    shown = edges[:: max(1, len(edges) // 8)]
    bar.set_ticks(list(shown), labels=edge_texts(shown, 3))
    bar.ax.tick_params(which="both", length=0, labelsize=7, pad=1.5)
    bar.set_label(label)
    ax.set_aspect("equal")
    ax.grid(visible=False)


def _marks(ax: Axes, marked: pd.DataFrame) -> None:
    """Draw the weights, each with its name."""
    middle = floats(marked, "x").mean()
    for mark in records(marked):
        ax.plot(mark["x"], mark["y"], zorder=4, **MARK)
        side = 1 if mark["x"] >= middle else -1
        outline = [withStroke(linewidth=2.0, foreground="white")]
        text = {"xytext": (5 * side, 4), "textcoords": "offset points", "ha": "left" if side > 0 else "right"}
        ax.annotate(mark["name"], (mark["x"], mark["y"]), fontsize=8, path_effects=outline, zorder=5, **text)


def _own(mark: dict[str, Any]) -> str:
    return f"{mark['name']}: train loss {mark['train_loss']:.3g} nats, test error {100 - mark['test_accuracy']:.4g} %"

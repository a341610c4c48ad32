"""The figures of the study of Izmailov et al. (2018): accuracy, random rays, the line and the plane."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.izmailov2018.numbers import SGD, SWA, arms_of
from analysis.report.report import Drawing
from sharpness.plots.axes import number_axis
from sharpness.plots.frames import floats, records, rows_where
from sharpness.plots.grids import plane_table
from sharpness.plots.networks import Network
from sharpness.plots.plane import plane_caption, plane_figure
from sharpness.plots.rays import rays_caption, rays_figure, rays_table
from sharpness.plots.seeds import each_seed, marks, mean_of_seeds, scatter
from sharpness.plots.style import COLUMN, FULL, LOOKS, new_figure
from sharpness.records import ProbeRecord

LOOK = {SGD: LOOKS[0], SWA: LOOKS[1]}
PLANE = "three_point_plane"
LINE = {"train_loss": "Train loss (nats)", "test_error": "Test error (%)"}


def accuracy_figure(table: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the test error of every run of every arm, those of one seed joined, and the mean of each arm."""
    if table.empty:
        return "no run finished"
    arms = arms_of(table)
    shown = table.assign(place=[arms.index(arm) for arm in table["arm"]], percent=100 * floats(table, "test_error"))
    looks = {arm: LOOK[SGD] if arm == SGD else LOOK[SWA] for arm in arms}
    figure, axes = new_figure(COLUMN, 2.4)
    ax = axes[0, 0]
    each_seed(ax, shown, "place", "percent", color="0.75", alpha=1, linewidth=0.6, zorder=1)
    edged = {"s": 13, "alpha": 1, "linewidth": 0.3, "edgecolor": "white", "zorder": 2}
    scatter(ax, shown, "place", "percent", **marks("arm", looks), **edged)
    for place, arm in enumerate(arms):
        mean = floats(rows_where(shown, arm=arm), "percent").mean()
        ax.hlines(mean, place - 0.28, place + 0.28, color=looks[arm].color, linewidth=1.6, zorder=3)
    number_axis(ax.yaxis, floats(shown, "percent"))
    ax.set_xticks(range(len(arms)), [arm.replace(" ", "\n") for arm in arms])
    ax.set(xlim=(-0.5, len(arms) - 0.5), ylabel="Test error (%)")
    ax.grid(visible=False, axis="x")
    caption = (
        "Test error at the end of training: of the final weights of SGD, and of the averaged weights of SWA at 1 and "
        "more budgets (number: the budget in units of SGD's) and with a cyclical learning rate. Marks: runs, those of "
        f"one seed joined, for they begin together; bars: means. {note}"
    )
    return Drawing(figure, table, caption)


def rays_drawing(rays: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the rays from both solutions of the first seed."""
    if rays.empty:
        return "no pair of SGD and SWA was measured"
    seed = min(rays["seed"])
    own = {row["net"]: ProbeRecord.from_dict(row["record"]) for row in records(rows_where(rays, seed=seed))}
    networks = [Network(name, {"rays": own[name]}) for name in (SGD, SWA)]
    table = rays_table(networks)
    if table.empty:
        return "no loss along the rays is finite"
    caption = f"Seed {seed}, the same directions from both. {rays_caption(table, networks)} {note}"
    return Drawing(rays_figure(table, networks), table, caption)


def line_figure(line: pd.DataFrame, note: str) -> Drawing | str:
    """Draw train loss and test error on the line through SGD and SWA: the mean over the seeds, and each seed."""
    if line.empty:
        return "no pair of SGD and SWA was measured"
    table = line.assign(test_error=100 * (1 - floats(line, "test_accuracy")))
    figure, axes = new_figure(FULL, 2.3, 1, 2)
    for ax, (column, label) in zip(axes[0], LINE.items(), strict=True):
        each_seed(ax, table, "t", column, color="0.6", alpha=1)
        mean_of_seeds(ax, table, "t", column, column == "train_loss", color="0.1", linewidth=1.6, zorder=3)
        number_axis(ax.yaxis, floats(table, column))
        ax.set(xlim=(table["t"].min(), table["t"].max()), xlabel="t in t SGD + (1 − t) SWA", ylabel=label)
        _name_ends(ax)
    lines = [Line2D([], [], color=c, linewidth=w, label=t) for c, w, t in (("0.6", 0.5, "seeds"), ("0.1", 1.6, "mean"))]
    figure.legend(handles=lines, loc="outside upper center", ncols=2)
    numbers = sorted(set(floats(table, "distance")))
    distance = f"{numbers[0]:.3g}" if len(numbers) == 1 else f"{numbers[0]:.3g} to {numbers[-1]:.3g}"
    caption = (
        "Train loss (left, geometric mean) and test error (right) on the straight line through the solutions "
        f"of SWA (t = 0) and SGD (t = 1) of one seed, {distance} apart; {len(set(table['seed']))} seeds, "
        f"{len(set(table['t']))} points each, no band is drawn. {note}"
    )
    return Drawing(figure, table, caption)


def _name_ends(ax: Axes) -> None:
    for place, name in ((0, SWA), (1, SGD)):
        ax.axvline(place, color=LOOK[name].color, linewidth=1.0, linestyle=LOOK[name].linestyle, zorder=1)
        ax.text(place, 1.01, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)


def plane_drawing(plane: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the plane through three weights of a cyclical run, and their average in it."""
    if plane.empty:
        return "no run with a cyclical learning rate was measured"
    row = records(plane)[0]
    networks: Sequence[Network] = [Network("cyclical SWA", {PLANE: ProbeRecord.from_dict(row["record"])})]
    table = plane_table(networks, PLANE)
    if table.empty:
        return "no loss in the plane is finite"
    caption = (
        f"Seed {row['seed']}: W1, W2 and W3 are the weights at the ends of the last three cycles of the learning rate, "
        f"and their average lies in their plane. {plane_caption(table, networks, PLANE)} {note}"
    )
    return Drawing(plane_figure(table, networks, PLANE), table, caption)

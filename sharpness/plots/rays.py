"""Loss and accuracy along random rays from a checkpoint: each ray thin, their mean bold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpness.errors import unknown_name
from sharpness.plots.artists import legend_above, shown_in
from sharpness.plots.axes import number_axis
from sharpness.plots.caption_text import data, drawn_records, each, missing, number, rise_text, with_unit
from sharpness.plots.frames import floats, rows_if, rows_where
from sharpness.plots.line import CURVES
from sharpness.plots.networks import Network, with_record
from sharpness.plots.style import COLUMN, FULL, Look, new_figure
from sharpness.records import ProbeRecord

MEAN = "mean"
COLUMNS = ("network", "ray", "distance", *CURVES)
DISTANCES = {"none": "Distance in weight space", "filter": "Distance (filter lengths)"}


def rays_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return loss (nats) and accuracy (%) against the distance, for each ray by its number from 1, and for their mean.

    The mean is that of all rays; where one of them is not finite there is none.
    """
    rows: list[dict[str, Any]] = []
    for network, record in with_record(networks, "rays"):
        curves = {name: np.array(record.details[name], dtype=float) for name in CURVES if record.details.get(name)}
        if not any(np.isfinite(curves[name]).any() for name in ("train_loss", "test_loss") if name in curves):
            continue
        rays = {name: np.vstack([curve, curve.mean(axis=0)]) for name, curve in curves.items()}
        count = len(next(iter(rays.values())))
        for i in range(count):
            ray = str(i + 1) if i < count - 1 else MEAN
            for j, distance in enumerate(record.details["distances"]):
                values = {name: (100 if name.endswith("accuracy") else 1) * rays[name][i, j] for name in rays}
                rows.append({"network": network.label, "ray": ray, "distance": distance, **values})
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return table.astype(dict.fromkeys(COLUMNS[2:], float))


def rays_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw losses above accuracies, train at the left and test at the right, as far as they are there."""
    drawn = drawn_records(networks, "rays", table)
    names = panels(table)
    width = COLUMN if len(names[0]) == 1 else FULL
    figure, axes = new_figure(width, 0.4 + 1.9 * len(names), len(names), len(names[0]))
    for row, kinds in zip(axes, names, strict=True):
        values = np.concatenate([floats(table, name) for name in kinds])
        for ax, name in zip(row, kinds, strict=True):
            draw_rays(ax, table, networks, name)
            _axis(ax, name, values, with_unit(_title(name), drawn))
    for ax in axes[:-1].flat:
        ax.set_xlabel("")
    shown = shown_in(table, networks)
    if len(shown) > 1:
        legend_above(figure, shown, marked=False)
    else:
        lines = [
            Line2D([], [], color=shown[0][1].color, linewidth=w, label=t) for w, t in ((0.5, "rays"), (1.8, "mean"))
        ]
        figure.legend(handles=lines, loc="outside upper center", ncols=2, handlelength=2.6)
    return figure


def draw_rays(ax: Axes, table: pd.DataFrame, networks: Sequence[Network], name: str = "train_loss") -> None:
    """Draw one quantity of :func:`rays_table` into axes: each ray of one network, of several their band.

    :class:`InputError` for a quantity that was not measured.
    """
    if name not in (known := [each for row in panels(table) for each in row]):
        raise unknown_name("quantity of the rays", name, known)
    drawn, shown = drawn_records(networks, "rays", table), shown_in(table, networks)
    for network, look in shown:
        _rays(ax, rows_where(table, network=network.label), name, look, alone=len(shown) == 1)
    _axis(ax, name, floats(table, name), with_unit(_title(name), drawn))
    ax.set(xlim=(0, table["distance"].max()))
    ax.set_xlabel(" or ".join(dict.fromkeys(DISTANCES[r.details["normalisation"]] for _, r in drawn)))


def panels(table: pd.DataFrame) -> list[list[str]]:
    """Return the quantities of each row of panels: losses, then any accuracies."""
    finite = [name for name in CURVES if np.isfinite(floats(table, name)).any()]
    splits = [split for split in ("train", "test") if any(name.startswith(split) for name in finite)]
    kinds = [kind for kind in ("loss", "accuracy") if any(name.endswith(kind) for name in finite)]
    return [[f"{split}_{kind}" for split in splits] for kind in kinds]


def _rays(ax: Axes, rows: pd.DataFrame, name: str, look: Look, alone: bool) -> None:
    """Draw the rays of one network thin, or beside others as a band from the smallest to the largest; the mean bold."""
    if not alone:
        rays = rows_if(rows, rows["ray"] != MEAN)
        ends = rays.groupby("distance")[name].agg(["min", "max"])
        ax.fill_between(ends.index, ends["min"], ends["max"], color=look.color, alpha=0.2, linewidth=0)
        rows = rows_where(rows, ray=MEAN)
    thin: dict[str, Any] = {"linewidth": 0.45, "alpha": 0.45, "zorder": 2}
    bold: dict[str, Any] = {"linestyle": look.linestyle, "linewidth": 1.8, "zorder": 3}
    for number_or_mean in dict.fromkeys(rows["ray"]):
        ray = rows_where(rows, ray=number_or_mean)
        style = bold if number_or_mean == MEAN else thin
        ax.add_line(Line2D(floats(ray, "distance"), floats(ray, name), color=look.color, **style))


def _axis(ax: Axes, name: str, values: np.ndarray, label: str) -> None:
    if name.endswith("accuracy"):
        ax.set_ylim(-2, 102)
        ax.set_ylabel(f"{_title(name)} (%)")
    else:
        number_axis(ax.yaxis, values)
        ax.set_ylabel(label)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def rays_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: how many rays of which length, what the mean is of, the rises at their ends, the examples."""
    drawn = drawn_records(networks, "rays", table)
    tested = np.isfinite(floats(table, "test_loss")).any()
    points = floats(table, "train_loss")[[ray != MEAN for ray in table["ray"]]]
    gaps, total = int(np.sum(~np.isfinite(points))), len(points)
    broken = f"; {gaps} of {total} train losses are not finite and not drawn" if gaps else ""
    rises = "; ".join(f"{network.label}: {_rise(record)}" for network, record in drawn)
    thin = "Thin: each ray" if len(drawn) == 1 else "Band: from the smallest ray to the largest"
    return (
        f"Loss and any accuracy along random rays from the checkpoint, train{' and test' if tested else ''}: "
        f"{each(drawn, _rays_words)}. {thin}; bold: their mean, where all are "
        f"finite{broken}. Mean rise of the train loss at the largest distance: {rises}. {data(drawn)}. "
        f"{missing(table, networks)}"
    ).strip()


def _rays_words(record: ProbeRecord) -> str:
    details = record.details
    lengths = {"none": "directions of length 1", "filter": "directions normalised by filters"}
    text = f"{len(details['train_loss'])} rays, {len(details['distances'])} distances, "
    return f"{text}{lengths[details['normalisation']]}, norm of the weights {number(details['norm_of_weights'])}"


def _rise(record: ProbeRecord) -> str:
    if record.value is None:
        return f"unknown ({record.reasons.get('value', 'no reason given')})"
    error = record.details.get("standard_error")
    spread = f" (standard error {number(error)})" if error is not None else ""
    return rise_text(record, record.value) + spread

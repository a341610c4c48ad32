"""The loss at the weights against the largest loss found in the box around them (Metric 2.1 of Keskar et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpness.plots.artists import dot, rows_of_networks, shown_in
from sharpness.plots.axes import number_axis
from sharpness.plots.caption_text import data, drawn_records, each, missing, with_unit
from sharpness.plots.frames import floats, records
from sharpness.plots.networks import Network, with_record
from sharpness.records import ProbeRecord

NUMBERS = ("loss", "max_loss", "phi_percent", "epsilon")


def keskar_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return a row per network and box: the loss at x and the largest found, phi (%), epsilon, start and subspace.

    ``subspace`` is the dimension of the random subspace that was searched, empty for the full space.
    """
    rows = []
    for network, record in with_record(networks, "keskar"):
        if record.value is None:
            continue
        details = record.details
        shared = {"network": network.label, "loss": details["loss"], "start": details["start"]}
        shared["subspace"] = record.knobs.get("subspace")
        for box in _boxes(record):
            rows.append(shared | {"phi_percent": box["phi"]} | {name: box[name] for name in ("max_loss", "epsilon")})
    table = pd.DataFrame(rows, columns=pd.Index(("network", *NUMBERS, "start", "subspace")))
    return table.astype(dict.fromkeys(NUMBERS, float) | {"subspace": "Int64"})


def _boxes(record: ProbeRecord) -> list[Mapping[str, Any]]:
    """Return the search in each box, that of the record's value first."""
    second = record.details.get("second")
    return [{**record.details, "phi": record.value}, *([] if second is None else [second])]


def keskar_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw a row per network and box: an open mark at f(x), a full one at the largest loss found, phi beside.

    What was searched and from where is below the axis, or beside phi where it differs.
    """
    looks = {network.label: (network, look) for network, look in shown_in(table, networks)}
    rows = records(table)
    texts, searches = [f"$\\phi \\geq$ {row['phi_percent']:.4g} %" for row in rows], [_search(row) for row in rows]
    alike = len(set(searches)) == 1
    if not alike:
        texts = [f"{text}\n{search}" for text, search in zip(texts, searches, strict=True)]
    pitch = 0.26 if alike else 0.38
    figure, ax = rows_of_networks([looks[row["network"]] for row in rows], texts, pitch=pitch, extra=0.4)
    for height, row in enumerate(rows):
        look = looks[row["network"]][1]
        ax.plot([row["loss"], row["max_loss"]], [-height, -height], color=look.color, linewidth=1.2, zorder=2)
        dot(ax, row["loss"], -height, look, converged=False)
        dot(ax, row["max_loss"], -height, look, converged=True)
    number_axis(ax.xaxis, np.concatenate([floats(table, "loss"), floats(table, "max_loss")]))
    label = with_unit("Loss", drawn_records(networks, "keskar", table))
    ax.set_xlabel(f"{label}\n{searches[0]}" if alike else label)
    marks = [
        Line2D([], [], color="0.3", marker="o", markersize=3.6, linestyle="", markerfacecolor="white", label="at $x$"),
        Line2D([], [], color="0.3", marker="o", markersize=3.6, linestyle="", label="largest found in the box"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=2, handletextpad=0.3)
    return figure


def _search(row: Mapping[str, Any]) -> str:
    text = f"$\\epsilon$ = {row['epsilon']:g}, start: {row['start'].replace('_', ' ')}"
    return text if row["subspace"] is None else f"{text}, {row['subspace']} dimensions"


def keskar_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: the metric, the box, where the search starts and how long it is."""
    drawn = drawn_records(networks, "keskar", table)
    return (
        "Loss f(x) at the weights x (open) and the largest loss found in the box |z_i| <= epsilon (|(A^+ x)_i| + 1) "
        "around them (full); phi = 100 (max f(x + A z) - f(x)) / (1 + f(x)) is Metric 2.1 of Keskar et al. (2017), in "
        f"per cent. The search is inexact, so phi is a lower bound: {each(drawn, _effort)}. {data(drawn)}. "
        f"{missing(table, networks)}"
    ).strip()


def _effort(record: ProbeRecord) -> str:
    """Say in which space and box each search was, from where, and how far it went."""
    subspace = record.knobs.get("subspace")
    space = "full space (A = I)" if subspace is None else f"the space of {subspace} random columns of A"
    boxes = " and ".join(
        f"epsilon {box['epsilon']:g}, {box['num_iterations']} iterations of L-BFGS-B, "
        f"{100 * box['share_at_bound']:.0f} % of the coordinates at their bound"
        for box in _boxes(record)
    )
    return f"{space}, start {record.details['start']}, {boxes}"

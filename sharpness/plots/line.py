"""Loss and accuracy on the straight line through two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpness.plots.artists import label_text, put_legend
from sharpness.plots.axes import log_axis, number_axis
from sharpness.plots.caption_text import data, drawn_records, missing, rise_text, with_unit
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, end_names, far_end, with_record
from sharpness.plots.style import ACCURACY_COLOR, COLUMN, LOOKS, LOSS_COLOR, Line, Look, new_figure
from sharpness.records import ProbeRecord

CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
SPLITS: dict[str, Line] = {"train": "-", "test": "--"}
SHORT = 10
"""Names of the ends of at most so many characters fit beside each other above the axes."""
FAR = Look("0.45", "", "--")
"""The far end where it is none of the networks of the figure."""


@dataclass(frozen=True)
class End:
    """One of the two checkpoints: where it is on the line, its name and its look."""

    alpha: float
    name: str
    look: Look


def line_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return loss (nats) and accuracy (%) against alpha for every network with a line of which anything is finite."""
    rows = []
    for network, record in with_record(networks, "interpolation"):
        curves = {name: np.array(record.details.get(name) or [], dtype=float) for name in CURVES}
        if not any(np.isfinite(curve).any() for curve in curves.values()):
            continue
        for i, alpha in enumerate(record.details["alphas"]):
            values = {name: curve[i] if len(curve) else np.nan for name, curve in curves.items()}
            values |= {name: 100 * value for name, value in values.items() if name.endswith("accuracy")}
            rows.append({"network": network.label, "alpha": alpha, **values})
    return pd.DataFrame(rows, columns=pd.Index(("network", "alpha", *CURVES)))


def line_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the first network's line bold and those of others faint."""
    figure, axes = new_figure(COLUMN, 2.5)
    draw_line(axes[0, 0], table, networks)
    return figure


def draw_line(ax: Axes, table: pd.DataFrame, networks: Sequence[Network], own: bool = True) -> None:
    """Draw the lines of :func:`line_table` into axes, of which ``own`` says whether they are alone in their figure."""
    drawn = drawn_records(networks, "interpolation", table)
    ends = _ends(networks, *drawn[0])
    if max(len(end.name) for end in ends) > SHORT:
        ends = [End(end.alpha, f"$w_{end.alpha:g}$", end.look) for end in ends]
    else:
        ends = [End(end.alpha, label_text(end.name), end.look) for end in ends]
    lines = [rows_where(table, network=network.label) for network, _ in drawn]
    draw_lines(ax, lines, ends, r"$\alpha$ in $(1-\alpha)\,w_0 + \alpha\,w_1$", with_unit("Loss", drawn), own)


def _ends(networks: Sequence[Network], network: Network, record: ProbeRecord) -> list[End]:
    """Return the ends of one line; the far one by the name of a network if its weights are that network's."""
    looks = {each.label: look for each, look in zip(networks, LOOKS, strict=False)}
    other = far_end(networks, record)
    near, far = end_names(networks, network, record)
    return [End(0, near, looks[near]), End(1, far, FAR if other is None else looks[other.label])]


def draw_lines(
    ax: Axes, lines: Sequence[pd.DataFrame], ends: Sequence[End], alpha_label: str, loss_label: str, own: bool = True
) -> tuple[Axes, Axes | None]:
    """Draw loss and accuracy against ``alpha``, laid out as Figure 3 of Keskar et al. (2017); return both axes.

    Loss on the left axis (logarithmic), accuracy on the right, train solid, test dashed; the first line bold, the
    others faint. Each line is a table with the columns ``alpha``, train and test ``_loss`` and ``_accuracy`` (in per
    cent). Without a finite accuracy there is no axis for it. The legend is above axes that are alone in their figure
    (``own``) and inside of others.
    """
    table = pd.concat(lines)
    finite = {name for name in CURVES if np.isfinite(floats(table, name)).any()}
    right = ax.twinx() if any(name.endswith("accuracy") for name in finite) else None
    sides = [(ax, "loss", LOSS_COLOR), *([] if right is None else [(right, "accuracy", ACCURACY_COLOR)])]
    splits: dict[str, Line] = {
        split: dashes for split, dashes in SPLITS.items() if any(name.startswith(split) for name in finite)
    }
    for position, rows in enumerate(lines):
        width, opacity = (1.4, 1.0) if position == 0 else (0.6, 0.35)
        for side, kind, color in sides:
            for split, dashes in splits.items():
                values = floats(rows, f"{split}_{kind}")
                style: dict[str, Any] = {"color": color, "linestyle": dashes, "linewidth": width, "alpha": opacity}
                side.add_line(Line2D(floats(rows, "alpha"), values, **style))
    _mark_ends(ax, ends)
    ax.set(xlim=(table["alpha"].min(), table["alpha"].max()))
    ax.set_xlabel(alpha_label)
    _loss_axis(ax, table)
    if right is not None:
        right.set_ylim(-2, 102)
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
    for side, kind, color in sides:
        side.set_ylabel({"loss": loss_label, "accuracy": "Accuracy (%)"}[kind], color=color)
        side.tick_params(axis="y", colors=color)
    if len(splits) > 1:
        handles = [Line2D([], [], color="0.4", linestyle=dashes, label=split) for split, dashes in splits.items()]
        put_legend(ax, handles, own, ncols=len(handles))
    return ax, right


def _mark_ends(ax: Axes, ends: Sequence[End]) -> None:
    for end in ends:
        ax.axvline(end.alpha, color=end.look.color, linewidth=1.0, linestyle=end.look.linestyle, zorder=1)
        ax.text(end.alpha, 1.01, end.name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)


def _loss_axis(ax: Axes, table: pd.DataFrame) -> None:
    values = np.concatenate([floats(table, "train_loss"), floats(table, "test_loss")])
    if np.all(values[np.isfinite(values)] > 0):
        log_axis(ax.yaxis, values)
    else:
        number_axis(ax.yaxis, values)


def line_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the line: its ends, the splits, the barrier, and the examples."""
    drawn = drawn_records(networks, "interpolation", table)
    near, far = (end.name for end in _ends(networks, *drawn[0]))
    faint = f"; faint: from {', '.join(n.label for n, _ in drawn[1:])}" if len(drawn) > 1 else ""
    dashed = ", train solid, test dashed" if np.isfinite(floats(table, "test_loss")).any() else ""
    barriers = "; ".join(f"{network.label}: {_barrier(record)}" for network, record in drawn)
    return (
        f"Loss (left axis) and accuracy (right axis, where there is one){dashed}, on the straight line through {near} "
        f"(alpha = 0) and {far} (alpha = 1){faint}; {len(set(table['alpha']))} values of alpha, no band is drawn. "
        f"Largest rise of the loss above the chord between the ends: {barriers}. {data(drawn)}. "
        f"{missing(table, networks, drawn)}"
    ).strip()


def _barrier(record: ProbeRecord) -> str:
    if record.value is None:
        return f"unknown ({record.reasons.get('value', 'no reason given')})"
    return rise_text(record, record.value)

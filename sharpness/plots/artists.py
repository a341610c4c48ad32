"""Artists of all figures of networks: dots with intervals, and the legend above all axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpness.plots.frames import floats
from sharpness.plots.networks import Network
from sharpness.plots.style import LOOKS, Look

LONGEST_LABEL = 40
"""Longer labels leave no room beside them; the caption and the CSV have them in full."""
PITCH = 0.185
"""Inches between two rows of numbers."""
HEADS = {False: "moved by a rescaling that changes no output", True: "not moved by it"}

Shown = Sequence[tuple[Network, Look]]


def shown_in(table: pd.DataFrame, networks: Sequence[Network]) -> list[tuple[Network, Look]]:
    """Return the networks in the table, each with the look of its place among all of them."""
    drawn = set(table["network"])
    return [(network, look) for network, look in zip(networks, LOOKS, strict=False) if network.label in drawn]


def dots(ax: Axes, rows: pd.DataFrame, look: Look, height: float, column: str = "eigenvalue") -> None:
    """Draw values at one height with their intervals; a bound that is not known draws no bar on its side."""
    values = floats(rows, column)
    lower, upper = (np.where(np.isfinite(b), b, values) for b in (floats(rows, "lower"), floats(rows, "upper")))
    ax.hlines(np.full(len(values), height), lower, upper, color=look.color, linewidth=1.2, zorder=2)
    for value, converged in zip(values, rows["converged"], strict=True):
        dot(ax, value, height, look, converged)


def dot(ax: Axes, x: float, y: float, look: Look, converged: object) -> None:
    """Draw one mark, open where it is not converged."""
    face, edge = ("white", look.color) if converged is False else (look.color, "white")
    style = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 0.8 if face == "white" else 0.35}
    ax.plot(x, y, marker=look.marker, markersize=3.6, linestyle="", clip_on=False, zorder=3, **style)


def label_text(label: str) -> str:
    r"""Return a label as Matplotlib shows it unchanged, without the middle where it is too long.

    >>> label_text("runs/" + 40 * "x" + "/checkpoint.pt"), label_text("_a$b")
    ('runs/xxxxxxxxxxxxx…xxxxxx/checkpoint.pt', ' _a\\$b')
    """
    if len(label) > LONGEST_LABEL:
        half = (LONGEST_LABEL - 2) // 2
        label = f"{label[: half - 1]}…{label[-half - 1 :]}"
    # A legend leaves out what begins with an underscore.
    return (f" {label}" if label.startswith("_") else label).replace("$", "\\$")


def legend_above(figure: Figure, shown: Shown, marked: bool) -> None:
    """Name the networks above all axes, where the legend cannot cover data."""
    handles = handles_of(shown, marked)
    columns = columns_of([network.label for network, _ in shown])
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6)


def handles_of(shown: Shown, marked: bool) -> list[Line2D]:
    """Return what a legend says of networks, with their marks or without."""
    return [
        look.handle(label_text(network.label), marker=look.marker if marked else "", markersize=3.6)
        for network, look in shown
    ]


def columns_of(labels: Sequence[str]) -> int:
    """Return how many of these labels fit beside each other in a legend of one column's width."""
    return min(len(labels), 2) if max(map(len, labels)) <= len("batch 1000, seed 10") else 1


def put_legend(ax: Axes, handles: Sequence[Artist], own: bool, ncols: int) -> None:
    """Put a legend above axes that are alone in their figure (``own``), and into others, whose figure has more."""
    figure = ax.get_figure(root=True)
    if own and figure is not None:
        figure.legend(handles=handles, loc="outside upper center", ncols=ncols, handlelength=2.6)
    else:
        ax.legend(handles=handles)


def places(invariant: Sequence[bool]) -> tuple[list[float], Mapping[float, str]]:
    """Return the height of each row, and those of the heads above the rows that are moved and those that are not."""
    heights, heads, height = list[float](), dict[float, str](), 0.0
    for position, kind in enumerate(invariant):
        if position == 0 or kind != invariant[position - 1]:
            heads[height] = HEADS[kind]
            height -= 1
        heights.append(height)
        height -= 1
    return heights, heads


def name_rows(ax: Axes, names: Sequence[str], heights: Sequence[float], heads: Mapping[float, str]) -> None:
    """Name the rows at the left of axes, with their heads inside."""
    ax.set_yticks(list(heights), list(names))
    ax.set_ylim(min(heights) - 0.6, 0.5)
    ax.tick_params(axis="y", length=0, labelsize=6.8)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    how: dict[str, Any] = {"va": "center", "fontsize": 6.5, "color": "0.35", "style": "italic", "zorder": 2}
    how["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for height, text in heads.items():
        ax.text(0.0, height, text, transform=ax.get_yaxis_transform(), **how)

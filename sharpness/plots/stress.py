"""The figure of a stress test: how far each measure moves under a rescaling that changes no output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpness.plots.axes import log_axis
from sharpness.plots.caption_text import title
from sharpness.plots.frames import floats
from sharpness.plots.save import save_figure
from sharpness.plots.style import FULL, STYLE

MOVED, STILL = "#d55e00", "#0173b2"
COLUMNS = ("quantity", "before", "after", "ratio", "moved")


def stress_rows(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one line per measure: its values, their ratio where both are positive, and whether it moved."""
    lines = []
    for row in rows:
        before, after = row["before"]["value"], row["after"]["value"]
        both = before is not None and after is not None and before > 0 and after > 0
        ratio = float(after) / float(before) if both and before and after else None
        lines.append(dict(zip(COLUMNS, (row["before"]["quantity"], before, after, ratio, row["moved"]), strict=True)))
    table = pd.DataFrame(lines, columns=pd.Index(COLUMNS))
    return table.astype(dict.fromkeys(("before", "after", "ratio"), float) | {"moved": object})


def stress_figure(table: pd.DataFrame) -> Figure:
    """Draw the ratio after / before of each measure on a logarithmic axis, filled where it moved."""
    figure = Figure(figsize=(FULL, stress_height(len(table))), layout="constrained")
    draw_stress(figure.subplots(), table)
    figure.legend(handles=stress_handles(), loc="outside upper center", ncols=2)
    return figure


def stress_height(num_measures: int) -> float:
    """Return how many inches the rows of so many measures need."""
    return 0.8 + 0.22 * num_measures


def draw_stress(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the ratios of :func:`stress_rows` into axes, a row for each measure."""
    ratios = floats(table, "ratio")
    ax.axvline(1, color="0.35", linewidth=0.9, zorder=1)
    for height, (ratio, moved) in enumerate(zip(ratios, table["moved"], strict=True)):
        if not np.isfinite(ratio):
            ax.annotate("no ratio", (1, -height), xytext=(4, -3), textcoords="offset points", fontsize=6.5)
            continue
        color, marker = (MOVED, "o") if moved else (STILL, "s")
        ax.plot([1, ratio], [-height, -height], color=color, linewidth=1.0)
        ax.plot(ratio, -height, marker=marker, color=color, markerfacecolor=color if moved else "white", linestyle="")
    log_axis(ax.xaxis, [*ratios[np.isfinite(ratios)], 1.0], padding=1.3)
    ax.set_yticks(-np.arange(len(table)), [title(name) for name in table["quantity"]])
    ax.set(xlabel="After / before the rescaling", ylim=(0.6 - len(table), 0.6))


def stress_handles() -> list[Line2D]:
    """Return what a legend says of the two kinds of marks."""
    return [
        Line2D([], [], color=MOVED, marker="o", linestyle="", label="moved"),
        Line2D([], [], color=STILL, marker="s", markerfacecolor="white", linestyle="", label="did not move"),
    ]


def render_stress(rows: Sequence[Mapping[str, Any]], out: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Write ``stress`` as PDF, PNG, CSV and JSON and return the paths."""
    table, key = stress_rows(rows), rows[0]["key"]
    caption = (
        f"Measures after over before the rescaling {key['rescaling']} by alpha = {key['alpha']:g} (Dinh et al. 2017), "
        "which changes no output of the network. Filled: the measure moved, by its own interval where it has one and "
        "by 1 % otherwise. Measures without a ratio have a value that is missing or not positive."
    )
    with mpl.rc_context(STYLE):
        figure = stress_figure(table)
    return save_figure(figure, table, out, "stress", caption, {**provenance, "rows": [row["key"] for row in rows]})

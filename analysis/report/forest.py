"""A forest: an estimate with its interval on each line, beside the value that means no difference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from analysis.statistics.intervals import Interval
from sharpness.plots.axes import log_axis

INK = "0.2"


def draw_forest(ax: Axes, intervals: Mapping[str, Interval], neutral: float, *, log: bool = False) -> None:
    """Draw a line of the axes for each interval, the first on top; one without a value says so.

    A vertical line stands at ``neutral``. With ``log`` the axis is logarithmic, for ratios.
    """
    for place, each in enumerate(intervals.values()):
        if each.value is None:
            ax.text(0.5, place, "not compared", transform=ax.get_yaxis_transform(), ha="center", va="center", size=7)
            continue
        ax.plot(each.value, place, "o", color=INK, markersize=4, zorder=3)
        if each.lower is not None and each.upper is not None:
            ax.plot([each.lower, each.upper], [place, place], color=INK, linewidth=1.3, zorder=3)
    ax.axvline(neutral, color="0.5", linewidth=0.8, zorder=2)
    ax.set_yticks(range(len(intervals)), list(intervals))
    ax.set_ylim(len(intervals) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    if log:
        known = [x for each in intervals.values() for x in (each.lower, each.value, each.upper) if x is not None]
        log_axis(ax.xaxis, np.array([neutral, *known]), padding=1.6)

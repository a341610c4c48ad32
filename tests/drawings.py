"""What can be asked of any figure: which texts are seen, and does something overlap or leave the page?"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import BboxBase

from sharpness.plots.style import STYLE


def visible_texts(figure: Figure) -> list[Text]:
    """Return the texts that are drawn: no empty ones, and no tick labels outside the limits of their axis."""
    hidden = set()
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            outside = [tick for tick in ticks if not low <= tick.get_loc() <= high]
            hidden |= {label for tick in outside for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text not in hidden]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def overlaps(boxes: Sequence[BboxBase]) -> list[tuple[int, int]]:
    """Return the pairs of boxes that have a point in common, by number."""
    ends = np.array([box.extents for box in boxes]).reshape(-1, 4)
    lows, highs = np.minimum(ends[:, :2], ends[:, 2:]), np.maximum(ends[:, :2], ends[:, 2:])
    meet = np.all(lows[:, None] <= highs[None], axis=2) & np.all(lows[None] <= highs[:, None], axis=2)
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(meet, 1))]


def bar_places(ax: Axes) -> list[float]:
    """Return where the vertical bars of an axis stand, one for each of them."""
    bars = [each for each in ax.collections if isinstance(each, LineCollection)]
    return [float(np.asarray(segment)[0, 0]) for each in bars for segment in each.get_segments()]


def faults(figure: Figure) -> list[str]:
    """Draw a figure and name what is wrong with it: small, overlapping or cut-off text, a legend over an axis."""
    FigureCanvasAgg(figure)
    with mpl.rc_context(STYLE):
        figure.draw_without_rendering()  # puts everything in its place
    texts = visible_texts(figure)
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    frame = figure.bbox
    found = [f"small: {text.get_text()}" for text in texts if float(text.get_fontsize()) < 6]
    found += [f"overlap: {boxes[i][0]} and {boxes[j][0]}" for i, j in overlaps([box for _, box in boxes])]
    found += [f"cut off: {t}" for t, b in boxes if b.x0 < frame.x0 or b.x1 > frame.x1 or b.y0 < frame.y0]
    found += [f"cut off: {t}" for t, b in boxes if b.y1 > frame.y1]
    for legend in figure.legends:
        found += [
            "legend over axes" for ax in figure.axes if legend.get_window_extent().overlaps(ax.get_window_extent())
        ]
    return found

"""Questions to any figure: is all drawn that it speaks of, and does nothing overlap or leave the page?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection, LineCollection
from matplotlib.colors import to_rgb, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox, BboxBase

from sharpness.plots.style import STYLE

NOTHING = ("None", "none", "", " ")
"""Names of the line, and of the marker, that is not there."""
STROKES = ("|", "_")
"""Markers that stand for short lines."""


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


class Look(NamedTuple):
    """The visible side of one part of an artist: the dashes of its line, or its marker, and its colours."""

    dashes: str
    marker: str
    colors: frozenset[tuple[float, ...]]

    @property
    def is_grey(self) -> bool:
        """Say whether it has no colour of its own: such an entry of a legend explains a shape."""
        return all(max(color) - min(color) < 1e-9 for color in self.colors)


def looks_of(artist: Any) -> list[Look]:
    """Return what is seen of a line and of its markers, of a patch or of a collection; an image has no look."""
    if isinstance(artist, AxesImage):
        return []
    if not isinstance(artist, Line2D):
        faces = [to_rgba_array(artist.get_facecolor()), to_rgba_array(artist.get_edgecolor())]
        return [Look("", "", frozenset(tuple(color[:3]) for color in np.concatenate(faces)))]
    dashes, marker = str(artist.get_linestyle()), str(artist.get_marker())
    line = [] if dashes in NOTHING else [Look(dashes, "", _colors(artist.get_color()))]
    if marker in NOTHING:
        return line
    colors = _colors(artist.get_markerfacecolor(), artist.get_markeredgecolor())
    return [*line, Look("-", "", colors) if marker in STROKES else Look("", marker, colors)]


def _colors(*colors: Any) -> frozenset[tuple[float, ...]]:
    return frozenset(to_rgb(color) for color in colors if str(color) != "none")


def stands_for(entry: Look, seen: Look) -> bool:
    """Return whether a part of an entry of a legend looks like what is drawn; a grey one explains a shape alone."""
    if (seen.dashes, seen.marker) == ("", "") or (entry.dashes, entry.marker) == ("", ""):
        return bool(entry.colors & seen.colors)
    same = (entry.dashes, entry.marker) == (seen.dashes, seen.marker)
    return same and (entry.is_grey or entry.colors <= seen.colors)


def drawn(ax: Axes) -> list[Artist]:
    """Return the lines, patches, collections and images that are seen in axes, without their frame."""
    return [each for each in (*ax.lines, *ax.patches, *ax.collections, *ax.images) if _is_seen(each, ax)]


def _is_seen(artist: Artist, ax: Axes) -> bool:
    if isinstance(artist, Collection):
        return artist.get_visible() and bool(np.isfinite(artist.get_datalim(ax.transData).get_points()).all())
    if not isinstance(artist, Line2D):
        return artist.get_visible()
    looks, points = looks_of(artist), artist.get_transform().transform(artist.get_xydata())
    known = np.asarray(np.isfinite(points).all(axis=1))
    box = Bbox.null()
    box.update_from_data_xy(points[known])
    joined = any(look.dashes for look in looks) and np.any(known[1:] & known[:-1]) and box.overlaps(ax.bbox)
    marked = str(artist.get_marker()) not in NOTHING and any(ax.bbox.padded(1).contains(*p) for p in points[known])
    return artist.get_visible() and bool(joined or marked)


def has_data(ax: Axes) -> bool:
    """Return whether anything in axes has a place in both directions, or a text says why nothing has."""
    for artist in drawn(ax):
        if isinstance(artist, Collection | AxesImage) or all(
            artist.get_transform().contains_branch_seperately(ax.transData)
        ):
            return True
    return any(text.get_text().strip() for text in ax.texts)


def _of_content(figure: Figure) -> Iterator[str]:
    """Yield which axes are empty, and which entries of a legend stand for nothing."""
    shown = [ax for ax in figure.axes if ax.get_visible() and ax.axison]
    for number, ax in enumerate(shown):
        if not has_data(ax):
            yield f"empty: axes {number} {ax.get_ylabel()}".rstrip()
    seen = {look for ax in figure.axes for artist in drawn(ax) for look in looks_of(artist)}
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    entries = [entry for legend in legends if legend is not None for entry in legend.legend_handles if entry]
    for entry in entries:
        if not all(any(stands_for(part, look) for look in seen) for part in looks_of(entry)):
            yield f"in the legend alone: {entry.get_label()}"


def faults(figure: Figure) -> list[str]:
    """Draw a figure and name what is wrong with it.

    That is small, overlapping or cut-off text, a legend over an axis or with an entry that looks like nothing drawn,
    and axes without data.
    """
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
    return [*found, *_of_content(figure)]

"""One style for every figure: fonts, sizes, and how the small batch and the large batch look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

COLUMN, TEXT, FULL = 3.25, 5.5, 6.75
"""Widths in inches: one of two columns, a one-column text, and both columns."""

Line = Literal["-", "--", ""]

STYLE: dict[Any, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "axes.formatter.use_mathtext": True,
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "savefig.dpi": 300,
    # 42 embeds TrueType; the default 3 is refused by several publishers.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    # A fixed salt gives the same bytes on every render.
    "svg.hashsalt": "sharpness",
}


@dataclass(frozen=True)
class Look:
    """How one role is drawn: a colour of seaborn's ``colorblind`` palette, and in grey its marker and its line."""

    color: str
    marker: str
    linestyle: Line
    label: str


ROLE = {
    "SB": Look("#0173b2", "o", "-", "small batch (SB)"),
    "LB": Look("#de8f05", "s", "--", "large batch (LB)"),
}

LOSS_COLOR, ACCURACY_COLOR = "#222222", "#bb4b91"
"""Colours of the two axes of the interpolation figure: neither is a role's, and in grey one is much darker."""


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """Return a figure of this size in inches with a grid of axes; draw and save it under ``rc_context(STYLE)``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def log_axis(axis: Axis, values: Iterable[float], padding: float = 1.25) -> None:
    """Make an axis logarithmic around the positive values, with ticks that are readable over any range.

    Up to two decades get ticks at 1, 2 and 5; more get decades, thinned to about six.
    """
    positive = np.array([v for v in values if np.isfinite(v) and v > 0])
    low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 10.0)
    padding = max(padding, 2.0) if high / low < 1.5 else padding
    low, high = low / padding, high * padding
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    if high / low <= 120:
        ticks = np.outer(10.0**decades, [1, 2, 5]).ravel()
    else:
        ticks = 10.0 ** decades[:: int(np.ceil(len(decades) / 7))]
    name = "x" if isinstance(axis, XAxis) else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis.set_major_locator(FixedLocator(list(ticks[(ticks >= low) & (ticks <= high)])))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick_label))


def _tick_label(value: float, _position: int | None = None) -> str:
    """Return a plain number near 1 and a power of ten far from it.

    >>> _tick_label(0.05), _tick_label(1e-5)
    ('0.05', '$10^{-5}$')
    """
    exponent = np.log10(value)
    if abs(exponent) <= 3 or abs(exponent - round(exponent)) > 1e-9:
        return f"{value:g}"
    return f"$10^{{{round(exponent)}}}$"

"""One style for every figure: fonts, sizes, and how the networks look."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLUMN, FULL = 3.25, 6.75
"""Widths in inches: one of two columns, and both."""

WIDTHS: Mapping[str, tuple[float, float]] = {
    "acl": (3.03, 6.3),
    "cvpr": (3.25, 6.875),
    "iclr": (5.5, 5.5),
    "icml": (3.25, 6.75),
    "ieee": (3.5, 7.16),
    "jmlr": (6.0, 6.0),
    "nature": (3.5, 7.2),
    "neurips": (5.5, 5.5),
}
"""Widths of one column and of the page in inches, by venue; where there is one column both are its width."""

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


def styled(**changes: Any) -> AbstractContextManager[None]:
    """Return a context in which Matplotlib draws in the style of all figures here, with ``changes`` to its settings.

    Outside of it nothing is changed. Dots in the names of settings are written as ``__``.

    >>> with styled(font__size=10):
    ...     mpl.rcParams["font.size"], mpl.rcParams["axes.grid"]
    (10.0, True)
    """
    settings: dict[Any, Any] = {name.replace("__", "."): value for name, value in changes.items()}
    return mpl.rc_context(STYLE | settings)


@dataclass(frozen=True)
class Look:
    """The look of one network: a colour of seaborn's ``colorblind`` palette, and in grey its marker and its line."""

    color: str
    marker: str
    linestyle: Line
    label: str = ""

    @property
    def artist(self) -> dict[str, Any]:
        """The colour, the marker and the line, as Matplotlib takes them."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.linestyle}

    def handle(self, label: str, **style: Any) -> Line2D:
        """Return what stands for the look in a legend; ``style`` replaces a part of it."""
        return Line2D([], [], label=label, **(self.artist | style))


LOOKS = (
    Look("#0173b2", "o", "-"),
    Look("#de8f05", "s", "--"),
    Look("#029e73", "^", "-"),
    Look("#cc78bc", "D", "--"),
)
"""How the networks of a figure are drawn, in the order given."""

LOSS_COLOR, ACCURACY_COLOR = "#222222", "#bb4b91"
"""Colours of two axes on one panel: neither is a network's, and in grey one is much darker."""


def shades(values: Iterable[Hashable], lightest: float = 0.85) -> dict[Any, Any]:
    """Return a colour for each value, from dark to light in their order: they may be more than the looks.

    >>> list(shades([8, 64]))
    [8, 64]
    """
    ordered = list(values)
    return dict(zip(ordered, colormaps["viridis"](np.linspace(0.0, lightest, len(ordered))), strict=True))


def one_panel(width: float, height: float, projection: str | None = None) -> Axes:
    """Return the axes of a new figure with one panel, of this size in inches; ``3d`` is a projection."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot(projection=projection)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """Return a figure of this size in inches with a grid of axes; draw and save it under ``rc_context(STYLE)``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)

"""The planes of landscapes: the table of their points, the bands of their colours, the words for checkpoints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import BoundaryNorm, Colormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sharpness.plots.artists import label_text
from sharpness.plots.axes import WIDE
from sharpness.plots.caption_text import number
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, with_record
from sharpness.records import ProbeRecord

QUANTITIES = {
    "train_loss": "Train loss",
    "test_loss": "Test loss",
    "train_accuracy": "Train accuracy",
    "test_accuracy": "Test accuracy",
}
COLUMNS = ("network", "part", "name", "x", "y", "distance", *QUANTITIES)
MARKERS = "os^Dv*PX"
"""The marks of a plane in order; there are three checkpoints at most."""
BASIN = 0.02
"""The lowest band of a loss holds about this share of the points, so that the floor of a basin is seen as one."""
DECADES = 8
"""Bands begin at most so many decades below the largest rise: smaller ones are rounding."""
SAME_PERCENT = 1e-4
"""Accuracies that differ by less are one: not even a million examples tell them apart."""
LONGEST_SIDE = 3.0
"""A plane whose sides differ more is not drawn to scale: the shorter one would have no room for its numbers."""
OFF_PLANE = 1e-3
"""Checkpoints nearer to the plane than this share of its longer side count as lying in it."""


@dataclass(frozen=True)
class Grid:
    """The points of one plane: ``values[name]`` has a row for each of ``ys``, NaN where it is not finite."""

    xs: NDArray[np.float64]
    ys: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]

    @property
    def size(self) -> tuple[float, float]:
        """The lengths of both sides."""
        return float(np.ptp(self.xs)), float(np.ptp(self.ys))

    def holds(self, x: float, y: float) -> bool:
        """Return whether a point is within the sides, up to rounding."""
        sides = zip((x, y), (self.xs, self.ys), self.size, strict=True)
        return all(side.min() - 1e-9 * size <= at <= side.max() + 1e-9 * size for at, side, size in sides)


@dataclass(frozen=True)
class Bands:
    """The edges of the bands of one quantity and their colours, darkest where the loss or the accuracy is low."""

    edges: NDArray[np.float64]
    colors: Colormap

    @property
    def norm(self) -> BoundaryNorm:
        """The band of each value, as Matplotlib wants it."""
        return BoundaryNorm(list(self.edges), self.colors.N)


def plane_table(networks: Sequence[Network], probe: str) -> pd.DataFrame:
    """Return the points of the grids, then marks and trajectory: losses (nats) and accuracies (%) with coordinates.

    ``part`` is ``grid``, ``mark`` or ``trajectory``; ``distance`` is that of a checkpoint from the plane. Planes of
    which no loss on the grid is finite are left out.
    """
    rows: list[dict[str, Any]] = []
    for network, record in with_record(networks, probe):
        details = record.details
        grids = {name: np.array(details[name], dtype=float) for name in QUANTITIES if details.get(name) is not None}
        if not any(np.isfinite(grids[name]).any() for name in ("train_loss", "test_loss") if name in grids):
            continue
        for i, y in enumerate(details["ys"]):
            for j, x in enumerate(details["xs"]):
                values = {name: grid[i, j] for name, grid in grids.items()}
                rows.append({"network": network.label, "part": "grid", "x": x, "y": y, **values})
        for part, key in (("mark", "marks"), ("trajectory", "trajectory")):
            rows += [{"network": network.label, "part": part, **mark} for mark in details.get(key) or ()]
    numeric = dict.fromkeys(COLUMNS[3:], float)
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS)).astype(numeric)
    for name in QUANTITIES:
        if name.endswith("accuracy"):
            table[name] *= 100
    return table


def grid_of(table: pd.DataFrame, label: str) -> Grid:
    """Return the grid of one network with the quantities of which any value is finite."""
    rows = rows_where(table, network=label, part="grid")
    x, y = floats(rows, "x"), floats(rows, "y")
    width = int(np.argmax(y != y[0]))  # each row of the grid has one y
    values = {name: floats(rows, name).reshape(-1, width) for name in QUANTITIES}
    return Grid(x[:width], y[::width], {name: v for name, v in values.items() if np.isfinite(v).any()})


def shown_quantities(grid: Grid, num_networks: int) -> list[str]:
    """Return the quantities that have a panel: all of a network alone, the losses of one among others."""
    return [name for name in grid.values if num_networks == 1 or name.endswith("loss")]


def log_heights(grids: Iterable[Grid]) -> bool:
    """Return whether the train losses are positive and so different that only a logarithmic axis shows them all."""
    values = np.concatenate([grid.values["train_loss"].ravel() for grid in grids])
    return bool(np.nanmin(values) > 0 and np.nanmax(values) > WIDE * np.nanmin(values))


def above_minimum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each loss is above the smallest finite one."""
    return values - np.nanmin(values)


def bands_of(name: str, grids: Sequence[Grid]) -> Bands:
    """Return the bands of a quantity over several grids: even for an accuracy, of the rise of a loss by decades."""
    values = [grid.values[name] for grid in grids if name in grid.values]
    if name.endswith("accuracy"):
        edges, colors = percent_edges(np.concatenate([v.ravel() for v in values])), "cividis"
    else:
        edges, colors = rise_edges(np.concatenate([above_minimum(v).ravel() for v in values])), "viridis"
    return Bands(edges, mpl.colormaps[colors].resampled(len(edges) - 1))


def rise_edges(rises: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 0 and then round numbers, a few per decade, up to the largest rise; 0 and 1 where nothing rises.

    >>> rise_edges(np.linspace(0, 5, 101) ** 2).tolist()
    [0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    >>> rise_edges(np.zeros(4))
    array([0., 1.])
    """
    positive = rises[np.isfinite(rises) & (rises > 0)]
    if not len(positive):
        return np.array([0.0, 1.0])
    high = float(positive.max())
    low = max(float(np.quantile(positive, BASIN)), high * 10.0**-DECADES)
    decades = np.log10(high / low)
    steps = (1, 1.5, 2, 3, 5, 7) if decades < 1.5 else (1, 2, 5) if decades < 4 else (1, 3) if decades < 6 else (1,)
    # As text and back: 3 * 0.1 is not 0.3.
    powers = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 2)
    edges = np.array([float(f"{step}e{power}") for power in powers for step in steps])
    first, last = np.flatnonzero(edges <= low)[-1], np.flatnonzero(edges >= high)[0]
    return np.concatenate([[0.0], edges[first : max(last, first) + 1]])


def percent_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return about ten even edges around accuracies in per cent; ten per cent where they are all one.

    >>> percent_edges(np.array([62.0, 98.0])), percent_edges(np.array([100.0, 100.0]))
    (array([ 60.,  65.,  70.,  75.,  80.,  85.,  90.,  95., 100.]), array([ 90., 100.]))
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if high - low < SAME_PERCENT:
        start = min(90.0, 10 * np.floor(low / 10))
        return np.array([start, start + 10])
    # Steps that divide 100, so that no edge lies beyond it.
    return np.asarray(MaxNLocator(10, steps=[1, 2, 5, 10]).tick_values(low, high))


def edge_text(value: float, digits: int = 6) -> str:
    r"""Return an edge of a band as the colour bar has it, with at most so many digits.

    >>> edge_text(0.05), edge_text(20000.0), edge_text(3e-7)
    ('0.05', '$2\\cdot 10^{4}$', '$3\\cdot 10^{-7}$')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"${float(mantissa):.{digits}g}\\cdot 10^{{{int(exponent)}}}$".replace("$1\\cdot ", "$")


def edge_texts(edges: Sequence[float] | NDArray[np.float64], digits: int = 6) -> list[str]:
    """Return edges that differ as the colour bar has them: with so many digits, or with as many as tell them apart.

    >>> edge_texts([13.26, 13.31, 13.8], 3), edge_texts([13.26, 13.8, 15.0], 3)
    (['13.26', '13.31', '13.8'], ['13.3', '13.8', '15'])
    """
    texts = [edge_text(float(edge), digits) for edge in edges]
    exact = digits >= np.finfo(float).precision + 2
    return texts if exact or len({*texts}) == len(texts) else edge_texts(edges, digits + 1)


def edge_ticks(edges: NDArray[np.float64], most: int) -> dict[float, str]:
    """Return at most so many edges with their texts; only the short ones where others have a factor and a power.

    >>> edge_ticks(np.array([0.0, 1e-9, 2e-9, 5e-9, 1e-8]), 9)
    {0.0: '0', 1e-09: '$10^{-9}$', 1e-08: '$10^{-8}$'}
    """
    texts = dict(zip(map(float, edges), edge_texts(edges), strict=True))
    short = {edge: text for edge, text in texts.items() if "cdot" not in text}
    shown = short if len(short) > 2 else texts
    return dict(list(shown.items())[:: -(-len(shown) // max(most, 2))])


def wrapped(text: str, width: int) -> str:
    r"""Return a text in lines, without the middle where it is longer than two, as Matplotlib shows it unchanged.

    >>> wrapped("towards b, at right angles", 14), wrapped(30 * "a" + "$", 10)
    ('towards b, at\nright angles', 'aaaaaaaaaa\n…aaaaaaaa\\$')
    """
    if len(text) > 2 * width:
        text = f"{text[:width]}…{text[1 - width :]}"
    return "\n".join(textwrap.wrap(text, width)).replace("$", "\\$")


def axis_text(axis: Mapping[str, str]) -> str:
    """Return the name of an axis and its unit."""
    return f"{axis['name'][:1].upper()}{axis['name'][1:]} ({axis['unit']})"


def axis_texts(record: ProbeRecord, width: int) -> list[str]:
    """Return the labels of both axes, the unit in a line of its own."""
    texts = [axis_text(axis).rpartition(" (") for axis in record.details["axes"]]
    return [f"{wrapped(name, width)}\n({unit}" for name, _, unit in texts]


def to_scale(record: ProbeRecord) -> bool:
    """Return whether a circle is to look like one: both axes have one unit, and neither is a small share of the other.

    >>> details = {"xs": [0.0, 1.0], "ys": [0.0, 0.1], "axes": [{"unit": "m"}, {"unit": "m"}]}
    >>> to_scale(ProbeRecord(probe="plane", quantity="rise", value=1.0, details=details))
    False
    """
    x, y = (float(np.ptp(record.details[key])) for key in ("xs", "ys"))
    return one_unit(record) and max(x, y) <= LONGEST_SIDE * min(x, y)


def one_unit(record: ProbeRecord) -> bool:
    """Return whether both axes have one unit."""
    return len({axis["unit"] for axis in record.details["axes"]}) == 1


def marks_of(table: pd.DataFrame, network: Network) -> list[dict[str, Any]]:
    """Return the marked checkpoints of a network, NaN for what is not known of them."""
    rows = rows_where(table, network=network.label, part="mark")
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def checkpoint_text(mark: Mapping[str, Any], grid: Grid, unit: str, width: int) -> str:
    """Return the name of a marked checkpoint with its own losses and accuracies, in lines of at most so many letters.

    >>> grid = Grid(np.array([0.0, 1.0]), np.array([0.0, 1.0]), {"train_loss": np.zeros((2, 2))})
    >>> checkpoint_text({"name": "a.pt", "x": 2.0, "y": 0.0, "distance": 3.0, "train_loss": 0.5}, grid, " nats", 80)
    'a.pt: train loss 0.5 nats, 3 off the plane, outside the grid'
    """
    sides = [f"{name.replace('_', ' ')} {_measured(mark[name], name, unit)}" for name in grid.values]
    if mark["distance"] > OFF_PLANE * max(grid.size):
        sides.append(f"{number(mark['distance'])} off the plane")
    if not grid.holds(mark["x"], mark["y"]):
        sides.append("outside the grid")
    return textwrap.fill(f"{label_text(mark['name'])}: {', '.join(sides)}", width)


def _measured(value: float, name: str, unit: str) -> str:
    if not np.isfinite(value):
        return "not known"
    text = f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
    return text + ("\N{NO-BREAK SPACE}%" if name.endswith("accuracy") else unit)

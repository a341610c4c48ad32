"""The figures one by one, from results or records, into axes of your own or into new ones; no global state is set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D

from sharpness.errors import InputError, unknown_name
from sharpness.plots import (
    density,
    eigenvalues,
    forest,
    intervals,
    layers,
    line,
    noise,
    rays,
    stress,
    surface,
    trace,
    track,
    two_paths,
)
from sharpness.plots import plane as planes
from sharpness.plots.artists import PITCH, columns_of, handles_of, put_legend, shown_in
from sharpness.plots.frames import rows_where
from sharpness.plots.grids import plane_table
from sharpness.plots.kinds import PAGE, PLANES
from sharpness.plots.networks import Network, check_networks
from sharpness.plots.style import COLUMN, FULL, one_panel, styled
from sharpness.records import ProbeRecord

Measured = Any
"""A result, a record, a list of either (of one network), or a dict of these by labels (of up to four networks)."""
Drawing = Callable[[Axes, pd.DataFrame, Sequence[Network]], None]
TRACKED = ("quantity", "value", "lower", "upper")
"""What a row of a training has of each record."""


def networks_of(measured: Measured) -> list[Network]:
    """Return the networks that something measured is of.

    >>> [network.label for network in networks_of({"A": ProbeRecord(probe="p", quantity="q", value=1.0), "B": []})]
    ['A', 'B']
    """
    if isinstance(measured, Mapping):
        networks = [_network(str(label), each) for label, each in measured.items()]
    elif isinstance(measured, Sequence) and measured and all(isinstance(each, Network) for each in measured):
        networks = list(measured)
    else:
        networks = [_network("", measured)]
    check_networks(networks)
    return networks


def _network(label: str, measured: Measured) -> Network:
    if isinstance(measured, Network):
        return measured
    records = [_record(each) for each in (measured if isinstance(measured, Sequence) else [measured])]
    return Network(label, {record.probe: record for record in records})


def _record(measured: Measured) -> ProbeRecord:
    record = measured.to_record() if hasattr(measured, "to_record") else measured
    if not isinstance(record, ProbeRecord):
        raise InputError(f"expected results or records to draw, got {type(measured).__name__}: see sharpness.plots")
    return ProbeRecord.from_dict(record.to_dict())


def draw_overview(measured: Measured, *, width: float = FULL) -> Figure:
    """Return one page: all numbers of one network with their intervals, or of several the ratios to the first.

    Beside them are the density and the noise of the gradient, where they were measured.
    """
    networks = networks_of(measured)
    table = _not_empty(PAGE.table(networks), "at least two numbers")
    with styled():
        figure = PAGE.draw(table, networks)
        figure.set_size_inches(width, figure.get_figheight())
    return figure


def draw_intervals(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw every number of one network with its interval, in per cent of it."""
    networks = networks_of(measured)
    table = intervals.intervals_table(networks[:1])
    return _panel(intervals.draw_intervals, table, networks[:1], ax, width, _rows_height(table))


def draw_forest(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw the ratio of each measure to that of the first network, those that no rescaling moves apart."""
    networks = networks_of(measured)
    table = forest.forest_table(networks)
    return _panel(forest.draw_forest, table, networks, ax, width, _rows_height(table))


def draw_eigenvalues(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw every eigenvalue with its interval, a row for each network, of ``TopEigenvalues``."""
    networks = networks_of(measured)
    table = eigenvalues.values_table(networks)
    height = eigenvalues.strips_height(len(networks)) + 0.8
    return _panel(eigenvalues.draw_eigenvalues, table, networks, ax, width, height)


def draw_convergence(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw how the interval of the first eigenvalue became narrow, of ``TopEigenvalues``."""
    networks = networks_of(measured)
    return _panel(eigenvalues.draw_convergence, eigenvalues.convergence_table(networks), networks, ax, width, 2.5)


def draw_density(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw the density of all eigenvalues, of ``SpectralDensity``."""
    networks = networks_of(measured)
    return _panel(density.draw_density, density.density_table(networks), networks, ax, width, 2.4)


def draw_layers(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw the extreme eigenvalues of each layer by its name, of ``LayerEigenvalues``."""
    networks = networks_of(measured)
    table = layers.layers_table(networks)
    height = layers.layers_height(len(layers.layers_of(table)), len(networks))
    return _panel(layers.draw_layers, table, networks, ax, width, height)


def draw_line(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw loss and accuracy on the line between two networks, of ``Interpolation``."""
    networks = networks_of(measured)
    draw = partial(line.draw_line, own=ax is None)
    return _panel(draw, line.line_table(networks), networks, ax, width, 2.5, named=False)


def draw_barrier(measured: Measured, ax: Axes | None = None, *, quantity: str = "loss", width: float = COLUMN) -> Axes:
    """Draw the loss or the accuracy on the line between two networks, before and after matching, of ``Barrier``."""
    networks = networks_of(measured)
    return _paths("barrier", two_paths.LINES, two_paths.barrier_table(networks), networks, ax, quantity, width)


def draw_connectivity(
    measured: Measured, ax: Axes | None = None, *, quantity: str = "loss", width: float = COLUMN
) -> Axes:
    """Draw the loss or the accuracy on a trained curve and on the line between its ends, of ``ModeConnectivity``."""
    networks = networks_of(measured)
    table = two_paths.connectivity_table(networks)
    return _paths("connectivity", two_paths.PATHS, table, networks, ax, quantity, width)


def draw_noise(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw how the noise of a batch's gradient falls with its size, of ``GradientNoise``."""
    networks = networks_of(measured)
    return _panel(noise.draw_noise, noise.noise_table(networks), networks, ax, width, 2.4)


def draw_trace(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw the trace and its interval at every look, of ``Trace``."""
    networks = networks_of(measured)
    return _panel(trace.draw_trace, trace.trace_table(networks), networks, ax, width, 2.3)


def draw_rays(
    measured: Measured, ax: Axes | None = None, *, quantity: str = "train_loss", width: float = COLUMN
) -> Axes:
    """Draw a loss or an accuracy along random rays, of ``RandomRays``."""
    networks = networks_of(measured)
    return _panel(partial(rays.draw_rays, name=quantity), rays.rays_table(networks), networks, ax, width, 2.3)


def draw_plane(
    measured: Measured, ax: Axes | None = None, *, quantity: str = "train_loss", width: float = COLUMN
) -> Axes:
    """Draw a loss or an accuracy in the first plane of the first network, of ``EigenPlane`` and its like."""
    network, probe = _plane(measured)
    table = _not_empty(plane_table([network], probe), "a plane to draw")
    record = network.records[probe]
    height = planes.plane_height(width, table, network, record)
    return _drawn(lambda ax: planes.draw_plane(ax, table, network, record, quantity), [], ax, width, height)


def draw_surface(measured: Measured, ax: Axes | None = None, *, width: float = COLUMN) -> Axes:
    """Draw the train loss over the first plane of the first network, into axes with ``projection="3d"``."""
    if ax is not None and not isinstance(ax, Axes3D):
        raise InputError('expected three-dimensional axes for a surface, got flat ones: give them projection="3d"')
    network, probe = _plane(measured)
    table = _not_empty(surface.surface_table([network], probe), "a plane with finite train losses to draw")
    record = network.records[probe]
    lines = [] if ax is not None else surface.axes_lines([(network, record)], round(56 * width / COLUMN))
    return _drawn(lambda ax: surface.draw_surface(ax, table, network, record), lines, ax, width, 3.0, "3d")


def draw_stress(rows: Sequence[Any], ax: Axes | None = None, *, width: float = FULL) -> Axes:
    """Draw how far each measure moved under a rescaling that changes no output, of ``stress_test``.

    ``rows`` are what it returns, or the lines of a ``stress.jsonl``.
    """
    table = _not_empty(stress.stress_rows([_stress_row(row) for row in rows]), "rows of a stress test to draw")
    height = stress.stress_height(len(table))
    return _drawn(lambda ax: stress.draw_stress(ax, table), stress.stress_handles(), ax, width, height)


def draw_track(
    measured: Mapping[Any, Any] | pd.DataFrame,
    ax: Axes | None = None,
    *,
    quantity: str | None = None,
    edge: float | Mapping[str, float] | None = None,
    width: float = COLUMN,
) -> Axes:
    """Draw a quantity along a training with its intervals: of results by their steps, or of a dict of these by labels.

    The table of a ``track.csv`` is drawn too. The default is the first quantity; ``edge``, one for all or by labels, is
    where the edge of stability is, 2 / rate, which is drawn beside what training holds there.
    """
    table = measured if isinstance(measured, pd.DataFrame) else _track_table(measured, edge)
    quantities = list(dict.fromkeys(_not_empty(table, "results by their steps to draw")["quantity"]))
    name = quantities[0] if quantity is None else quantity
    if name not in quantities:
        raise unknown_name("quantity of the training", name, quantities)
    return _drawn(lambda ax: track.draw_track(ax, table, name), None, ax, width, 2.3)


def _track_table(measured: Mapping[Any, Any], edge: float | Mapping[str, float] | None) -> pd.DataFrame:
    """Return a row for each result, as ``sharpness track`` writes them."""
    several = all(isinstance(each, Mapping) for each in measured.values())
    rows = [
        {"series": str(label), "step": step, **{name: getattr(record, name) for name in TRACKED}}
        | {"edge": edge.get(label) if isinstance(edge, Mapping) else edge}
        for label, steps in (measured.items() if several else [("", measured)])
        for step, results in steps.items()
        for record in _network("", results).records.values()
    ]
    table = pd.DataFrame(rows, columns=pd.Index(("series", "step", *TRACKED, "edge")))
    return table.astype(dict.fromkeys(("value", "lower", "upper", "edge"), float))


def _stress_row(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    before = {"quantity": row.name, "value": row.before.value}  # two measures may have one quantity
    return {"before": before, "after": {"value": row.after.value}, "moved": row.moved}


def _plane(measured: Measured) -> tuple[Network, str]:
    """Return the first network and which plane it has."""
    network = networks_of(measured)[0]
    return network, next((probe for probe in network.records if probe in PLANES), PLANES[0])


def _paths(
    probe: str,
    paths: two_paths.Paths,
    table: pd.DataFrame,
    networks: Sequence[Network],
    ax: Axes | None,
    quantity: str,
    width: float,
) -> Axes:
    """Draw the two paths of the first network that has them."""
    label = _not_empty(table, f"something for draw_{probe} to draw")["network"].iloc[0]
    table = rows_where(table, network=label)
    network = next(each for each in networks if each.label == label)

    def draw(ax: Axes) -> None:
        two_paths.draw_paths(ax, table, network, network.records[probe], paths, quantity)

    return _drawn(draw, two_paths.path_handles(table, paths, [quantity]), ax, width, 2.5)


def _panel(
    draw: Drawing,
    table: pd.DataFrame,
    networks: Sequence[Network],
    ax: Axes | None,
    width: float,
    height: float,
    named: bool = True,
) -> Axes:
    """Draw the networks of a table, and name them where they are several."""
    name = (draw.func if isinstance(draw, partial) else draw).__name__
    shown = shown_in(_not_empty(table, f"something for {name} to draw"), networks)
    handles = handles_of(shown, marked=True) if named and len(shown) > 1 else []
    return _drawn(lambda ax: draw(ax, table, networks), handles, ax, width, height)


def _drawn(
    draw: Callable[[Axes], None],
    handles: Sequence[Artist] | None,
    ax: Axes | None,
    width: float,
    height: float,
    projection: str | None = None,
) -> Axes:
    """Draw into given axes as they are, or into new ones in the style of all figures, with a legend where there is one.

    Without handles, ``None``, the legend is that of the lines with a label.
    """
    own = ax is None
    with styled() if own else contextlib.nullcontext():
        ax = one_panel(width, height, projection) if ax is None else ax
        draw(ax)
        handles = ax.get_legend_handles_labels()[0] if handles is None else handles
        if handles:
            put_legend(ax, handles, own, columns_of([str(handle.get_label()) for handle in handles]))
    return ax


def _not_empty(table: pd.DataFrame, expected: str) -> pd.DataFrame:
    if table.empty:
        raise InputError(f"expected {expected}, got none: give the results of the probe that measures it")
    return table


def _rows_height(table: pd.DataFrame) -> float:
    return 0.8 + PITCH * (len(set(table["quantity"])) + len(set(table["invariant"])))

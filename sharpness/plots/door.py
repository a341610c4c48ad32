"""The figures one by one, from results or records, into axes of your own or into new ones; no global state is set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpness.errors import InputError
from sharpness.plots import density, eigenvalues, forest, intervals, layers, line, noise, rays, trace
from sharpness.plots import plane as planes
from sharpness.plots.artists import PITCH, legend_above, shown_in
from sharpness.plots.grids import plane_table
from sharpness.plots.kinds import PAGE, PLANES
from sharpness.plots.networks import Network, check_networks
from sharpness.plots.style import COLUMN, FULL, one_panel, styled
from sharpness.records import ProbeRecord

Measured = Any
"""A result, a record, a list of either (of one network), or a dict of these by labels (of up to four networks)."""
Drawing = Callable[[Axes, pd.DataFrame, Sequence[Network]], None]


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
    return _panel(line.draw_line, line.line_table(networks), networks, ax, width, 2.5, named=False)


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

    def draw(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
        rays.draw_rays(ax, table, networks, quantity)

    return _panel(draw, rays.rays_table(networks), networks, ax, width, 2.3)


def draw_plane(
    measured: Measured, ax: Axes | None = None, *, quantity: str = "train_loss", width: float = COLUMN
) -> Axes:
    """Draw a loss or an accuracy in the first plane of the first network, of ``EigenPlane`` and its like."""
    network = networks_of(measured)[0]
    probe = next((probe for probe in network.records if probe in PLANES), PLANES[0])

    def draw(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
        planes.draw_plane(ax, table, network, network.records[probe], quantity)

    table = _not_empty(plane_table([network], probe), "a plane to draw")
    height = planes.plane_height(width, table, network, network.records[probe])
    return _panel(draw, table, [network], ax, width, height, named=False)


def _panel(
    draw: Drawing,
    table: pd.DataFrame,
    networks: Sequence[Network],
    ax: Axes | None,
    width: float,
    height: float,
    named: bool = True,
) -> Axes:
    """Draw into given axes as they are, or into new ones in the style of all figures, and name several networks."""
    _not_empty(table, f"something for {draw.__name__} to draw")
    own = ax is None
    with styled() if own else contextlib.nullcontext():
        ax = one_panel(width, height) if ax is None else ax
        draw(ax, table, networks)
        shown = shown_in(table, networks)
        if named and len(shown) > 1:
            figure = ax.get_figure(root=True)
            if own and figure is not None:
                legend_above(figure, shown, marked=True)
            else:
                ax.legend(handles=[look.handle(network.label) for network, look in shown])
    return ax


def _not_empty(table: pd.DataFrame, expected: str) -> pd.DataFrame:
    if table.empty:
        raise InputError(f"expected {expected}, got none: give the results of the probe that measures it")
    return table


def _rows_height(table: pd.DataFrame) -> float:
    return 0.8 + PITCH * (len(set(table["quantity"])) + len(set(table["invariant"])))

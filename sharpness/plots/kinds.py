"""A figure for the records of each probe: a table, a drawing and a caption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from sharpness.plots import (
    density,
    eigenvalues,
    keskar,
    layers,
    line,
    plane,
    pyhessian,
    rays,
    surface,
    trace,
    two_paths,
    value,
)
from sharpness.plots.grids import plane_table
from sharpness.plots.networks import Network
from sharpness.plots.save import save_figure
from sharpness.plots.style import STYLE


@dataclass(frozen=True)
class Kind:
    """One kind of figure: the numbers it draws (column ``network``: the label), its drawing and its caption."""

    table: Callable[[Sequence[Network]], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Sequence[Network]], Figure]
    caption: Callable[[pd.DataFrame, Sequence[Network]], str]


CONVERGENCE = Kind(eigenvalues.convergence_table, eigenvalues.convergence_figure, eigenvalues.convergence_caption)
"""The lower half of the figure of ``eigenvalues`` alone."""

PLANES = ("eigen_plane", "random_plane", "three_point_plane", "trajectory_plane")
"""The landscapes that have two figures: contours by their name and a surface beside them."""


def _contours(probe: str) -> Kind:
    return Kind(
        partial(plane_table, probe=probe),
        partial(plane.plane_figure, probe=probe),
        partial(plane.plane_caption, probe=probe),
    )


def _surface(probe: str) -> Kind:
    return Kind(
        partial(surface.surface_table, probe=probe),
        partial(surface.surface_figure, probe=probe),
        partial(surface.surface_caption, probe=probe),
    )


KINDS = {
    "barrier": Kind(two_paths.barrier_table, two_paths.barrier_figure, two_paths.barrier_caption),
    "connectivity": Kind(two_paths.connectivity_table, two_paths.connectivity_figure, two_paths.connectivity_caption),
    "density": Kind(density.density_table, density.density_figure, density.density_caption),
    "eigenvalues": Kind(eigenvalues.eigenvalues_table, eigenvalues.eigenvalues_figure, eigenvalues.eigenvalues_caption),
    "interpolation": Kind(line.line_table, line.line_figure, line.line_caption),
    "keskar": Kind(keskar.keskar_table, keskar.keskar_figure, keskar.keskar_caption),
    "layers": Kind(layers.layers_table, layers.layers_figure, layers.layers_caption),
    "pyhessian": Kind(pyhessian.pyhessian_table, pyhessian.pyhessian_figure, pyhessian.pyhessian_caption),
    "rays": Kind(rays.rays_table, rays.rays_figure, rays.rays_caption),
    "trace": Kind(trace.trace_table, trace.trace_figure, trace.trace_caption),
    **{probe: _contours(probe) for probe in PLANES},
}
"""The figures by probe; every other probe's value is drawn as one number per network (:func:`kind_of`)."""

SURFACES = {probe: _surface(probe) for probe in PLANES}
"""The second figures of planes, named ``<probe>_surface``."""


def kind_of(probe: str) -> Kind:
    """Return the kind of figure of a probe, known or not."""
    number = Kind(
        partial(value.value_table, probe=probe),
        partial(value.value_figure, probe=probe),
        partial(value.value_caption, probe=probe),
    )
    return KINDS.get(probe, number)


def kinds_of(probe: str) -> dict[str, Kind]:
    """Return all figures of a probe by their names, the one of its name first."""
    return {probe: kind_of(probe)} | ({f"{probe}_surface": SURFACES[probe]} if probe in SURFACES else {})


def save_kind(
    kind: Kind,
    table: pd.DataFrame,
    networks: Sequence[Network],
    out: Path,
    name: str,
    provenance: Mapping[str, Any],
) -> list[Path]:
    """Draw a table that is not empty and write the figure under its name; return the paths."""
    with mpl.rc_context(STYLE):
        figure = kind.draw(table, networks)
    return save_figure(figure, table, out, name, kind.caption(table, networks), provenance)

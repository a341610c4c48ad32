"""A figure for the records of each probe that has more to show than a number: a table, a drawing and a caption."""

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
    layers,
    line,
    noise,
    overview,
    plane,
    rays,
    surface,
    trace,
    two_paths,
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
    "gradient_noise": Kind(noise.noise_table, noise.noise_figure, noise.noise_caption),
    "interpolation": Kind(line.line_table, line.line_figure, line.line_caption),
    "layers": Kind(layers.layers_table, layers.layers_figure, layers.layers_caption),
    "rays": Kind(rays.rays_table, rays.rays_figure, rays.rays_caption),
    "trace": Kind(trace.trace_table, trace.trace_figure, trace.trace_caption),
    **{probe: _contours(probe) for probe in PLANES},
}
"""The figures by probe; the number of every other probe stands in the overview."""

COURSES = ("eigenvalues", "trace")
"""Probes whose record may be a single number without a course, which has no figure."""

OVERVIEW = "overview"
"""The name of the page of all numbers."""

PAGE = Kind(overview.overview_table, overview.overview_figure, overview.overview_caption)

SURFACES = {probe: _surface(probe) for probe in PLANES}
"""The second figures of planes, named ``<probe>_surface``."""


def kinds_of(probe: str) -> dict[str, Kind]:
    """Return all figures of a probe by their names, the one of its name first; none where it has but a number.

    >>> list(kinds_of("eigen_plane")), kinds_of("distance")
    (['eigen_plane', 'eigen_plane_surface'], {})
    """
    if probe not in KINDS:
        return {}
    return {probe: KINDS[probe]} | ({f"{probe}_surface": SURFACES[probe]} if probe in SURFACES else {})


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

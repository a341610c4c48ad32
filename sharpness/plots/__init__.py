"""Figures of results and records: the numbers drawn are theirs, and torch is never loaded.

Each function that begins with ``draw_`` makes one panel: it takes results or records, draws into the axes given or into
new ones of ``width`` inches, and returns the axes. Give a result, a list of results of one network, or a dict of these
by labels, for up to four networks:

>>> from sharpness import plots
>>> from sharpness.records import ProbeRecord
>>> noise = {"noise_trace": {"value": 8.0, "lower": 6.0, "upper": 10.0}, "gradient_square": {"value": 0.5}}
>>> record = ProbeRecord(probe="gradient_noise", quantity="simple_noise_scale", value=16.0, details=noise)
>>> ax = plots.draw_noise({"A": record, "B": record}, width=plots.WIDTHS["icml"][0])
>>> ax.get_xlabel(), float(ax.get_figure().get_figwidth())
('Batch size $B$ (examples)', 3.25)

Nothing global is set. New figures have the style of ``styled()``, a context that you can draw in too; axes of your own
keep the style that they were made with.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpness.plots.networks import MAX_NETWORKS, Network, Rendered

if TYPE_CHECKING:
    from sharpness.plots.door import draw_barrier as draw_barrier
    from sharpness.plots.door import draw_connectivity as draw_connectivity
    from sharpness.plots.door import draw_convergence as draw_convergence
    from sharpness.plots.door import draw_density as draw_density
    from sharpness.plots.door import draw_eigenvalues as draw_eigenvalues
    from sharpness.plots.door import draw_forest as draw_forest
    from sharpness.plots.door import draw_intervals as draw_intervals
    from sharpness.plots.door import draw_layers as draw_layers
    from sharpness.plots.door import draw_line as draw_line
    from sharpness.plots.door import draw_noise as draw_noise
    from sharpness.plots.door import draw_overview as draw_overview
    from sharpness.plots.door import draw_plane as draw_plane
    from sharpness.plots.door import draw_rays as draw_rays
    from sharpness.plots.door import draw_stress as draw_stress
    from sharpness.plots.door import draw_surface as draw_surface
    from sharpness.plots.door import draw_trace as draw_trace
    from sharpness.plots.door import draw_track as draw_track
    from sharpness.plots.style import WIDTHS as WIDTHS
    from sharpness.plots.style import styled as styled

PANELS = (
    "barrier",
    "connectivity",
    "convergence",
    "density",
    "eigenvalues",
    "forest",
    "intervals",
    "layers",
    "line",
    "noise",
    "plane",
    "rays",
    "stress",
    "surface",
    "trace",
    "track",
)
_HOMES = {f"draw_{name}": "door" for name in (*PANELS, "overview")} | {"WIDTHS": "style", "styled": "style"}
__all__ = ["MAX_NETWORKS", "Network", "Rendered", "render_records", *sorted(_HOMES)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # Loaded when figures are asked for: Matplotlib and pandas take a second that no other command has to wait.
    if name not in _HOMES:
        raise AttributeError(f"module 'sharpness.plots' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sharpness.plots.{_HOMES[name]}"), name)


def render_records(networks: Sequence[Network], out: Path, provenance: Mapping[str, Any]) -> Rendered:
    """Write a page of all numbers of 1 to 4 networks and a figure for each curve; return the files and what is missing.

    The page is ``overview``; the others are named by their probes. A single number has no figure. Each is written as
    PDF, PNG (300 dpi), CSV of the numbers drawn, and JSON with its caption, ``provenance``, and the facts and records
    of the networks; the same records give the same bytes. What has no value draws no mark, and a sentence in
    ``refusals`` gives its reason; where nothing is left to draw there is no figure, and an older one of that name is
    removed. Raises :class:`sharpness.InputError` for no networks, more than four, or one label twice.

    >>> import tempfile
    >>> from sharpness.records import ProbeRecord
    >>> records = {name: ProbeRecord(probe=name, quantity=name, value=3.0) for name in ("distance", "norms")}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in render_records([Network("A", records)], Path(folder), {}).files]
    ['overview.pdf', 'overview.png', 'overview.csv', 'overview.json']
    """
    from sharpness.plots.render import render

    return render(networks, out, provenance)

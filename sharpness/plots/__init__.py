"""Figures of any probe records: one per probe, with the numbers drawn and their origin; torch is never loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpness.plots.networks import MAX_NETWORKS, Network, Rendered

__all__ = ["MAX_NETWORKS", "Network", "Rendered", "render_records"]


def render_records(networks: Sequence[Network], out: Path, provenance: Mapping[str, Any]) -> Rendered:
    """Write a figure for each probe that any of 1 to 4 networks has a record of; return the files and what is missing.

    Each figure is named by its probe and written as PDF, PNG (300 dpi), CSV of the numbers drawn, and JSON with its
    caption, ``provenance``, and the facts and records of the networks; the same records give the same bytes. A record
    without a value draws no mark, and a sentence in ``refusals`` gives its reason; where nothing is left to draw there
    is no figure, and an older one of that name is removed. Raises :class:`sharpness.InputError` for no networks, more
    than four, or one label twice.

    >>> import tempfile
    >>> from sharpness.records import ProbeRecord
    >>> record = ProbeRecord(probe="distance", quantity="distance_from_start", value=3.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in render_records([Network("A", {"distance": record})], Path(folder), {}).files]
    ['distance.pdf', 'distance.png', 'distance.csv', 'distance.json']
    """
    # Loaded when figures are asked for: Matplotlib and pandas take a second that no other command has to wait.
    from sharpness.plots.render import render

    return render(networks, out, provenance)

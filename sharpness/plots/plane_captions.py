"""The captions of the figures of a plane: which plane, how it is coloured, what its marks are, what is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sharpness.plots.caption_text import Pairs, data, drawn_records, each, missing, number, unit
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.grids import QUANTITIES, Grid, grid_of, log_heights, one_unit, shown_quantities, to_scale
from sharpness.plots.networks import Network
from sharpness.records import ProbeRecord


def plane_caption(table: pd.DataFrame, networks: Sequence[Network], probe: str) -> str:
    """Return the caption of the contours."""
    drawn = drawn_records(networks, probe, table)
    grids = {network.label: grid_of(table, network.label) for network, _ in drawn}
    names = list(dict.fromkeys(name for grid in grids.values() for name in shown_quantities(grid, len(grids))))
    how = f"{_bands(names, len(grids))}, linear between the points, white lines at their edges"
    gaps = _gaps(grids, names, "Crossed on grey")
    return f"{_plane(names, drawn)}. {how}. {_checkpoints(table, drawn)} {gaps}{_end(table, networks, drawn)}".strip()


def surface_caption(table: pd.DataFrame, networks: Sequence[Network], probe: str) -> str:
    """Return the caption of the surface."""
    drawn = drawn_records(networks, probe, table)
    grids = {network.label: grid_of(table, network.label) for network, _ in drawn}
    how = (
        f"The heights are those of the points, on {'a logarithmic' if log_heights(grids.values()) else 'an even'} axis"
    )
    how += "; each cell has the colour of the mean of its corners"
    marks = f"{_checkpoints(table, drawn)} They are drawn over the surface, with a line down to the floor."
    gaps = _gaps(grids, ["train_loss"], "Holes")
    text = f"{_plane(['train_loss'], drawn)}. {how}. {_bands(['train_loss'], len(grids))}. {marks} {gaps}"
    return f"{text}{_end(table, networks, drawn)}".strip()


def _plane(names: Sequence[str], drawn: Pairs) -> str:
    words = [QUANTITIES[name].lower() for name in names]
    listed = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"{listed.capitalize()} in a plane of weight space: {each(drawn, _axes)}"


def _axes(record: ProbeRecord) -> str:
    details = record.details
    names, units = ([axis[key] for axis in details["axes"]] for key in ("name", "unit"))
    text = f"{names[0]} to the right and {names[1]} upwards, in units of {' and '.join(dict.fromkeys(units))}, "
    text += f"{len(details['xs'])} x {len(details['ys'])} points"
    if one_unit(record) and not to_scale(record):
        text += ", not to one scale"
    if details.get("normalisation") == "filter":
        text += ", directions normalised by filters"
    if details.get("eigenvalues"):
        text += f", eigenvalues {' and '.join(number(value) for value in details['eigenvalues'])}"
    return text


def _bands(names: Sequence[str], num_networks: int) -> str:
    """Say how the bands of colour are spaced."""
    kinds = {"loss" if name.endswith("loss") else "accuracy" for name in names}
    text = "Bands: how far a loss is above the smallest of its points, by decades"
    text += ", the same for every network" if num_networks > 1 else ""
    return text + (", and even steps of an accuracy" if "accuracy" in kinds else "")


def _checkpoints(table: pd.DataFrame, drawn: Pairs) -> str:
    """Say what the marks and the line are, and how far the points of the line are from the plane."""
    text = "Marks: checkpoints at their projections, with losses measured at the checkpoints themselves."
    path = rows_where(table, part="trajectory")
    if len(path):
        counts = " and ".join(str(len(rows_where(path, network=network.label))) for network, _ in drawn)
        far = number(float(np.nanmax(floats(path, "distance"))))
        text += f" Line: projections of the {counts} checkpoints of a trajectory, up to {far} off the plane."
    return text


def _gaps(grids: Mapping[str, Grid], names: Sequence[str], how: str) -> str:
    """Count the points that are not finite."""
    counts = []
    for label, grid in grids.items():
        for name in names:
            bad = int(np.sum(~np.isfinite(grid.values[name]))) if name in grid.values else 0
            if bad:
                whose = f" of {label}" if len(grids) > 1 else ""
                counts.append(f"{bad} of {grid.values[name].size} of the {QUANTITIES[name].lower()}{whose}")
    return f"{how}: points that are not finite ({', '.join(counts)}). " if counts else ""


def _end(table: pd.DataFrame, networks: Sequence[Network], drawn: Pairs) -> str:
    """Say how high the train loss rises over the grid, and on which examples it was measured."""
    rises = [
        "unknown" if record.value is None else number(record.value) + unit([(network, record)])
        for network, record in drawn
    ]
    texts = [f"{n.label}: {rise}" if len(drawn) > 1 else rise for (n, _), rise in zip(drawn, rises, strict=True)]
    rise = f"Largest rise of the train loss over the points above that of the first mark: {'; '.join(texts)}."
    return f"{rise} {data(drawn)}. {missing(table, networks)}"

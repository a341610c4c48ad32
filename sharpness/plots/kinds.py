"""Which figure shows the records of a probe: a table, a drawing and a caption for each."""

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
    eigenvalues,
    keskar,
    line,
    pyhessian,
    rows,
    spectra_captions,
    spectra_figures,
    spectra_tables,
    trace,
)
from sharpness.plots.networks import Network
from sharpness.plots.save import save_figure
from sharpness.plots.style import STYLE


@dataclass(frozen=True)
class Kind:
    """One kind of figure: the numbers it draws (column ``network``: the label), its drawing and its caption."""

    table: Callable[[Sequence[Network]], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Sequence[Network]], Figure]
    caption: Callable[[pd.DataFrame, Sequence[Network]], str]


CONVERGENCE = Kind(spectra_tables.convergence_table, spectra_figures.convergence, spectra_captions.convergence_caption)
"""The lower half of the figure of ``eigenvalues`` alone."""

KINDS = {
    "density": Kind(spectra_tables.density_table, spectra_figures.spectral_density, spectra_captions.density_caption),
    "eigenvalues": Kind(eigenvalues.eigenvalues_table, eigenvalues.eigenvalues_figure, eigenvalues.eigenvalues_caption),
    "interpolation": Kind(line.line_table, line.line_figure, line.line_caption),
    "keskar": Kind(keskar.keskar_table, keskar.keskar_figure, keskar.keskar_caption),
    "layers": Kind(spectra_tables.layers_table, spectra_figures.layer_strip, spectra_captions.layers_caption),
    "pyhessian": Kind(pyhessian.pyhessian_table, pyhessian.pyhessian_figure, pyhessian.pyhessian_caption),
    "trace": Kind(trace.trace_table, trace.trace_figure, trace.trace_caption),
}
"""The figures by probe; every other probe's value is drawn as one number per network (:func:`kind_of`)."""


def kind_of(probe: str) -> Kind:
    """Return the kind of figure of a probe, known or not."""
    number = Kind(
        partial(rows.value_table, probe=probe),
        partial(rows.value_figure, probe=probe),
        partial(rows.value_caption, probe=probe),
    )
    return KINDS.get(probe, number)


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

"""Rows of eigenvalues with their intervals, and what a record was asked for, as all figures of spectra need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sharpness.plots.artists import Shown, dots
from sharpness.plots.caption_text import matrices, with_unit
from sharpness.plots.frames import rows_where
from sharpness.records import ProbeRecord

LAYER_NUMBERS = ("eigenvalue", "lower", "upper")
CURVE, EIGENVALUE = "curve", "eigenvalue"


def eigenvalue_rows(details: Mapping[str, Any], record: ProbeRecord, converged: bool | None) -> list[dict[str, Any]]:
    """Return one row per finite eigenvalue, in the record's order; a bound that is not known is NaN.

    ``converged`` is that of all these eigenvalues together; where it is false, one whose own interval is as narrow as
    asked counts as converged nevertheless.
    """
    values = numbers_of(details.get("eigenvalues"))
    lowers, uppers = (numbers_of(details.get(name), len(values)) for name in ("lowers", "uppers"))
    rtol, rows = float(record.knobs.get("rtol") or 0.0), []
    for value, lower, upper in zip(values, lowers, uppers, strict=True):
        narrow = bool(upper - lower <= rtol * abs(value))
        flag = True if narrow else converged
        rows.append({"eigenvalue": value, "lower": lower, "upper": upper, "converged": flag})
    return [row for row in rows if np.isfinite(row["eigenvalue"])]


def numbers_of(values: Sequence[float | None] | None, length: int = 0) -> NDArray[np.float64]:
    """Return floats with NaN for ``None``; nothing at all becomes ``length`` NaNs.

    >>> numbers_of([1.0, None]), numbers_of(None, 2)
    (array([ 1., nan]), array([nan, nan]))
    """
    return np.full(length, np.nan) if values is None else np.array(values, dtype=float)


def spectra_frame(rows: list[dict[str, Any]], columns: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(columns)).astype(dict.fromkeys(numbers, float) | {"converged": object})


def end_of(record: ProbeRecord) -> str:
    """Return of which end of the spectrum the first eigenvalue of a record is: ``top`` or ``bottom``.

    >>> end_of(ProbeRecord(probe="eigenvalues", quantity="top_eigenvalue", value=-3.0, knobs={"which": "magnitude"}))
    'bottom'
    """
    which = record.knobs.get("which", "top")
    if which == "magnitude":
        return "bottom" if record.value is not None and record.value < 0 else "top"
    return "bottom" if which == "bottom" else "top"


def width_asked(record: ProbeRecord) -> float | None:
    """Return the relative width of the intervals asked for; ``None`` where it was residuals that had to be small."""
    return float(record.knobs["rtol"]) if record.knobs.get("stop_on", "interval") == "interval" else None


def strips(ax: Axes, values: pd.DataFrame, shown: Shown) -> None:
    """Draw the eigenvalues of each network in a row of its own, with their intervals."""
    for height, (network, look) in enumerate(shown):
        dots(ax, rows_where(values, network=network.label), look, -height)
    ax.set(ylim=(0.6 - len(shown), 0.6), yticks=[])
    ax.spines["left"].set_visible(False)


def spectrum_label(shown: Shown, probe: str) -> str:
    """Return the label of an axis of eigenvalues."""
    pairs = [(network, network.records[probe]) for network, _ in shown]
    return with_unit(rf"{matrices(pairs)} eigenvalue $\lambda$", pairs)

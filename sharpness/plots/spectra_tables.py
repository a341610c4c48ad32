"""The tables behind the figures of spectra: exactly the numbers drawn, taken from the records of each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sharpness.plots.networks import Network, companion, with_record
from sharpness.records import ProbeRecord

DENSITY_NUMBERS = ("eigenvalue", "density", "density_lower", "density_upper", "lower", "upper")
LAYER_NUMBERS = ("eigenvalue", "lower", "upper")
BOUNDS = ("ritz", "lower", "upper")
CONVERGENCE_NUMBERS = (*BOUNDS, *(f"{name}_percent" for name in BOUNDS))
CURVE, EIGENVALUE = "curve", "eigenvalue"


def density_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return the density curves (mark ``curve``) and the extreme eigenvalues (mark ``eigenvalue``), in nats.

    ``density`` is the share of eigenvalues per unit of asinh(lambda / lambda_0) with the lambda_0 of
    :func:`common_threshold`. A network of another threshold is converted by the change of variables, which is exact:
    rho' = rho sqrt((lambda^2 + lambda_0'^2) / (lambda^2 + lambda_0^2)). Eigenvalues are listed for networks with a
    curve only, where they are of the same matrix.
    """
    rows, threshold = [], common_threshold(networks)
    for network, record in with_record(networks, "density"):
        grid = _array(record.details.get("grid"))
        factor = np.hypot(grid, threshold) / np.hypot(grid, record.details["linear_threshold"])
        curves = {name: factor * _array(record.details.get(name), len(grid)) for name in DENSITY_NUMBERS[1:4]}
        if not np.any(curves["density"] > 0):
            continue
        for i, value in enumerate(grid):
            shared = {"network": network.label, "mark": CURVE, "eigenvalue": value}
            rows.append(shared | {name: curve[i] for name, curve in curves.items()})
        extremes = companion(network, record, "eigenvalues")
        if extremes is not None:
            shared = {"network": network.label, "mark": EIGENVALUE}
            rows += [shared | row for row in eigenvalue_rows(extremes.details, extremes, extremes.converged)]
    return _frame(rows, ("network", "mark", *DENSITY_NUMBERS, "converged"), DENSITY_NUMBERS)


def common_threshold(networks: Sequence[Network]) -> float:
    """Return the smallest lambda_0 of the densities, so that no network's bulk at zero is squeezed; 1 without any."""
    return min((record.details["linear_threshold"] for _, record in with_record(networks, "density")), default=1.0)


def layers_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return every eigenvalue (nats) of every layer in the network's order; a row without layer is the network's top.

    ``size`` is the layer's number of parameters.
    """
    rows = []
    for network, record in with_record(networks, "layers"):
        for position, layer in enumerate(record.details["layers"]):
            shared = {"network": network.label, "position": position, "layer": layer["name"], "size": layer["size"]}
            rows += [shared | row for row in eigenvalue_rows(layer, record, layer.get("converged"))]
        top = companion(network, record, "eigenvalues")
        if top is not None and top.value is not None and end_of(top) == "top" and rows:
            bounds = {"eigenvalue": top.value, "lower": top.lower, "upper": top.upper}
            rows.append({"network": network.label, "converged": top.converged} | bounds)
    columns = ("network", "position", "layer", "size", *LAYER_NUMBERS, "converged")
    return _frame(rows, columns, LAYER_NUMBERS).astype({"position": "Int64", "size": "Int64"})


def convergence_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return Ritz value, lower and upper bound (nats) of the first eigenvalue after each product with the matrix.

    A network's rows end where the interval is as narrow as asked (``converged`` true in the last row): what follows is
    spent on the other eigenvalues. The columns ``..._percent`` are what is drawn: 100 (x - value) / |value|, relative
    to the value reported at the end.
    """
    rows = []
    for network, record in with_record(networks, "eigenvalues"):
        if not record.value:
            continue  # nothing is relative to zero
        width = width_asked(record)
        for products, *values in record.details.get("history") or []:
            row = dict(zip(BOUNDS, _array(values), strict=True))
            shares = {f"{name}_percent": 100 * (x - record.value) / abs(record.value) for name, x in row.items()}
            narrow = width is not None and bool(row["upper"] - row["lower"] <= width * abs(row["ritz"]))
            rows.append({"network": network.label, "products": products, **row, **shares, "converged": narrow})
            if narrow:
                break
    return _frame(rows, ("network", "products", *CONVERGENCE_NUMBERS, "converged"), CONVERGENCE_NUMBERS)


def width_asked(record: ProbeRecord) -> float | None:
    """Return the relative width of the intervals asked for; ``None`` where it was residuals that had to be small."""
    return float(record.knobs["rtol"]) if record.knobs.get("stop_on", "interval") == "interval" else None


def end_of(record: ProbeRecord) -> str:
    """Return of which end of the spectrum the first eigenvalue of a record is: ``top`` or ``bottom``.

    >>> end_of(ProbeRecord(probe="eigenvalues", quantity="top_eigenvalue", value=-3.0, knobs={"which": "magnitude"}))
    'bottom'
    """
    which = record.knobs.get("which", "top")
    if which == "magnitude":
        return "bottom" if record.value is not None and record.value < 0 else "top"
    return "bottom" if which == "bottom" else "top"


def eigenvalue_rows(details: Mapping[str, Any], record: ProbeRecord, converged: bool | None) -> list[dict[str, Any]]:
    """Return one row per finite eigenvalue, in the record's order; a bound that is not known is NaN.

    ``converged`` is that of all these eigenvalues together; where it is false, one whose own interval is as narrow as
    asked counts as converged nevertheless.
    """
    values = _array(details.get("eigenvalues"))
    lowers, uppers = (_array(details.get(name), len(values)) for name in ("lowers", "uppers"))
    rtol, rows = float(record.knobs.get("rtol") or 0.0), []
    for value, lower, upper in zip(values, lowers, uppers, strict=True):
        narrow = bool(upper - lower <= rtol * abs(value))
        flag = True if narrow else converged
        rows.append({"eigenvalue": value, "lower": lower, "upper": upper, "converged": flag})
    return [row for row in rows if np.isfinite(row["eigenvalue"])]


def _array(values: Sequence[float | None] | None, length: int = 0) -> NDArray[np.float64]:
    """Return floats with NaN for ``None``; nothing at all becomes ``length`` NaNs.

    >>> _array([1.0, None]), _array(None, 2)
    (array([ 1., nan]), array([nan, nan]))
    """
    return np.full(length, np.nan) if values is None else np.array(values, dtype=float)


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(columns)).astype(dict.fromkeys(numbers, float) | {"converged": object})

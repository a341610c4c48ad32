"""The captions of the figures of spectra: what is drawn, on which examples, how it was estimated, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import floats, rows_where
from analysis.spectra_drawn import CURVE, EIGENVALUE, Network, common_threshold
from sharpness.records import ProbeRecord


def density_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the spectral densities, with what each record says of the whole spectrum."""
    shown = _with(networks, "density", rows_where(table, mark=CURVE))
    sizes = " and ".join(f"{size:,}" for size in sorted({record.details["size"] for _, record in shown}))
    draws = _each(shown, _draws)
    converted = len({record.details["linear_threshold"] for _, record in shown}) > 1
    unit = ", the smallest of the networks', to which the others' densities are converted" if converted else ""
    widths = sorted({str(record.details["kernel_width"]) for _, record in shown if "kernel_width" in record.details})
    width = f" of standard deviation {', '.join(widths)} in s" if widths else ""
    text = (
        f"Density of the Hessian's eigenvalues by stochastic Lanczos quadrature ({draws}), smoothed by a Gaussian "
        f"kernel{width}, as the share of eigenvalues per unit of s = asinh(lambda / lambda_0), lambda_0 = "
        f"{common_threshold(networks):.2g}{unit}: the axis is linear within ±lambda_0 and logarithmic beyond. "
        f"{_data(shown)}. {_band(table, shown)} Separate peaks are nodes of the quadrature: their mass is meaningful, "
        "the gaps between them are not; more steps resolve more. "
        f"Dotted: 1/n for n = {sizes} parameters, one eigenvalue per unit; bumps near that height are single "
        "eigenvalues, whose height one start estimates to no better than its own size. "
    )
    extremes = rows_where(table, mark=EIGENVALUE)
    if len(extremes):
        text += f"Below: the top and bottom eigenvalues by Lanczos on the same loss{_intervals(extremes)}. "
    return f"{text}{' '.join(_spectrum(*pair) for pair in shown)} {_missing(table, networks)}".strip()


def _draws(record: ProbeRecord) -> str:
    return f"{record.details['steps']} steps from {_plural(record.details['num_starts'], 'random start')}"


def _band(table: pd.DataFrame, shown: Sequence[tuple[Network, ProbeRecord]]) -> str:
    finite = np.isfinite(floats(table, "density_lower")) & np.isfinite(floats(table, "density_upper"))
    if not finite.any():
        return "No band is drawn: one start shows no spread."
    levels = sorted({f"{100 * r.details['confidence']:g} % " for _, r in shown if r.details.get("confidence")})
    few = min(record.details["num_starts"] for _, record in shown) < 5
    return f"Band: {' or '.join(levels)}bootstrap interval over the starts{', coarse for so few' if few else ''}."


def _spectrum(network: Network, record: ProbeRecord) -> str:
    """Say trace, effective rank and number of negative eigenvalues, each with what is known of its error."""
    details = record.details
    facts = []
    if details.get("trace") is not None:
        facts.append(f"trace {_number(details['trace'])}{_error(details.get('trace_standard_error'))} nats")
    if details.get("effective_rank") is not None:
        facts.append(f"effective rank (sum |lambda|)^2 / sum lambda^2 = {_number(details['effective_rank'])}")
    if details.get("num_negative") is not None:
        facts.append(_negatives(details))
    return f"{network.label}: {', '.join(facts)}." if facts else f"{network.label}: nothing else was estimated."


def _negatives(details: Mapping[str, Any]) -> str:
    """Give the proven bracket first: the sign of a spike at zero is beyond the quadrature, whatever its count."""
    count, bracket = _number(details["num_negative"]), details.get("num_negative_bracket")
    if bracket is None or None in bracket:
        return f"{count}{_error(details.get('num_negative_standard_error'))} negative eigenvalues"
    ends = " to ".join(map(_number, bracket))
    return f"{ends} negative eigenvalues (all that these starts leave open; the quadrature counts {count})"


def _error(value: float | None) -> str:
    return "" if value is None else f" ± {_number(value, 2)} (standard error)"


def _number(value: float, digits: int = 3) -> str:
    """Return significant digits, in full for large numbers.

    >>> _number(175535.3), _number(0.001234)
    ('176,000', '0.00123')
    """
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def layers_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the layers' eigenvalues."""
    shown = _with(networks, "layers", table)
    layers = table.dropna(subset=["position"])
    lines = (
        "Vertical lines: the top eigenvalue of the whole network's Hessian; a layer's block is a principal submatrix, "
        "so none of its eigenvalues exceeds it (Cauchy interlacing). "
        if len(layers) < len(table)
        else ""
    )
    return (
        "Top and bottom eigenvalues of each layer's diagonal block of the Hessian, the layers in the network's order "
        f"from top to bottom, on an axis that is linear near zero and logarithmic beyond{_intervals(layers)}. "
        f"{_data(shown)}. {lines}{_missing(table, networks)}"
    ).strip()


def convergence_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the interval of the top eigenvalue against products."""
    shown = _with(networks, "eigenvalues", table)
    finals = "; ".join(f"{network.label}: {_final(record)}" for network, record in shown)
    confidences = sorted({f"{100 * r.confidence:g} %" for _, r in shown if r.confidence is not None})
    bound = f"upper bound ({' or '.join(confidences)} confidence)" if confidences else "upper bound"
    return (
        f"Ritz value (below) and {bound} of the top Hessian eigenvalue after each Lanczos step, as the distance from "
        "the final Ritz value in per cent, on an axis that is linear near zero; shaded: the interval between the "
        "proven bounds. Dotted: the width asked for. A curve ends where its interval is that narrow, or with an open "
        f"mark where it never was. Final: {finals}. {_data(shown)}. {_missing(table, networks)}"
    ).strip()


def _final(record: ProbeRecord) -> str:
    lower, upper = (f"{x:.4g}" if x is not None else "unknown" for x in (record.lower, record.upper))
    reason = f", no upper bound: {record.reasons.get('upper', 'not recorded')}" if record.upper is None else ""
    products = _plural(record.num_hvps, "product")
    return f"{record.value:.4g} in [{lower}, {upper}] after {products} for all eigenvalues asked for{reason}"


def _with(networks: Sequence[Network], probe: str, table: pd.DataFrame) -> list[tuple[Network, ProbeRecord]]:
    drawn = set(table["network"])
    return [(n, n.records[probe]) for n in networks if probe in n.records and n.label in drawn]


def _data(shown: Sequence[tuple[Network, ProbeRecord]]) -> str:
    """Say on which examples the records were measured, in which precision, and what BatchNorm did."""
    return "Measured on " + _each(shown, _measured_on)


def _measured_on(record: ProbeRecord) -> str:
    number = "unknown" if record.num_examples is None else f"{record.num_examples:,}"
    examples = f"all {number} training examples"
    if record.details.get("subset") is not None:
        examples = f"{number} training examples drawn at random, as one batch"
    return examples + (f", norm {record.norm}" if record.norm else "") + (f", {record.dtype}" if record.dtype else "")


def _each(shown: Sequence[tuple[Network, ProbeRecord]], describe: Any) -> str:
    """Return one description if all records share it, otherwise one per network."""
    texts = {network.label: describe(record) for network, record in shown}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{label}: {text}" for label, text in texts.items())


def _plural(count: int | None, noun: str) -> str:
    """Return a count with its noun.

    >>> _plural(1, "start"), _plural(2, "start")
    ('1 start', '2 starts')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _intervals(rows: pd.DataFrame) -> str:
    """Say what the bars and marks of eigenvalues mean, and how many have no bound or are not converged."""
    one_sided = int(np.sum(~np.isfinite(floats(rows, "lower")) | ~np.isfinite(floats(rows, "upper"))))
    unconverged = int(np.sum([flag is False for flag in rows["converged"]]))
    text = "; bars: their intervals, mostly smaller than the marks"
    text += f" ({one_sided} of {len(rows)} have a bound on one side or none)" if one_sided else ""
    return text + (f"; open marks: not as narrow as asked ({unconverged})" if unconverged else "")


def _missing(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    absent = [network.label for network in networks if network.label not in set(table["network"])]
    return f"Without a record to draw: {', '.join(absent)}." if absent else ""

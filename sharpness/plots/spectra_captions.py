"""The captions of the figures of spectra: what is drawn, on which examples, how it was estimated, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sharpness.plots.caption_text import (
    Pairs,
    data,
    drawn_records,
    each,
    eigenvalues_of,
    intervals,
    matrices,
    missing,
    number,
    plural,
    unit,
)
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network
from sharpness.plots.spectra_tables import CURVE, EIGENVALUE, common_threshold, end_of, width_asked
from sharpness.records import ProbeRecord

BEYOND = {"top": ("below", "upper"), "bottom": ("above", "lower")}
"""Of the first eigenvalue at each end: where its Ritz values lie, and which bound no vector proves."""


def density_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the spectral densities, with what each record says of the whole spectrum."""
    shown = drawn_records(networks, "density", rows_where(table, mark=CURVE))
    sizes = " and ".join(f"{size:,}" for size in sorted({record.details["size"] for _, record in shown}))
    draws = each(shown, _draws)
    converted = len({record.details["linear_threshold"] for _, record in shown}) > 1
    unit = ", the smallest of the networks', to which the others' densities are converted" if converted else ""
    widths = sorted({str(record.details["kernel_width"]) for _, record in shown if "kernel_width" in record.details})
    width = f" of standard deviation {', '.join(widths)} in s" if widths else ""
    text = (
        f"Density of the {matrices(shown)}'s eigenvalues by stochastic Lanczos quadrature ({draws}), smoothed by a "
        f"Gaussian kernel{width}, as the share of eigenvalues per unit of s = asinh(lambda / lambda_0), lambda_0 = "
        f"{common_threshold(networks):.2g}{unit}: the axis is linear within ±lambda_0 and logarithmic beyond. "
        f"{data(shown)}. {_band(table, shown)} Separate peaks are nodes of the quadrature: their mass is meaningful, "
        "the gaps between them are not; more steps resolve more. "
        f"Dotted: 1/n for n = {sizes} parameters, one eigenvalue per unit; bumps near that height are single "
        "eigenvalues, whose height one start estimates to no better than its own size. "
    )
    extremes = rows_where(table, mark=EIGENVALUE)
    if len(extremes):
        ends = each(drawn_records(networks, "eigenvalues", extremes), eigenvalues_of)
        text += f"Below: the {ends} by Lanczos on the same loss{intervals(extremes)}. "
    return f"{text}{' '.join(_spectrum(*pair) for pair in shown)} {missing(table, networks)}".strip()


def _draws(record: ProbeRecord) -> str:
    return f"{record.details['steps']} steps from {plural(record.details['num_starts'], 'random start')}"


def _band(table: pd.DataFrame, shown: Pairs) -> str:
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
        facts.append(
            f"trace {number(details['trace'])}{_error(details.get('trace_standard_error'))}{unit([(network, record)])}"
        )
    if details.get("effective_rank") is not None:
        facts.append(f"effective rank (sum |lambda|)^2 / sum lambda^2 = {number(details['effective_rank'])}")
    if details.get("num_negative") is not None:
        facts.append(_negatives(details))
    return f"{network.label}: {', '.join(facts)}." if facts else f"{network.label}: nothing else was estimated."


def _negatives(details: Mapping[str, Any]) -> str:
    """Give the proven bracket first: the sign of a spike at zero is beyond the quadrature, whatever its count."""
    count, bracket = number(details["num_negative"]), details.get("num_negative_bracket")
    if bracket is None or None in bracket:
        return f"{count}{_error(details.get('num_negative_standard_error'))} negative eigenvalues"
    ends = " to ".join(map(number, bracket))
    return f"{ends} negative eigenvalues (all that these starts leave open; the quadrature counts {count})"


def _error(value: float | None) -> str:
    return "" if value is None else f" ± {number(value, 2)} (standard error)"


def layers_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the layers' eigenvalues."""
    shown = drawn_records(networks, "layers", table)
    layers, matrix = table.dropna(subset=["position"]), matrices(shown)
    lines = (
        f"Vertical lines: the top eigenvalue of the whole network's {matrix}; a layer's block is a principal "
        "submatrix, so none of its eigenvalues exceeds it (Cauchy interlacing). "
        if len(layers) < len(table)
        else ""
    )
    ends = each(shown, eigenvalues_of)
    return (
        f"{ends[0].upper()}{ends[1:]} of each layer's diagonal block of the {matrix}, the layers in the network's "
        f"order from top to bottom, on an axis that is linear near zero and logarithmic beyond{intervals(layers)}. "
        f"{data(shown)}. {lines}{missing(table, networks)}"
    ).strip()


def convergence_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the interval of the first eigenvalue against products."""
    shown = drawn_records(networks, "eigenvalues", table)
    return f"{convergence_words(shown)} {data(shown)}. {missing(table, networks)}".strip()


def convergence_words(shown: Pairs) -> str:
    """Say what the curves of the first eigenvalue are and where they end, for each of the records."""
    finals = "; ".join(f"{network.label}: {_final(record)}" for network, record in shown)
    confidences = sorted({f"{100 * r.confidence:g} %" for _, r in shown if r.confidence is not None})
    sure = f" ({' or '.join(confidences)} confidence)" if confidences else ""
    ends = [end for end in BEYOND if end in {end_of(record) for _, record in shown}]
    curves = " or ".join(
        f"Ritz value ({place}) and {bound} bound{sure} of the {end} {matrices(shown)} eigenvalue"
        for end, (place, bound) in ((end, BEYOND[end]) for end in ends)
    )
    asked = any(width_asked(record) is not None for _, record in shown)
    widths = (
        "Dotted: the width asked for. A curve ends where its interval is that narrow, or with an open mark where it "
        "never was. "
    )
    return (
        f"{curves} after each Lanczos step, as the distance from "
        "the final Ritz value in per cent, on an axis that is linear near zero; shaded: the interval between the "
        f"proven bounds. {widths if asked else ''}Final: {finals}."
    )


def _final(record: ProbeRecord) -> str:
    lower, upper = (f"{x:.4g}" if x is not None else "unknown" for x in (record.lower, record.upper))
    side = BEYOND[end_of(record)][1]
    unknown = getattr(record, side) is None
    reason = f", no {side} bound: {record.reasons.get(side, 'not recorded')}" if unknown else ""
    products = plural(record.num_hvps, "product")
    return f"{record.value:.4g} in [{lower}, {upper}] after {products} for all eigenvalues asked for{reason}"

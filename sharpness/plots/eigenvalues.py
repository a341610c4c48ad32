"""All eigenvalues asked for with their intervals, above how the interval of the first one became narrow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpness.plots.artists import dot, legend_above, shown_in
from sharpness.plots.axes import asinh_axis, number_axis
from sharpness.plots.caption_text import (
    Pairs,
    data,
    drawn_records,
    each,
    eigenvalues_of,
    intervals,
    matrices,
    missing,
    plural,
)
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, with_record
from sharpness.plots.spectra import (
    CURVE,
    EIGENVALUE,
    LAYER_NUMBERS,
    eigenvalue_rows,
    end_of,
    numbers_of,
    spectra_frame,
    spectrum_label,
    strips,
    width_asked,
)
from sharpness.plots.style import COLUMN, Look
from sharpness.records import ProbeRecord

BOUNDS = ("ritz", "lower", "upper")
CONVERGENCE_NUMBERS = (*BOUNDS, *(f"{name}_percent" for name in BOUNDS))
COLUMNS = ("network", "mark", *LAYER_NUMBERS, "converged", "products", "ritz", *CONVERGENCE_NUMBERS[3:])
BEYOND = {"top": ("below", "upper"), "bottom": ("above", "lower")}
"""Of the first eigenvalue at each end: where its Ritz values lie, and which bound no vector proves."""


def eigenvalues_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return every eigenvalue with its interval (mark ``eigenvalue``) and the course of the first one (mark ``curve``).

    The columns of the course are those of :func:`convergence_table`.
    """
    rows = values_table(networks).to_dict("records")
    labels = {row["network"] for row in rows}
    curves = convergence_table([n for n in networks if n.label in labels]).assign(mark=CURVE)
    if curves.empty and len(rows) == len(labels):
        rows = []  # a single number has no figure
    table = pd.DataFrame([*rows, *curves.to_dict("records")], columns=pd.Index(COLUMNS))
    numbers = {*LAYER_NUMBERS, *CONVERGENCE_NUMBERS}
    return table.astype(dict.fromkeys(numbers, float) | {"converged": object, "products": "Int64"})


def values_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return every eigenvalue with its interval, also where it is a single number."""
    rows = [
        {"network": network.label, "mark": EIGENVALUE, **row}
        for network, record in with_record(networks, "eigenvalues")
        for row in eigenvalue_rows(record.details, record, record.converged)
    ]
    return spectra_frame(rows, ("network", "mark", *LAYER_NUMBERS, "converged"), LAYER_NUMBERS)


def eigenvalues_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the eigenvalues, a row per network, and below them the interval of the first one against products.

    Without a course, as after a warm start, there are the eigenvalues alone; where each network has one of them, there
    is its course alone.
    """
    values, curves = rows_where(table, mark=EIGENVALUE), rows_where(table, mark=CURVE)
    shown, followed = shown_in(values, networks), shown_in(curves, networks)
    if len(values) == len(shown):
        return convergence_figure(curves, networks)
    above = strips_height(len(shown))
    heights = [above, 1.7] if followed else [above]
    figure = Figure(figsize=(COLUMN, sum(heights) + (1.25 if followed else 0.8)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    draw_eigenvalues(axes[0], values, networks)
    if followed:
        draw_convergence(axes[1], curves, networks)
    legend_above(figure, shown, marked=True)
    return figure


def strips_height(num_networks: int) -> float:
    """Return how many inches so many rows of eigenvalues need."""
    return 0.12 + 0.17 * num_networks


def draw_eigenvalues(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
    """Draw the eigenvalues of :func:`values_table` with their intervals into axes, a row for each network."""
    shown = shown_in(table, networks)
    strips(ax, table, shown)
    number_axis(ax.xaxis, np.concatenate([floats(table, name) for name in LAYER_NUMBERS]))
    ax.set_xlabel(spectrum_label(shown, "eigenvalues"))


def eigenvalues_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of both panels."""
    values = rows_where(table, mark=EIGENVALUE)
    drawn = drawn_records(networks, "eigenvalues", values)
    followed = drawn_records(networks, "eigenvalues", rows_where(table, mark=CURVE))
    if len(values) == len(drawn):
        return convergence_caption(rows_where(table, mark=CURVE), networks)
    return (
        f"Above: eigenvalues of the {matrices(drawn)} by Lanczos ({each(drawn, eigenvalues_of)}){intervals(values)}. "
        f"{f'Below: {convergence_words(followed)} ' if followed else ''}{data(drawn)}. {missing(table, networks)}"
    ).strip()


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
            if len(values) == 2:  # the first records had a Ritz value and the upper bound alone
                values.insert(1, None)
            row = dict(zip(BOUNDS, numbers_of(values), strict=True))
            shares = {f"{name}_percent": 100 * (x - record.value) / abs(record.value) for name, x in row.items()}
            narrow = width is not None and bool(row["upper"] - row["lower"] <= width * abs(row["ritz"]))
            rows.append({"network": network.label, "products": products, **row, **shares, "converged": narrow})
            if narrow:
                break
    return spectra_frame(rows, ("network", "products", *CONVERGENCE_NUMBERS, "converged"), CONVERGENCE_NUMBERS)


def convergence_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the interval of the first eigenvalue against products, relative to its final value, in per cent."""
    shown = shown_in(table, networks)
    figure = Figure(figsize=(COLUMN, 2.5), layout="constrained")
    draw_convergence(figure.subplots(), table, networks)
    legend_above(figure, shown, marked=True)
    return figure


def draw_convergence(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
    """Draw the Ritz values, the bound beyond them, and the width asked for into axes."""
    shown = shown_in(table, networks)
    asked = {width_asked(network.records["eigenvalues"]) for network, _ in shown}
    rtols = sorted(width for width in asked if width is not None)
    ends = sorted({end_of(network.records["eigenvalues"]) for network, _ in shown}, reverse=True)
    for network, look in shown:
        _interval_curves(ax, rows_where(table, network=network.label), look, end_of(network.records["eigenvalues"]))
    # Of a bottom eigenvalue it is the lower bound that has the way to go.
    lines = [100 * rtol * {"top": 1, "bottom": -1}[end] for rtol in rtols for end in ends]
    for y in lines:
        ax.axhline(y, color="0.35", linestyle=":", linewidth=0.9, zorder=1)
        place = {"xy": (0.015, y), "xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        ax.annotate(f"asked: {abs(y):g} %", xytext=(0, 2), fontsize=6.5, **place)
    bounds = [floats(table, f"{name}_percent") for name in BOUNDS]
    asinh_axis(ax.yaxis, np.concatenate([*bounds, lines]), 100 * min(rtols, default=1e-2) / 10)
    symbol = {"top": r"\lambda_{\max}", "bottom": r"\lambda_{\min}"}[ends[0]] if len(ends) == 1 else r"\lambda"
    matrix = matrices([(network, network.records["eigenvalues"]) for network, _ in shown])
    ax.set(xlabel=f"{matrix}-vector products", ylabel=rf"Distance from the final ${symbol}$ (%)")
    ax.set_xlim(left=0)


def _interval_curves(ax: Axes, rows: pd.DataFrame, look: Look, end: str) -> None:
    """Draw one network's interval; the bound with a line of its own is the one that no vector proves."""
    x, (ritz, lower, upper) = floats(rows, "products"), (floats(rows, f"{name}_percent") for name in BOUNDS)
    far = upper if end == "top" else lower
    ax.fill_between(x, lower, upper, color=look.color, alpha=0.18, linewidth=0)
    ax.plot(x, ritz, color=look.color, linestyle=look.linestyle, linewidth=1.1)
    ax.plot(x, far, color=look.color, linestyle=look.linestyle, linewidth=1.1)
    dot(ax, float(x[-1]), float(ritz[-1]), look, rows["converged"].iloc[-1])
    for i in np.flatnonzero(np.isfinite(far))[-1:]:
        dot(ax, float(x[i]), float(far[i]), look, rows["converged"].iloc[-1])


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

"""The trace of a curvature matrix: its estimate and interval at every look that was taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpness.plots.artists import dot, legend_above, shown_in
from sharpness.plots.axes import log_axis, number_axis
from sharpness.plots.caption_text import (
    data,
    drawn_records,
    each,
    matrices,
    missing,
    number,
    plural,
    value_text,
    with_unit,
)
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, with_record
from sharpness.plots.style import COLUMN, new_figure
from sharpness.records import ProbeRecord

NUMBERS = ("estimate", "lower", "upper")
METHODS = {
    "xtrace": "XTrace",
    "hutch++": "Hutch++",
    "hutchinson": "Hutchinson's estimator",
    "krylov": "a Krylov sketch",
}


def trace_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return estimate and interval (nats) after so many products, a row per look; the last is what is reported.

    A trace that was looked at once is left out: it is one number.
    """
    rows = []
    for network, record in with_record(networks, "trace"):
        looks = np.array(record.details.get("looks") or np.empty((0, 3)), dtype=float)
        if record.value is None or len(looks) < 2:
            continue  # a single number has no figure
        for products, estimate, half_width in looks[:-1]:
            row = {"network": network.label, "products": int(products), "estimate": estimate, "converged": False}
            rows.append(row | {"lower": estimate - half_width, "upper": estimate + half_width})
        final = {"network": network.label, "products": record.num_hvps, "estimate": record.value}
        rows.append(final | {"lower": record.lower, "upper": record.upper, "converged": record.converged})
    table = pd.DataFrame(rows, columns=pd.Index(("network", "products", *NUMBERS, "converged")))
    return table.astype(dict.fromkeys(NUMBERS, float) | {"converged": object})


def trace_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the estimate against products with its interval as a band, and what is reported as a mark with a bar."""
    figure, axes = new_figure(COLUMN, 2.3)
    draw_trace(axes[0, 0], table, networks)
    legend_above(figure, shown_in(table, networks), marked=True)
    return figure


def draw_trace(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
    """Draw the estimates of :func:`trace_table` into axes."""
    shown = shown_in(table, networks)
    for network, look in shown:
        rows = rows_where(table, network=network.label)
        x, (estimate, lower, upper) = floats(rows, "products"), (floats(rows, name) for name in NUMBERS)
        ax.fill_between(x, lower, upper, color=look.color, alpha=0.18, linewidth=0)
        ax.plot(x, estimate, color=look.color, linestyle=look.linestyle, linewidth=1.1)
        ax.vlines(x[-1], lower[-1], upper[-1], color=look.color, linewidth=1.2, zorder=2)
        dot(ax, float(x[-1]), float(estimate[-1]), look, rows["converged"].iloc[-1])
    log_axis(ax.xaxis, floats(table, "products"))
    number_axis(ax.yaxis, np.concatenate([floats(table, name) for name in NUMBERS]))
    pairs = [(network, network.records["trace"]) for network, _ in shown]
    matrix = matrices(pairs)
    ax.set(xlabel=f"{matrix}-vector products", ylabel=with_unit(f"Trace of the {matrix}", pairs))


def trace_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: the estimator, the numbers reported, the Frobenius norm and the examples."""
    drawn = drawn_records(networks, "trace", table)
    finals = "; ".join(f"{network.label}: {_final(record)}" for network, record in drawn)
    levels = sorted({f"{100 * record.confidence:g} % " for _, record in drawn if record.confidence is not None})
    return (
        f"Trace of the {matrices(drawn)} ({each(drawn, _method)}) against products; band and bar: the "
        f"{' or '.join(levels)}interval at each look, which holds at all looks together. Mark: what is reported, open "
        f"where its interval is not as narrow as asked. {finals}. "
        f"{data(drawn)}. {missing(table, networks)}"
    ).strip()


def _method(record: ProbeRecord) -> str:
    return METHODS[record.details["method"]]


def _final(record: ProbeRecord) -> str:
    text = f"{value_text(record)} after {plural(record.num_hvps, 'product')}"
    if record.details.get("squared_frobenius") is not None:
        text += f", Frobenius norm {number(record.details['squared_frobenius'] ** 0.5)}"
    return text

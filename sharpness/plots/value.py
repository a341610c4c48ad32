"""The figure of any number: the value of each network with its interval as a dot on an axis, printed beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpness.plots.artists import dots, rows_of_networks, shown_in
from sharpness.plots.axes import number_axis
from sharpness.plots.caption_text import data, drawn_records, missing
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, with_record
from sharpness.records import ProbeRecord

NUMBERS = ("value", "lower", "upper", "confidence")


def value_table(networks: Sequence[Network], probe: str) -> pd.DataFrame:
    """Return one row per network whose record has a value: the value, its interval and what it is of."""
    rows = [
        {"network": network.label, "quantity": record.quantity, "converged": record.converged}
        | {name: getattr(record, name) for name in NUMBERS}
        for network, record in with_record(networks, probe)
        if record.value is not None and np.isfinite(record.value)
    ]
    columns = ("network", "quantity", *NUMBERS, "converged")
    return pd.DataFrame(rows, columns=pd.Index(columns)).astype(dict.fromkeys(NUMBERS, float) | {"converged": object})


def value_figure(table: pd.DataFrame, networks: Sequence[Network], probe: str) -> Figure:
    """Draw one row per network; numbers of several sizes get a logarithmic axis."""
    shown = shown_in(table, networks)
    figure, ax = rows_of_networks(shown, [value_text(network.records[probe]) for network, _ in shown])
    for height, (network, look) in enumerate(shown):
        dots(ax, rows_where(table, network=network.label), look, -height, "value")
    number_axis(ax.xaxis, np.concatenate([floats(table, name) for name in ("value", "lower", "upper")]))
    ax.set_xlabel(" or ".join(dict.fromkeys(title(quantity) for quantity in table["quantity"])))
    return figure


def value_caption(table: pd.DataFrame, networks: Sequence[Network], probe: str) -> str:
    """Return the caption: the quantity, what the bar is, and the examples."""
    drawn = drawn_records(networks, probe, table)
    quantities = " or ".join(dict.fromkeys(title(quantity) for quantity in table["quantity"]))
    levels = sorted({f"{100 * c:g} % " for c in floats(table, "confidence") if np.isfinite(c)})
    bounded = np.isfinite(floats(table, "lower")) | np.isfinite(floats(table, "upper"))
    bars = f"; bars: {' or '.join(levels)}intervals" if bounded.any() else "; no interval is known"
    missed = [flag is False for flag in table["converged"]]
    open_marks = "; open marks: not converged" if any(missed) else ""
    return (
        f"{quantities} by the probe {probe}, one row per network{bars}{open_marks}. {data(drawn)}. "
        f"{missing(table, networks)}"
    ).strip()


def title(quantity: str) -> str:
    """Return the name of a quantity as words.

    >>> title("distance_from_start")
    'Distance from start'
    """
    words = quantity.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def value_text(record: ProbeRecord) -> str:
    """Return a value with its interval as far as it is known, each with four digits.

    >>> value_text(ProbeRecord(probe="trace", quantity="trace", value=20.0, lower=19.5, upper=20.5))
    '20 [19.5, 20.5]'
    """
    ends = ["" if bound is None else f"{bound:.4g}" for bound in (record.lower, record.upper)]
    interval = f" [{ends[0] or '?'}, {ends[1] or '?'}]" if any(ends) else ""
    return f"{record.value:.4g}{interval}".replace("-", "\N{MINUS SIGN}")

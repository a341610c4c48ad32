"""The gradient of a batch: how its noise falls with the batch size, to where the gradient itself is as large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpness.plots.artists import dot, legend_above, shown_in
from sharpness.plots.axes import log_axis
from sharpness.plots.caption_text import data, drawn_records, missing, number
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, with_record
from sharpness.plots.style import COLUMN, Look, new_figure
from sharpness.records import ProbeRecord

ENDS = ("value", "lower", "upper")
COLUMNS = ("network", "mark", "batch_size", *ENDS)
NOISE, GRADIENT, SCALE = "noise", "gradient", "scale"
SIZES = 2.0 ** np.arange(15)


def noise_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return tr Sigma / B against the batch size B (mark ``noise``), |G|^2 (``gradient``) and B_simple (``scale``)."""
    rows: list[dict[str, Any]] = []
    for network, record in with_record(networks, "gradient_noise"):
        noise, square = (record.details.get(name) or {} for name in ("noise_trace", "gradient_square"))
        if not (noise.get("value") or 0) > 0:
            continue
        sizes = (
            SIZES if record.value is None else np.unique([*SIZES, 2.0 ** np.ceil(np.log2(max(record.value, 1)) + 1)])
        )
        for size in sizes:
            share = {end: None if noise.get(end) is None else noise[end] / size for end in ENDS}
            rows.append({"network": network.label, "mark": NOISE, "batch_size": size, **share})
        if square.get("value") is not None:
            rows.append({"network": network.label, "mark": GRADIENT, **{end: square.get(end) for end in ENDS}})
        if record.value is not None:
            ends = {end: getattr(record, end) for end in ENDS}
            rows.append({"network": network.label, "mark": SCALE, "batch_size": record.value, **ends})
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS)).astype(dict.fromkeys(COLUMNS[2:], float))


def noise_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the noise against the batch size in one panel."""
    figure, axes = new_figure(COLUMN, 2.4)
    draw_noise(axes[0, 0], table, networks)
    legend_above(figure, shown_in(table, networks), marked=True)
    return figure


def draw_noise(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
    """Draw the noise of :func:`noise_table` as a falling line, |G|^2 as a band, and B_simple where they meet."""
    noises = rows_where(table, mark=NOISE)
    values = floats(noises, "value")
    low, high = values.min(), values.max()
    for network, look in shown_in(table, networks):
        _draw_one(ax, rows_where(table, network=network.label), look, low / 30)
    log_axis(ax.xaxis, floats(noises, "batch_size"), padding=1.2)
    squares = floats(rows_where(table, mark=GRADIENT), "value")
    log_axis(ax.yaxis, [low, high, *squares[squares > low / 10]], padding=2)
    ax.set(xlabel="Batch size $B$ (examples)", ylabel=r"$\mathrm{tr}\,\Sigma/B$, dotted: $|G|^2$")


def _draw_one(ax: Axes, own: pd.DataFrame, look: Look, floor: float) -> None:
    noise = rows_where(own, mark=NOISE)
    x = floats(noise, "batch_size")
    lower, upper = (np.where(np.isfinite(floats(noise, e)), floats(noise, e), floats(noise, "value")) for e in ENDS[1:])
    ax.fill_between(x, np.clip(lower, floor, None), upper, color=look.color, alpha=0.2, linewidth=0)
    ax.plot(x, floats(noise, "value"), color=look.color, linestyle=look.linestyle, linewidth=1.2)
    for row in rows_where(own, mark=GRADIENT).itertuples():
        if np.isfinite(row.upper) and row.upper > floor:  # pyright: ignore[reportAttributeAccessIssue]
            ax.axhspan(max(row.lower, floor), row.upper, color=look.color, alpha=0.1, linewidth=0)  # pyright: ignore
        if row.value > floor:  # pyright: ignore
            ax.axhline(row.value, color=look.color, linestyle=":", linewidth=1.0)  # pyright: ignore
    for size in floats(rows_where(own, mark=SCALE), "batch_size"):
        at = float(np.interp(np.log(size), np.log(x), np.log(floats(noise, "value"))))
        dot(ax, float(size), float(np.exp(at)), look, converged=True)


def noise_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: what falls, what stays, and where they meet."""
    drawn = drawn_records(networks, "gradient_noise", table)
    scales = "; ".join(f"{network.label}: {_scale(record)}" for network, record in drawn)
    return (
        "Line: tr Sigma / B, the squared length of the noise in the gradient of B examples, with its interval; dotted, "
        "with a band: |G|^2, the squared length of the gradient itself. They meet at the simple noise scale B_simple = "
        "tr Sigma / |G|^2 (mark; McCandlish et al. 2018): below it a larger batch pays, far above it does not. Where "
        f"|G|^2 cannot be told from 0, as near a minimum, its band reaches down. B_simple: {scales}. {data(drawn)}. "
        f"{missing(table, networks)}"
    ).strip()


def _scale(record: ProbeRecord) -> str:
    if record.value is None:
        return f"none ({record.reasons.get('value', 'no reason given')})"
    low, high = ("?" if end is None else number(end) for end in (record.lower, record.upper))
    return f"{number(record.value)} [{low}, {high}]"

"""Every number of one network with its interval, as far as it lies from the value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sharpness.plots.artists import name_rows, places
from sharpness.plots.axes import asinh_axis
from sharpness.plots.caption_text import title, value_text
from sharpness.plots.frames import floats, records, rows_where
from sharpness.plots.networks import Network
from sharpness.plots.style import LOOKS
from sharpness.records import ProbeRecord
from sharpness.records.invariance import is_invariant

NUMBERS = ("value", "lower", "upper", "confidence", "lower_percent", "upper_percent")
COLUMNS = ("network", "probe", "quantity", *NUMBERS, "invariant", "converged")
EXACT = 0.1
"""Deviations in per cent up to which the axis of intervals is linear."""
CHECKS = ("pyhessian",)
"""Probes that repeat the number of another."""


def intervals_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return a row for each number of each network, those that no rescaling moves last; ``..._percent`` is drawn.

    These are the bounds as deviations from the value in per cent, 100 (bound - value) / |value|.
    """
    rows = []
    for network in networks:
        found = [record for record in network.records.values() if is_number(record)]
        for record in sorted(found, key=is_invariant):
            row: dict[str, Any] = {name: getattr(record, name) for name in (*COLUMNS[1:3], *NUMBERS[:4], "converged")}
            for end in ("lower", "upper"):
                bound = row[end]
                row[f"{end}_percent"] = None if bound is None else _percent(bound, row["value"])
            rows.append({"network": network.label, "invariant": is_invariant(record), **row})
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return table.astype(dict.fromkeys(NUMBERS, float) | {"converged": object, "invariant": bool})


def is_number(record: ProbeRecord) -> bool:
    return record.value is not None and np.isfinite(record.value) and record.probe not in CHECKS


def _percent(bound: float, value: float) -> float | None:
    return 100 * (bound - value) / abs(value) if value else None


def draw_intervals(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
    """Draw each number of the first network with its interval in per cent of it, the number printed beside."""
    network, look = networks[0], LOOKS[0]
    rows = records(rows_where(table, network=network.label))
    heights, heads = places([bool(row["invariant"]) for row in rows])
    for row, height in zip(rows, heights, strict=True):
        ends = [row[f"{end}_percent"] for end in ("lower", "upper")]
        low, high = (0.0 if end is None else end for end in ends)
        ax.hlines(height, low, high, color=look.color, linewidth=2.0, alpha=0.5, zorder=2)
        for end in ends:
            if end is not None:
                ax.plot(end, height, marker="|", color=look.color, markersize=5, markeredgewidth=1.1, zorder=2.5)
        face = "white" if row["converged"] is False else look.color
        ax.plot(0, height, marker="o", markersize=3, color=look.color, markerfacecolor=face, zorder=3)
        text = value_text(network.records[row["probe"]])
        ax.text(1.02, height, text, transform=ax.get_yaxis_transform(), va="center", fontsize=6.5)
    name_rows(ax, [title(row["quantity"]) for row in rows], heights, heads)
    bounds = np.concatenate([[0.0], floats(table, "lower_percent"), floats(table, "upper_percent")])
    asinh_axis(ax.xaxis, bounds if np.ptp(bounds[np.isfinite(bounds)]) else np.array([-1.0, 1.0]), EXACT, max_labels=9)
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
    ax.set_xlabel("Interval: distance from the value (%)")

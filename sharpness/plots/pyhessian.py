"""PyHessian's top eigenvalue beside ours, relative to ours and with our interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpness.plots.artists import dot, rows_of_networks, shown_in
from sharpness.plots.axes import asinh_axis
from sharpness.plots.caption_text import data, drawn_records, missing
from sharpness.plots.frames import floats, records
from sharpness.plots.networks import Network, with_record

NUMBERS = ("pyhessian", "ours", "lower", "upper", "agreement", "pyhessian_percent", "lower_percent", "upper_percent")
CROSS: dict[str, Any] = {"marker": "x", "markersize": 5, "markeredgewidth": 1.2, "linestyle": ""}


def pyhessian_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return both eigenvalues and our interval (nats); the columns ``..._percent`` are relative to ours, as drawn."""
    rows = []
    for network, record in with_record(networks, "pyhessian"):
        ours, details = record.details.get("ours"), record.details
        if record.value is None or not ours:
            continue  # nothing is relative to zero
        row = {"pyhessian": record.value, "lower": details["ours_lower"], "upper": details["ours_upper"]}
        shares = {f"{name}_percent": 100 * (x - ours) / abs(ours) for name, x in row.items()}
        agreement = record.knobs["agreement"]
        rows.append(
            {"network": network.label, "ours": ours, "agreement": agreement, "agree": details["agree"], **row, **shares}
        )
    return pd.DataFrame(rows, columns=pd.Index(("network", *NUMBERS, "agree"))).astype(dict.fromkeys(NUMBERS, float))


def pyhessian_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw a row per network: ours at 0 with its interval, PyHessian's as a cross, both values beside."""
    shown, rows = shown_in(table, networks), records(table)
    texts = [f"{row['pyhessian']:.5g} vs {row['ours']:.5g}" for row in rows]
    figure, ax = rows_of_networks(shown, texts, extra=0.35)
    for height, ((_, look), row) in enumerate(zip(shown, rows, strict=True)):
        ax.hlines(-height, row["lower_percent"], row["upper_percent"], color=look.color, linewidth=1.2, zorder=2)
        dot(ax, 0.0, -height, look, converged=True)
        ax.plot(row["pyhessian_percent"], -height, color=look.color, clip_on=False, zorder=4, **CROSS)
    limits = 100 * np.array(sorted(set(floats(table, "agreement"))))
    for limit in (*limits, *-limits):
        ax.axvline(limit, color="0.35", linestyle=":", linewidth=0.9, zorder=1)
    drawn = [floats(table, name) for name in NUMBERS if name.endswith("percent")]
    asinh_axis(ax.xaxis, np.concatenate([*drawn, limits, -limits]), limits.min() / 20, max_labels=14)
    ax.set_xlabel("Difference from ours (%)")
    marks = [
        Line2D([], [], color="0.3", label="PyHessian", **CROSS),
        Line2D([], [], color="0.3", marker="o", markersize=3.6, label="ours, with its interval"),
    ]
    marks.append(Line2D([], [], color="0.35", linestyle=":", linewidth=0.9, label="agreement asked for"))
    figure.legend(handles=marks, loc="outside upper center", ncols=2)
    return figure


def pyhessian_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: what is compared, the verdicts, and the examples."""
    drawn = drawn_records(networks, "pyhessian", table)
    verdicts = "; ".join(
        f"{row['network']}: {row['pyhessian']:.5g} against {row['ours']:.5g} in [{row['lower']:.5g}, "
        f"{row['upper']:.5g}], {'agreement' if row['agree'] else 'DISAGREEMENT'}"
        for row in records(table)
    )
    return (
        "Top Hessian eigenvalue by PyHessian's power iteration (cross) relative to ours (mark, with its proven "
        "interval), on an axis that is linear near zero; at the right both values, PyHessian's first. Dotted: the "
        f"difference up to which the two count as agreeing. {verdicts}. {data(drawn)}. {missing(table, networks)}"
    ).strip()

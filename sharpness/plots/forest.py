"""Ratios of all measures between networks: those that a rescaling of the weights moves, and those that it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sharpness.plots.artists import dot, name_rows, places, shown_in
from sharpness.plots.axes import log_axis
from sharpness.plots.caption_text import data, title
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.intervals import is_number
from sharpness.plots.networks import Network
from sharpness.records import ProbeRecord, deciding_knobs
from sharpness.records.invariance import is_invariant

RATIOS = ("ratio", "lower", "upper")
COLUMNS = ("network", "probe", "quantity", "first", "value", *RATIOS, "invariant", "apart")


def forest_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return the ratio of each measure of each further network to that of the first, invariant ones last.

    Both were measured with the same knobs and are positive. The interval is that of all pairs of points of the two
    intervals, ``lower_2 / upper_1`` to ``upper_2 / lower_1``, so it holds wherever both do; without both it is not
    known.
    """
    first, rows = networks[0], []
    for network in networks[1:]:
        for probe, record in network.records.items():
            base = first.records.get(probe)
            if base is None or not _comparable(base, record):
                continue
            bounds = dict(zip(RATIOS, ratio(base, record), strict=True))
            values = {"first": base.value, "value": record.value, "invariant": is_invariant(record)}
            low, high = bounds["lower"], bounds["upper"]
            apart = low is not None and high is not None and (low > 1 or high < 1)
            exact = {base.lower, base.upper, record.lower, record.upper} == {None}
            names = {"network": network.label, "probe": probe, "quantity": record.quantity}
            rows.append({**names, **values, **bounds, "apart": apart or exact})
    rows.sort(key=lambda row: row["invariant"])
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return table.astype(dict.fromkeys(("first", "value", *RATIOS), float) | {"invariant": bool, "apart": bool})


def _comparable(base: ProbeRecord, record: ProbeRecord) -> bool:
    """Return whether both are positive numbers of one definition: same quantity, knobs and examples."""
    numbers = is_number(base) and is_number(record) and min(base.value or 0, record.value or 0) > 0
    alike = base.quantity == record.quantity and deciding_knobs(base.knobs) == deciding_knobs(record.knobs)
    return numbers and alike and base.data_sha256 == record.data_sha256


def ratio(base: ProbeRecord, record: ProbeRecord) -> tuple[float, float | None, float | None]:
    """Return a ratio of two positive values with its bounds.

    >>> base = ProbeRecord(probe="trace", quantity="trace", value=2.0, lower=1.0, upper=4.0)
    >>> ratio(base, ProbeRecord(probe="trace", quantity="trace", value=8.0, lower=8.0, upper=None))
    (4.0, 2.0, None)
    """
    assert base.value and record.value
    low = record.lower / base.upper if record.lower is not None and base.upper else None
    high = record.upper / base.lower if record.upper is not None and base.lower and base.lower > 0 else None
    return record.value / base.value, None if low is None else max(low, 0.0), high


def draw_forest(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
    """Draw the ratios on a logarithmic axis, a row for each measure, filled where the interval leaves 1 out."""
    order = table.drop_duplicates("probe")
    heights, heads = places([bool(each) for each in order["invariant"]])
    at = dict(zip(order["probe"], heights, strict=True))
    shown = shown_in(table, networks)
    for position, (network, look) in enumerate(shown):
        offset = 0.5 * (0.5 - (position + 0.5) / len(shown))
        for row in rows_where(table, network=network.label).to_dict("records"):
            height = at[row["probe"]] + offset
            low, high = (row[end] if np.isfinite(row[end]) else row["ratio"] for end in RATIOS[1:])
            ax.hlines(height, max(low, 1e-300), high, color=look.color, linewidth=1.3, zorder=2)
            dot(ax, row["ratio"], height, look, converged=bool(row["apart"]))
            if len(shown) == 1:
                text = f"{row['ratio']:.3g}"
                ax.text(1.02, height, text, transform=ax.get_yaxis_transform(), va="center", fontsize=6.5)
    name_rows(ax, [title(name) for name in order["quantity"]], heights, heads)
    ends = np.concatenate([floats(table, name) for name in RATIOS])
    log_axis(ax.xaxis, [*ends[np.isfinite(ends) & (ends > 1e-6)], 1.0], padding=1.2)
    ax.axvline(1, color="0.35", linewidth=0.9, zorder=1)
    ax.set_xlabel(f"Ratio to {networks[0].label}".replace("$", "\\$"))


def forest_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the ratios."""
    first, drawn = networks[0], set(table["probe"])
    pairs = [(network, record) for network in networks for record in network.records.values()]
    lost = [title(record.quantity) for _, record in pairs if is_number(record) and record.probe not in drawn]
    names = ", ".join(dict.fromkeys(lost))
    without = f" Without a ratio, since one of both is missing, not positive or of another setting: {names}."
    return (
        f"Each measure over that of {first.label}, on a logarithmic axis; bars: from the smallest to the largest ratio "
        "of points of the two intervals, so they hold where both do; without a bar an interval is not known. Open: "
        "1 lies in that bar, or it has an end that is not known. Below: measures that stay where they are when "
        "layers are rescaled so that no output changes (Dinh et al. 2017); those above can be made as large as one "
        "likes."
        f"{without if lost else ''} {data(pairs[:1])}."
    )

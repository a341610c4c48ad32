"""Loss and accuracy along a trained curve between two checkpoints, and on the straight line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpness.plots.caption_text import data, drawn_records, missing, number, plural, unit
from sharpness.plots.frames import floats
from sharpness.plots.networks import Network, far_end, with_record
from sharpness.plots.two_paths import end_names, gaps_text, path_rows, path_table, paths_figure
from sharpness.records import ProbeRecord

NAMES = {"line": "straight line", "curve": "trained curve"}
CURVES = {"bezier": "Bezier curve", "chain": "polygonal chain"}


def connectivity_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return loss and accuracy against t of the curve and of the line."""
    rows = []
    for network, record in with_record(networks, "connectivity"):
        details = record.details
        for path, curves in (("line", details["line"]), ("curve", details)):
            rows += path_rows(network.label, path, details["ts"], curves)
    return path_table(rows)


def connectivity_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw curve and line on one axis."""
    drawn = drawn_records(networks, "connectivity", table)
    return paths_figure(table, networks, drawn, NAMES, "$t$ along the path")


def connectivity_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: the ends, the curve and its training, both barriers, the examples."""
    drawn = drawn_records(networks, "connectivity", table)
    texts = {n.label: _paths(networks, n, record) for n, record in drawn}
    several = [f"{label}: {text}" if len(texts) > 1 else text for label, text in texts.items()]
    dashed = " (train solid, test dashed)" if np.isfinite(floats(table, "test_loss")).any() else ""
    alone = [n for n in networks if n not in [far_end(networks, record) for _, record in drawn]]
    return (
        f"Loss and any accuracy{dashed} at the measured points of a trained curve and of the straight line between two "
        f"checkpoints. {' '.join(several)} Broad bars: the largest rise of the train loss above the chord of its "
        f"ends.{gaps_text(table)} {data(drawn)}. {missing(table, alone)}"
    ).strip()


def _paths(networks: Sequence[Network], network: Network, record: ProbeRecord) -> str:
    first, second = end_names(networks, network, record)
    details, words = record.details, unit([(network, record)])
    values = (record.value, details.get("line_barrier"))
    curve, line = ("unknown" if value is None else number(value) + words for value in values)
    why = f" ({record.reasons['value']})" if record.value is None and "value" in record.reasons else ""
    return (
        f"From {first} (t = 0) to {second} (t = 1): {CURVES[details['curve']]} with {plural(details['bends'], 'bend')} "
        f"after {details['steps']:,} steps, largest rise {curve}{why}; on the line {line}."
    )

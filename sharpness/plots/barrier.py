"""Loss and accuracy on the line between two checkpoints, before and after the units of the second are permuted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpness.plots.caption_text import data, drawn_records, missing, number, unit
from sharpness.plots.frames import floats
from sharpness.plots.networks import Network, far_end, with_record
from sharpness.plots.two_paths import end_names, gaps_text, path_rows, path_table, paths_figure
from sharpness.records import ProbeRecord

NAMES = {"plain": "as they are", "matched": "after matching"}


def barrier_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return loss and accuracy against alpha of both lines, as far as they are there."""
    rows = []
    for network, record in with_record(networks, "barrier"):
        lines = [(path, record.details.get(path)) for path in NAMES]
        rows += [row for path, line in lines if line for row in path_rows(network.label, path, line["alphas"], line)]
    return path_table(rows)


def barrier_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw both lines on one axis."""
    label = r"$\alpha$ in $(1-\alpha)\,w_0 + \alpha\,w_1$"
    return paths_figure(table, networks, drawn_records(networks, "barrier", table), NAMES, label)


def barrier_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: the ends, both barriers, what the matching did, the examples."""
    drawn = drawn_records(networks, "barrier", table)
    texts = {n.label: _lines(networks, n, record) for n, record in drawn}
    several = [f"{label}: {text}" if len(texts) > 1 else text for label, text in texts.items()]
    dashed = " (train solid, test dashed)" if np.isfinite(floats(table, "test_loss")).any() else ""
    alone = [n for n in networks if n not in [far_end(networks, record) for _, record in drawn]]
    return (
        f"Loss and any accuracy{dashed} at the measured points of the line between two checkpoints, as they are and "
        f"after the hidden units of the second were permuted to match those of the first. {' '.join(several)} "
        f"Broad bars: the largest rise of the train loss above the chord of its ends, the barrier.{gaps_text(table)} "
        f"{data(drawn)}. {missing(table, alone)}"
    ).strip()


def _lines(networks: Sequence[Network], network: Network, record: ProbeRecord) -> str:
    first, second = end_names(networks, network, record)
    details, words = record.details, unit([(network, record)])
    text = f"From {first} (alpha = 0) to {second} (alpha = 1): barrier {_value(record.value, words)} as they are"
    if not details.get("matched"):
        return f"{text}; no line after matching: {record.reasons.get('matched', 'no reason given')}."
    text += f", {_value(details['matched']['barrier'], words)} after matching"
    facts = details.get("matching") or {}
    if {"moved", "units"} <= facts.keys():
        text += f", which moved {facts['moved']:,} of {facts['units']:,} units"
    return f"{text}."


def _value(value: float | None, words: str) -> str:
    return "unknown" if value is None else number(value) + words

"""Loss and accuracy along two paths between the same two checkpoints: how the second lowers the barrier."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpness.errors import unknown_name
from sharpness.plots.artists import label_text
from sharpness.plots.axes import number_axis
from sharpness.plots.caption_text import Pairs, data, drawn_records, missing, plural, rise_text, with_unit
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.line import CURVES, SPLITS
from sharpness.plots.networks import Network, end_names, with_record
from sharpness.plots.style import COLUMN, FULL, LOOKS, Look, new_figure
from sharpness.records import ProbeRecord

CHORD: dict[str, Any] = {"color": "0.45", "linestyle": ":", "linewidth": 0.9}
WIDTHS = (5.0, 1.8)
"""Points of the bars at the largest rises: those of both paths are seen where they stand in one place."""
SHAPES = {"bezier": "Bezier curve", "chain": "polygonal chain"}


@dataclass(frozen=True)
class Paths:
    """The two paths of a probe by their names in legends, and the label of what runs along them from 0 to 1."""

    names: Mapping[str, str]
    label: str


LINES = Paths({"plain": "as they are", "matched": "after matching"}, r"$\alpha$ in $(1-\alpha)\,w_0 + \alpha\,w_1$")
PATHS = Paths({"line": "straight line", "curve": "trained curve"}, "$t$ along the path")


def barrier_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return loss and accuracy against alpha of both lines, as far as they are there."""
    rows = []
    for network, record in with_record(networks, "barrier"):
        lines = [(path, record.details.get(path)) for path in LINES.names]
        rows += [row for path, line in lines if line for row in path_rows(network.label, path, line["alphas"], line)]
    return path_table(rows)


def barrier_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw both lines on one axis."""
    return paths_figure(table, networks, drawn_records(networks, "barrier", table), LINES)


def barrier_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: the ends, both barriers, what the matching did, the examples."""
    what = (
        "the line between two checkpoints, as they are and after the hidden units of the second were permuted to match "
        "those of the first"
    )
    return _caption(table, networks, "barrier", what, ", the barrier", _lines)


def _lines(record: ProbeRecord, first: str, second: str) -> str:
    details = record.details
    text = f"From {first} (alpha = 0) to {second} (alpha = 1): barrier {rise_text(record, record.value)} as they are"
    if not details.get("matched"):
        return f"{text}; no line after matching: {record.reasons.get('matched', 'no reason given')}."
    text += f", {rise_text(record, details['matched']['barrier'])} after matching"
    facts = details.get("matching") or {}
    if {"moved", "units"} <= facts.keys():
        text += f", which moved {facts['moved']:,} of {facts['units']:,} units"
    return f"{text}."


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
    return paths_figure(table, networks, drawn_records(networks, "connectivity", table), PATHS)


def connectivity_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption: the ends, the curve and its training, both barriers, the examples."""
    what = "a trained curve and of the straight line between two checkpoints"
    return _caption(table, networks, "connectivity", what, "", _curve)


def _curve(record: ProbeRecord, first: str, second: str) -> str:
    details = record.details
    why = f" ({record.reasons['value']})" if record.value is None and "value" in record.reasons else ""
    return (
        f"From {first} (t = 0) to {second} (t = 1): {SHAPES[details['curve']]} with {plural(details['bends'], 'bend')} "
        f"after {details['steps']:,} steps, largest rise {rise_text(record, record.value)}{why}; on the line "
        f"{rise_text(record, details.get('line_barrier'))}."
    )


def _caption(
    table: pd.DataFrame,
    networks: Sequence[Network],
    probe: str,
    what: str,
    name: str,
    describe: Callable[[ProbeRecord, str, str], str],
) -> str:
    """Return the caption of two paths: ``describe`` says of a record and the names of its ends what was found."""
    drawn = drawn_records(networks, probe, table)
    texts = [(n.label, describe(record, *end_names(networks, n, record))) for n, record in drawn]
    several = " ".join(f"{label}: {text}" if len(texts) > 1 else text for label, text in texts)
    dashed = " (train solid, test dashed)" if np.isfinite(floats(table, "test_loss")).any() else ""
    return (
        f"Loss and any accuracy{dashed} at the measured points of {what}. {several} Broad bars: the largest rise of "
        f"the train loss above the chord of its ends{name}.{gaps_text(table)} {data(drawn)}. "
        f"{missing(table, networks, drawn)}"
    ).strip()


def path_rows(label: str, path: str, ts: Sequence[float], curves: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return loss (nats) and accuracy (%) along one path, a row for each ``t``."""
    known = {name: np.array(curves[name], dtype=float) for name in CURVES if curves.get(name) is not None}
    return [
        {"network": label, "path": path, "t": t}
        | {name: (100 if name.endswith("accuracy") else 1) * values[i] for name, values in known.items()}
        for i, t in enumerate(ts)
    ]


def path_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table, without the networks that have no finite loss on any path."""
    table = pd.DataFrame(rows, columns=pd.Index(("network", "path", "t", *CURVES)))
    table = table.astype(dict.fromkeys(("t", *CURVES), float))
    finite = np.isfinite(floats(table, "train_loss")) | np.isfinite(floats(table, "test_loss"))
    labels = [label for label, is_finite in zip(table["network"], finite, strict=True) if is_finite]
    return cast(pd.DataFrame, table.loc[np.isin(list(table["network"]), labels)])


def paths_figure(table: pd.DataFrame, networks: Sequence[Network], drawn: Pairs, paths: Paths) -> Figure:
    """Draw a row of panels per network: loss and, where it is known, accuracy."""
    kinds = _kinds(table)
    width = COLUMN if len(kinds) == 1 else FULL
    figure, axes = new_figure(width, 2.1 * len(drawn) + 0.35, len(drawn), len(kinds))
    for row, (network, record) in zip(axes, drawn, strict=True):
        for ax, kind in zip(row, kinds, strict=True):
            draw_paths(ax, table, network, record, paths, kind)
            ends = end_names(networks, network, record)
            ax.set_title(f"0: {label_text(ends[0])}\n1: {label_text(ends[1])}", loc="left", linespacing=1.0)
    handles = path_handles(table, paths, kinds)
    columns = len(handles) if width == FULL else 3
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.2, columnspacing=1.2)
    return figure


def draw_paths(
    ax: Axes, table: pd.DataFrame, network: Network, record: ProbeRecord, paths: Paths, kind: str = "loss"
) -> None:
    """Draw the loss or the accuracy of one network's record along both paths into axes.

    The grey dotted line is the chord of the train loss between the ends, and the broad bars are the largest rises above
    it. :class:`InputError` for a ``kind`` that was not measured.
    """
    rows = rows_where(table, network=network.label)
    if kind not in _kinds(table):
        raise unknown_name("quantity of the paths", kind, _kinds(table))
    splits = _splits(table)
    for look, path, bar in zip(LOOKS, paths.names, WIDTHS, strict=False):
        _path(ax, rows_where(rows, path=path), kind, splits, look)
        if kind == "loss":
            _rise(ax, rows_where(rows, path=path), look.color, bar)
    ax.set(xlim=(-0.02, 1.02), xlabel=paths.label)
    if kind == "accuracy":
        ax.set(ylim=(-2, 102), ylabel="Accuracy (%)")
    else:
        number_axis(ax.yaxis, np.concatenate([floats(rows, f"{split}_loss") for split in splits]))
        ax.set_ylabel(with_unit("Loss", [(network, record)]))


def path_handles(table: pd.DataFrame, paths: Paths, kinds: Collection[str]) -> list[Line2D]:
    """Return what a legend says of the paths that are there, of train and test where both are, and a loss's chord."""
    shown = set(table["path"])
    handles = [
        look.handle(name, linestyle="-", markersize=3)
        for look, (path, name) in zip(LOOKS, paths.names.items(), strict=False)
        if path in shown
    ]
    splits = _splits(table)
    if len(splits) > 1:
        handles += [Line2D([], [], color="0.4", linestyle=SPLITS[split], label=split) for split in splits]
    return [*handles, Line2D([], [], label="chord", **CHORD)] if "loss" in kinds else handles


def _finite(table: pd.DataFrame) -> list[str]:
    return [name for name in CURVES if np.isfinite(floats(table, name)).any()]


def _kinds(table: pd.DataFrame) -> list[str]:
    return [kind for kind in ("loss", "accuracy") if any(name.endswith(kind) for name in _finite(table))]


def _splits(table: pd.DataFrame) -> list[str]:
    return [split for split in SPLITS if any(name.startswith(split) for name in _finite(table))]


def _path(ax: Axes, rows: pd.DataFrame, kind: str, splits: Sequence[str], look: Look) -> None:
    for split in splits:
        face = look.color if split == "train" else "white"
        style: dict[str, Any] = {"color": look.color, "linestyle": SPLITS[split], "linewidth": 1.1, "zorder": 3}
        dots: dict[str, Any] = {"marker": look.marker, "markersize": 2.2, "markeredgewidth": 0.5}
        values = floats(rows, f"{split}_{kind}")
        ax.add_line(Line2D(floats(rows, "t"), values, markerfacecolor=face, **style, **dots))


def _rise(ax: Axes, rows: pd.DataFrame, color: str, width: float) -> None:
    """Draw the chord and the largest rise of the measured train losses above it, if both ends are finite."""
    t, losses = floats(rows, "t"), floats(rows, "train_loss")
    if not (len(t) and np.isfinite(losses[[0, -1]]).all()):
        return
    chord = (1 - t) * losses[0] + t * losses[-1]
    top = int(np.nanargmax(losses - chord))
    ax.add_line(Line2D(t, chord, zorder=2, **CHORD))
    bar: dict[str, Any] = {"color": color, "linewidth": width, "alpha": 0.5, "solid_capstyle": "butt", "zorder": 2.5}
    ax.add_line(Line2D([t[top], t[top]], [chord[top], losses[top]], **bar))


def gaps_text(table: pd.DataFrame) -> str:
    """Say how many losses are not finite and so not drawn."""
    known = [name for name in ("train_loss", "test_loss") if np.isfinite(floats(table, name)).any()]
    values = np.concatenate([floats(table, name) for name in known])
    bad = int(np.sum(~np.isfinite(values)))
    return f" {bad} of {len(values)} losses are not finite and not drawn." if bad else ""

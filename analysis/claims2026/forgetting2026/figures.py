"""The figures of forgetting and rounding: damages against sharpness, the way through the second text, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims2026.forgetting2026.numbers import ARMS
from analysis.report.report import Drawing
from sharpness.plots.axes import log_axis, number_axis
from sharpness.plots.frames import floats, groups, rows_if, rows_where
from sharpness.plots.seeds import marks, scatter
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure

LOOK = dict(zip(ARMS, (*LOOKS, Look("#d55e00", "v", "-")), strict=True))
NATS = "nats a byte"


def damage_figure(rows: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the rises under rounding to 4 and 3 bits and the forgetting against the top eigenvalue."""
    if rows.empty:
        return "no network was measured"
    named = {"measured_4": "Rise at 4 bits", "measured_3": "Rise at 3 bits", "forgetting": "Forgetting"}
    shown = {name: label for name, label in named.items() if name in rows}
    figure, axes = new_figure(COLUMN, 0.9 + 1.6 * len(shown), len(shown), 1)
    for ax, (name, label) in zip(axes[:, 0], shown.items(), strict=True):
        scatter(ax, rows, "top_eigenvalue", name, s=22, alpha=0.85, **marks("arm", LOOK))
        log_axis(ax.xaxis, floats(rows, "top_eigenvalue"))
        number_axis(ax.yaxis, floats(rows, name))
        ax.set(ylabel=f"{label}\n({NATS})")
    axes[-1, 0].set_xlabel(r"$\lambda_{\max}$ (nats)")
    figure.align_ylabels(axes)
    figure.legend(handles=_handles(linestyle=""), loc="outside upper center", ncols=3)
    caption = (
        "A language model's top eigenvalue where training on the first text ended, and what happened to it: the rise "
        "of its loss when the weights are rounded to 4 and to 3 bits, and the rise of its test loss on the first text "
        f"until that on the second came down to a fixed value. A mark for each network, five ends of training. {note}"
    )
    return Drawing(figure, rows.filter(["arm", "seed", "top_eigenvalue", *shown]), caption)


def path_figure(path: pd.DataFrame, target: float, note: str) -> Drawing | str:
    """Draw the loss on the first text against that on the second, a line for each way to end the training."""
    if path.empty:
        return "no fine-tuning was measured"
    means = means_over_seeds(path)
    figure, axes = new_figure(COLUMN, 2.9)
    ax = axes[0, 0]
    # Along the way no loss need be unique, so that the points are joined in the order of the updates.
    for arm, look in LOOK.items():
        own = rows_where(means, arm=arm).sort_values("step")
        every = max(1, len(own) // 6)
        ax.plot(floats(own, "second_loss"), floats(own, "first_loss"), markevery=every, **look.artist)
    ax.axvline(target, color="0.5", linestyle=":", linewidth=1)
    for axis, name in ((ax.xaxis, "second_loss"), (ax.yaxis, "first_loss")):
        number_axis(axis, floats(means, name))
    ax.invert_xaxis()
    ax.set(xlabel=f"Loss on the second text ({NATS})", ylabel=f"Loss on the first text ({NATS})")
    figure.legend(handles=_handles(), loc="outside upper center", ncols=3)
    caption = (
        "Test losses of both texts while the second is learnt, from left to right, mean over the seeds at each look. "
        f"Lower is better. Dotted: the loss on the second text at which forgetting is read. {note}"
    )
    return Drawing(figure, path.filter(["arm", "seed", "step", "first_loss", "second_loss"]), caption)


def means_over_seeds(path: pd.DataFrame) -> pd.DataFrame:
    """Return the mean losses of both texts over the seeds for each arm and step."""
    found = [
        {"arm": arm, "step": step} | {name: floats(rows, name).mean() for name in ("first_loss", "second_loss")}
        for arm, own in groups(path, "arm")
        for step, rows in groups(own, "step")
    ]
    return pd.DataFrame(found)


def predicted_figure(rows: pd.DataFrame, bits: Sequence[int], note: str) -> Drawing | str:
    """Draw the measured rise under rounding and drift against the expected one, a colour for each change."""
    if rows.empty:
        return "no network was measured"
    numbers = predictions_of(rows, bits)
    looks: Mapping[Any, Look] = dict(zip(dict.fromkeys(numbers["change"]), LOOKS, strict=False))
    figure, axes = new_figure(COLUMN, 2.9)
    ax = axes[0, 0]
    both = np.concatenate([floats(numbers, "expected"), floats(numbers, "measured")])
    positive = both[both > 0]
    log_axis(ax.xaxis, positive, 1.5)
    log_axis(ax.yaxis, positive, 1.5)
    ends = np.array([positive.min(), positive.max()]) if len(positive) else np.array([0.1, 1.0])
    ax.plot(ends, ends, color="0.5", linestyle=":", linewidth=1)
    scatter(ax, numbers, "expected", "measured", s=18, alpha=0.85, **marks("change", looks))
    ax.set(xlabel=f"Expected rise ({NATS})", ylabel=f"Measured rise ({NATS})")
    handles = [look.handle(change, linestyle="") for change, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    caption = (
        "The rise of the loss when the weights are rounded, or drift as far as the second text moves them, as "
        "measured, against what the curvature says that it will be on average over independent errors of rounding, or "
        f"over random directions; a mark for each network and change, log axes. {not_drawn(numbers)} Dotted: equal. "
        f"{note}"
    )
    return Drawing(figure, numbers, caption)


def predictions_of(rows: pd.DataFrame, bits: Sequence[int]) -> pd.DataFrame:
    """Return the expected and the measured rise of each network under each change, NaN for none."""
    changes = {f"{b} bits": str(b) for b in bits} | {"drift": "drift"}
    parts = [
        rows.filter(["arm", "seed"]).assign(
            change=change, expected=floats(rows, f"expected_{of}"), measured=floats(rows, f"measured_{of}")
        )
        for change, of in changes.items()
    ]
    return pd.concat(parts)


def not_drawn(numbers: pd.DataFrame) -> str:
    """Say how many rises log axes cannot show, and under which change.

    >>> table = pd.DataFrame({"change": ["8 bits", "8 bits", "drift"], "expected": 1.0, "measured": [-1.0, 2.0, 3.0]})
    >>> not_drawn(table)
    '1 of 3 rises is not positive and not drawn (8 bits: 1).'
    """
    below = (floats(numbers, "measured") <= 0) | (floats(numbers, "expected") <= 0)
    total, by = int(below.sum()), rows_if(numbers, below)["change"].value_counts(sort=False)
    where = ", ".join(f"{change}: {count}" for change, count in by.items())
    verb = "is" if total == 1 else "are"
    return f"{total} of {len(numbers)} rises {verb} not positive and not drawn{f' ({where})' if total else ''}."


def _handles(**style: Any) -> list[Any]:
    return [look.handle(arm, **style) for arm, look in LOOK.items()]

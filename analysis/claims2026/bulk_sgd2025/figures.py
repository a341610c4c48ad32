"""The figures of learning and the top eigenspace: the loss along branches, and how much each kind learns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis.claims2026.bulk_sgd2025.numbers import arms
from analysis.report.report import Drawing
from sharpness.plots.frames import floats, records, rows_if, rows_where
from sharpness.plots.seeds import mean_of_seeds
from sharpness.plots.style import COLUMN, LOOKS, new_figure

LOOK = dict(zip(("plain", "dominant", "bulk", "full batch"), LOOKS, strict=True))
NAMES = {"plain": "whole", "dominant": "within", "bulk": "without", "full batch": "full batches"}
VALUES = {"color": "0.3", "linestyle": ":", "linewidth": 1.0}


def falls_figure(summary: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the share of the loss's fall with updates within the top eigenspace and without it, a mark per seed."""
    shown = rows_if(summary, np.isfinite(floats(summary, "dominant")) | np.isfinite(floats(summary, "bulk")))
    if shown.empty:
        return "no loss fell far enough to be compared with"
    places = arms(shown)
    figure, axes = new_figure(COLUMN, 1.0 + 0.27 * len(places))
    ax = axes[0, 0]
    for value in (0, 1):
        ax.axvline(value, **VALUES)
    for row in records(shown):
        for kind in ("dominant", "bulk"):
            if row[kind] is not None:
                look = LOOK[kind]
                ax.plot(
                    row[kind],
                    places.index(row["arm"]) + (0.12 if kind == "bulk" else -0.12),
                    color=look.color,
                    marker=look.marker,
                    linestyle="",
                    markersize=3.5,
                    alpha=0.7,
                )
    ax.set_yticks(range(len(places)), places)
    ax.set(ylim=(len(places) - 0.5, -0.5), xlabel="Fall of the loss / fall with whole updates")
    ax.grid(axis="y", visible=False)
    handles = [LOOK[kind].handle(f"updates {NAMES[kind]} it", linestyle="") for kind in ("dominant", "bulk")]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.0, handletextpad=0.1)
    caption = (
        "Fall of the logarithm of the training loss with updates projected onto the top eigenspace of the Hessian, and "
        "with that part removed, over the fall with whole updates; a mark per seed. Dotted: nothing is learnt, as much "
        f"is learnt. {note}"
    )
    return Drawing(figure, shown.filter(["arm", "seed", "fall", "dominant", "bulk"]), caption)


def branches_figure(
    walked: pd.DataFrame, before: pd.DataFrame, names: Sequence[str], settle: int, note: str
) -> Drawing | str:
    """Draw loss and share of the gradient against updates, a row for each way to train, before and along branches.

    The branches begin ``settle`` updates after the last measurement before them.
    """
    whole = rows_if(walked, np.isfinite(floats(walked, "loss")))
    if whole.empty:
        return "no branch was measured"
    shown = [name for name in names if len(rows_where(whole, arm=name))]
    figure, axes = new_figure(COLUMN, 0.9 + 1.1 * len(shown), len(shown), 2)
    for arm, (left, right) in zip(shown, axes, strict=True):
        along, up_to = rows_where(whole, arm=arm), rows_where(before, arm=arm)
        up_to = up_to.assign(step=floats(up_to, "step") - floats(up_to, "step").max(initial=0) - settle)
        mean_of_seeds(right, up_to, "step", "share", color="0.5")
        for kind, look in LOOK.items():
            own = rows_where(along, kind=kind)
            if len(own):
                mean_of_seeds(left, own, "step", "loss", color=look.color, linestyle=look.linestyle)
                mean_of_seeds(right, own, "step", "share", color=look.color, linestyle=look.linestyle)
        left.set(title=arm, ylabel="Loss", xlim=(0, floats(along, "step").max()))
        right.set(ylabel="Share", ylim=(0, 1.05), xlim=(floats(up_to, "step").min(initial=0), None))
        left.locator_params(axis="y", nbins=4)
    figure.supxlabel("Updates after the branching", fontsize=9)
    kinds = {kind: look for kind, look in LOOK.items() if len(rows_where(whole, kind=kind))}
    handles = [look.handle(NAMES[kind], marker="") for kind, look in kinds.items()]
    handles.append(Line2D([], [], color="0.5", label="before"))
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.2)
    caption = (
        "Training loss, and the share of its gradient's squared length in the top eigenspace of the Hessian, along "
        "branches that go on from the same weights: with whole updates, with their part within that space, without it, "
        f"and with full batches; grey: before, until {settle} updates before the branching. Means over seeds, without "
        f"branches whose loss is not finite. {note}"
    )
    return Drawing(figure, whole.filter(["arm", "seed", "kind", "step", "loss", "share"]), caption)

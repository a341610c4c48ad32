"""The figures of flatness and label noise: the way of SGD, where it ends, and small against full batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis.claims2026.label_noise2026.numbers import ends_of, imbalances
from analysis.report.report import Drawing
from sharpness.plots.axes import fixed_ticks, log_axis
from sharpness.plots.frames import floats, groups, records, rows_where
from sharpness.plots.seeds import dodged, mean_of_seeds, range_of_seeds
from sharpness.plots.style import COLUMN, LOOKS, new_figure

STARTS = dict(zip(("flat", "sharp"), LOOKS, strict=False))
NAMES = {"flat": "flattest start", "sharp": "sharp start", "random": "random start"}
COMPUTED = {"color": "0.1", "linestyle": "--", "linewidth": 1.1}
OVER = "trace / least trace"


def way_figure(ways: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the trace over the least one against updates from two minima, for the least and the largest imbalance."""
    own = ends_of(ways)
    if own.empty:
        return "no walk was measured"
    own = own.assign(over=floats(own, "trace") / floats(own, "flattest_trace"))
    shown = [imbalances(own)[0], imbalances(own)[-1]]
    walks = [rows_where(own, imbalance=imbalance, start=name) for imbalance in shown for name in STARTS]
    means = [np.exp(np.log(floats(at, "over")).mean()) for walk in walks for _, at in walk.groupby("step")]
    figure, axes = new_figure(COLUMN, 3.6, len(shown), 1)
    for imbalance, ax in zip(shown, axes[:, 0], strict=True):
        here = rows_where(own, imbalance=imbalance)
        for name, look in STARTS.items():
            mean_of_seeds(ax, rows_where(here, start=name), "step", "over", True, color=look.color)
        known = floats(here, "quietest_trace") / floats(here, "flattest_trace")
        ax.axhline(float(np.exp(np.log(known).mean())), **COMPUTED)
        log_axis(ax.yaxis, [*means, 0.9], 1.05)
        fixed_ticks(ax.yaxis, (1.0, 1.5, 2.0))
        ax.set(title=_title(imbalance), xlim=(0, floats(own, "step").max()))
        ax.tick_params(labelbottom=ax is axes[-1, 0])
    figure.supylabel(OVER.capitalize(), fontsize=9)
    axes[-1, 0].set_xlabel("Updates")
    handles = [Line2D([], [], color=look.color, label=NAMES[name]) for name, look in STARTS.items()]
    handles.append(Line2D([], [], label="computed", **COMPUTED))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0, handlelength=1.6)
    caption = (
        "Trace of the Hessian over that of the flattest minimum while SGD walks in batches of one, geometric mean over "
        "seeds, from the flattest minimum and from a sharper one of the same function. Above: the noise of the labels "
        "is the same in both outputs; below: it is not. Dashed: the minimum at which gradients fluctuate least, "
        f"computed. The weights are not settled, so they also fluctuate about a minimum. {note}"
    )
    return Drawing(figure, own.filter(["seed", "imbalance", "start", "step", "trace", "over"]), caption)


def ends_figure(ends: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the trace over the least one against the imbalance: marks for both starts on the computed line."""
    own = ends_of(ends)
    if own.empty:
        return "no walk was measured"
    figure, axes = new_figure(COLUMN, 2.6)
    ax, handles = axes[0, 0], []
    least = floats(own, "flattest_trace")
    own = own.assign(over=floats(own, "trace") / least, computed=floats(own, "quietest_trace") / least)
    mean_of_seeds(ax, own, "imbalance", "computed", True, **COMPUTED)
    apart = dodged(own, "imbalance", "start", list(STARTS), 1.15)
    for name, look in STARTS.items():
        style = look.artist | {"linestyle": "", "markersize": 4}
        range_of_seeds(ax, rows_where(apart, start=name), "imbalance", "over", True, **style)
        handles.append(look.handle(NAMES[name], linestyle=""))
    log_axis(ax.xaxis, imbalances(own), 1.4)
    fixed_ticks(ax.xaxis, imbalances(own))
    log_axis(ax.yaxis, [*floats(own, "over"), *floats(own, "computed"), 1.0], 1.1)
    fixed_ticks(ax.yaxis, (1.0, 1.2, 1.5, 2.0))
    ax.set(xlabel="Noise in one output / in the other (variance)", ylabel=OVER.capitalize())
    handles.append(Line2D([], [], label="computed", **COMPUTED))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0, handlelength=1.6)
    caption = (
        "Trace of the Hessian at the minimum where SGD ended over that of the flattest minimum of the same function, "
        "against the imbalance of the label noise, whose sum is the same: geometric mean over seeds with their whole "
        f"range, two starts, moved apart. Dashed: where gradients fluctuate least, computed. {note}"
    )
    return Drawing(figure, own.filter(["seed", "imbalance", "start", "trace", "over", "computed"]), caption)


def batches_figure(ends: pd.DataFrame, note: str) -> Drawing | str:
    """Draw the trace where small batches ended over that of the full batch, a mark per seed, network and imbalance."""
    if ends.empty:
        return "no walk was measured"
    table = pairs(ends)
    labels = list(dict.fromkeys(zip(table["network"], table["imbalance"], strict=True)))
    figure, axes = new_figure(COLUMN, 0.8 + 0.27 * len(labels))
    ax = axes[0, 0]
    ax.axvline(1, color="0.3", linestyle=":", linewidth=1.0)
    for row in records(table):
        look = LOOKS[0] if row["imbalance"] == table["imbalance"].min() else LOOKS[1]
        y = labels.index((row["network"], row["imbalance"]))
        ax.plot(row["ratio"], y, color=look.color, marker=look.marker, markersize=4, linestyle="", alpha=0.7)
    ax.set_yticks(range(len(labels)), [f"{network}, {imbalance:g}:1" for network, imbalance in labels])
    log_axis(ax.xaxis, [*floats(table, "ratio"), 1.0], 1.1, (1, 1.5, 2, 3, 5, 7))
    ax.set(ylim=(len(labels) - 0.5, -0.5), xlabel="Trace, batch of one / full batch")
    ax.grid(axis="y", visible=False)
    caption = (
        "Trace of the Gauss-Newton matrix at the end of training in batches of one over that of the full batch, a mark "
        "per seed, with label noise of the same variance in both outputs (1:1) or not. Right of the dotted line small "
        "batches are sharper. From the flattest minimum, which the full batch does not leave, and from small random "
        f"weights; of the linear network all these minima compute one function. {note}"
    )
    return Drawing(figure, table, caption)


def pairs(ends: pd.DataFrame) -> pd.DataFrame:
    """Return for each seed, network and imbalance the trace of batches of one over that of the full batch."""
    own = ends_of(ends)
    kept = rows_where(own, start="flat")
    still = kept.assign(network="linear, flattest start", ratio=floats(kept, "trace") / floats(kept, "first_trace"))
    found = [
        rows_where(still, imbalance=each) for each in dict.fromkeys([*imbalances(still)[:1], *imbalances(still)[-1:]])
    ]
    for activation in ("linear", "tanh"):
        both = rows_where(ends, start="random", activation=activation)
        for imbalance, rows in groups(both, "imbalance"):
            small, full = (rows_where(rows, batch=each) for each in (rows["batch"].min(), rows["batch"].max()))
            pair = small.merge(full, on="seed", suffixes=("", "_full"))
            ratio = floats(pair, "trace") / floats(pair, "trace_full")
            found.append(pair.assign(network=f"{activation}, random start", ratio=ratio, imbalance=imbalance))
    return pd.concat(found, ignore_index=True).filter(["seed", "network", "imbalance", "ratio"])


def _title(imbalance: float) -> str:
    return "isotropic noise" if imbalance == 1 else f"noise {imbalance:g} times as large in one output"

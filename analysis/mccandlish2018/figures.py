"""The figures of the study of McCandlish et al. 2018: from the results to axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.mccandlish2018.findings import comparisons, slope_text, temperature_slope
from analysis.mccandlish2018.numbers import level
from analysis.mccandlish2018.results import Results, edges_of
from analysis.report.report import Drawing
from analysis.statistics.intervals import Interval
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.style import COLUMN, LOOKS, new_figure, shades

BAND: dict[str, Any] = {"color": "0.85", "linewidth": 0, "zorder": 0}
MARKERS = ("o", "s", "^", "D", "v", "P")
SIMPLE = r"$B_{\mathrm{simple}}$"
CRITICAL = r"$B_{\mathrm{crit}}$"


def noise_scale(results: Results) -> Drawing | str:
    """Draw the noise scale against the training loss, from the initial weights to the lowest loss."""
    table = results.along.filter(["seed", "epoch", "step", "loss", "square", "noise_trace", "noise_scale"])
    if table.empty:
        return "no finished run to a low loss was measured"
    figure, axes = new_figure(COLUMN, 2.9)
    ax, look, edges = axes[0, 0], LOOKS[0], edges_of(results.settings)
    started = floats(table, "step") == 0
    x, y = floats(table, "loss"), floats(table, "noise_scale")
    dots = {"marker": ".", "markersize": 3, "color": "0.7", "linestyle": "", "zorder": 1}
    ax.plot(x[~started], y[~started], label="checkpoints", **dots)
    style = {"marker": "D", "markersize": 4, "color": "white", "markeredgecolor": "0.3", "linestyle": ""}
    ax.plot(x[started], y[started], label="initial weights", **style)
    for low, high in (edges[:2], edges[-2:]):
        ax.axvspan(low, high, **BAND)
    for low, rows in groups(results.windows, "low"):
        found = level(floats(rows, "noise_scale"))
        if found.value is not None:
            bounds = (found.value if each is None else each for each in (found.lower, found.upper))
            bars = np.abs(np.array([[each - found.value] for each in bounds]))
            label = "mean in a window" if low == edges[0] else None
            ax.errorbar(low * 2**0.5, found.value, bars, color=look.color, marker="o", capsize=2, label=label)
    log_axis(ax.xaxis, x)
    log_axis(ax.yaxis, y)
    ax.invert_xaxis()  # training goes to the right
    ax.set(xlabel="Training loss (nats), falling", ylabel=f"{SIMPLE} (examples)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2, columnspacing=1.0)
    caption = (
        "Gradient noise scale tr Sigma / |G|^2 against the training loss. Blue: in windows of the loss, each a factor "
        "of 2, with tr Sigma and |G|^2 averaged apart over the checkpoints of a run in it, geometric means over seeds "
        "with 95 % Student t intervals; the growth is told from the first grey window to the last. Diamonds: the "
        "initial weights, before the transient in which the gradient grows. G is the gradient over the whole training "
        f"set, Sigma from a part of it. {results.counts}"
    )
    return Drawing(figure, table, caption)


def line_search(results: Results) -> Drawing | str:
    """Draw the best step and the fall it brings, found against predicted, and how the loss changes around it."""
    table = results.search
    if not np.isfinite(floats(table, "rate")).any():
        return "no line search found its best step inside the grid"
    figure, axes = new_figure(COLUMN, 6.6, 3, 1)
    colors = shades([size for size, _ in groups(table, "batch_size")])
    markers = dict(zip([epoch for epoch, _ in groups(table, "epoch")], MARKERS, strict=False))
    panels = (("rate", r"best step $\epsilon_{\mathrm{opt}}(B)$"), ("fall", r"fall of the loss $\Delta L$ (nats)"))
    for ax, (name, label) in zip(axes[:, 0], panels, strict=False):
        values = np.concatenate([floats(table, name), floats(table, f"predicted_{name}")])
        for axis in (ax.xaxis, ax.yaxis):
            log_axis(axis, values)
        ax.plot(ax.get_xlim(), ax.get_xlim(), color="0.5", linestyle="--", linewidth=0.8, zorder=1)
        for epoch, marker in markers.items():
            for size, color in colors.items():
                rows = rows_where(table, epoch=epoch, batch_size=size)
                x, y = floats(rows, f"predicted_{name}"), floats(rows, name)
                bars = np.abs(np.stack([y - floats(rows, f"{name}_lower"), floats(rows, f"{name}_upper") - y]))
                ax.errorbar(x, y, np.nan_to_num(bars), color=color, marker=marker, markersize=3.5, **BARS)
        ax.set(xlabel=f"Predicted {label}", ylabel=f"Found {label}")
    _normalised(axes[2, 0], table, colors)
    handles = [Line2D([], [], color=c, marker="o", linestyle="", label=f"$B$ = {size:g}") for size, c in colors.items()]
    handles += [Line2D([], [], color="0.3", marker=m, linestyle="", label=f"epoch {e:.2g}") for e, m in markers.items()]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=-(-len(handles) // 2), handletextpad=0.1, columnspacing=0.9
    )
    lost, beyond = (int(np.isnan(floats(table, name)).sum()) for name in ("rate", "change_at_4"))
    caption = (
        "Best step (top) and the fall of the loss there (middle) of plain SGD steps with random batches, found by a "
        "line search over many batches, against equations 2.6 and 2.7; bars: 95 % bootstrap intervals over batches; "
        "dashed: equal. Bottom: mean change of the loss against the step, both in units of the best; black: the "
        "quadratic that the theory assumes, 0 at 2 and 8 at 4. The loss is over the examples that the batches are "
        f"drawn from, with replacement. {lost} of {len(table)} searches found no best step inside their grid, "
        f"{beyond} not what 4 times it brings. "
        f"{results.counts}"
    )
    return Drawing(figure, table.drop(columns=["rates", "changes"]), caption)


BARS: dict[str, Any] = {"linestyle": "", "elinewidth": 0.7}


def _normalised(ax: Axes, table: pd.DataFrame, colors: dict[float, Any]) -> None:
    for row in table.to_dict("records"):
        if not np.isfinite(row["rate"]) or not row["fall"] > 0:
            continue
        x, y = (
            np.asarray(row["rates"]) / row["rate"],
            np.nanmean(np.array(row["changes"], dtype=float), 0) / row["fall"],
        )
        ax.plot(x, y, color=colors[row["batch_size"]], linewidth=0.6, alpha=0.7)
    x = np.geomspace(0.1, 6, 60)
    ax.plot(x, x**2 - 2 * x, color="black", linestyle="--", linewidth=1.0)
    for times in (2, 4):
        ax.axvline(times, color="0.6", linewidth=0.7, linestyle=":")
    log_axis(ax.xaxis, [0.15, 5.5])
    ax.set_ylim(-1.6, 9)
    ax.set(xlabel=r"Step / found $\epsilon_{\mathrm{opt}}$", ylabel="Change / best fall")


def temperature(results: Results) -> Drawing | str:
    """Draw the noise scale of the cooled runs against batch size over learning rate."""
    table = results.cooled
    if table.empty:
        return "no cooled run was measured"
    figure, axes = new_figure(COLUMN, 2.7)
    ax = axes[0, 0]
    for (knob, text), look in zip((("rate", "lower rate"), ("batch", "larger batch")), LOOKS, strict=False):
        rows = rows_where(table.assign(mine=[each in (knob, "none") for each in table["knob"]]), mine=True)
        ax.plot(
            floats(rows, "slowness"), floats(rows, "noise_scale"), linestyle="", marker=".", color=look.color, alpha=0.5
        )
        means = np.array([(x, geometric(each, "noise_scale")) for x, each in groups(rows, "slowness")])
        label = f"{text}, slope {slope_text(temperature_slope(results, knob))}".replace("-", "\N{MINUS SIGN}")
        ax.plot(*means.T, color=look.color, marker=look.marker, linestyle=look.linestyle, label=label)
    log_axis(ax.xaxis, floats(table, "slowness"))
    log_axis(ax.yaxis, floats(table, "noise_scale"))
    first = rows_where(table, knob="none")
    if len(first):
        x, y = np.array(ax.get_xlim()), geometric(first, "noise_scale")
        ax.plot(x, y * x / floats(first, "slowness")[0], color="0.5", linestyle=":", linewidth=0.9, label="slope 1")
    ax.set(xlabel=r"Batch size / learning rate $B/\epsilon$", ylabel=f"{SIMPLE} (examples)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=1)
    caption = (
        "Noise scale after the base run went on at a lower temperature, by a lower learning rate or a larger batch, "
        "for the same number of examples. Dots: seeds, each pooled over checkpoints; marks: geometric means; dotted: "
        f"slope 1 through the unchanged run. Slopes with 95 % bootstrap intervals over seeds. {results.counts}"
    )
    return Drawing(figure, table, caption)


def comparison(results: Results) -> Drawing | str:
    """Draw the ratios of the noise scale at equal loss."""
    ratios = comparisons(results)
    rows = [
        {"comparison": name, "ratio": r.value, "lower": r.lower, "upper": r.upper, "pairs": r.n, "reason": r.reason}
        for name, r in ratios.items()
    ]
    shown = [row for row in rows if row["ratio"] is not None]
    if not shown:
        return "no pair of runs was measured near the goal"
    figure, axes = new_figure(COLUMN, 1.7)
    ax = axes[0, 0]
    ax.axvspan(0.5, 2.0, **BAND)
    ax.axvline(1.0, color="0.5", linewidth=0.8)
    for place, row in enumerate(shown):
        value = row["ratio"]
        bars = [[value - (row["lower"] or value)], [(row["upper"] or value) - value]]
        ax.errorbar(value, -place, xerr=bars, color=LOOKS[0].color, marker="o", capsize=2)
    log_axis(ax.xaxis, [0.5, 2.0, *(row[k] for row in shown for k in ("ratio", "lower", "upper") if row[k])])
    ax.set_yticks([-place for place in range(len(shown))], [row["comparison"] for row in shown])
    ax.set_ylim(0.5 - len(shown), 0.5)
    ax.set_xlabel(f"Ratio of {SIMPLE} at equal loss")
    caption = (
        "Ratio of the noise scale of two trainings where their training losses are equal, geometric mean over pairs of "
        "one seed, each the geometric mean over checkpoints with a loss near the goal; bars: 95 % Student t intervals. "
        "Grey: equal to a factor of 2. Wide and narrow: " + " and ".join(reversed(results.settings["widths"])) + ". "
        "Tasks are pairs of classes, goals of their own. " + results.counts
    )
    return Drawing(figure, pd.DataFrame(rows), caption)


def level_line(ax: Axes, interval: Interval, label: str, look: Any, vertical: bool = False) -> None:
    """Draw a batch size as a line with its interval as a band, where it is known."""
    if interval.value is None:
        return
    line, span = (ax.axvline, ax.axvspan) if vertical else (ax.axhline, ax.axhspan)
    line(interval.value, color=look.color, linestyle="--", linewidth=0.9, label=label, zorder=1)
    if interval.lower is not None and interval.upper is not None:
        span(interval.lower, interval.upper, color=look.color, alpha=0.15, linewidth=0, zorder=0)


def geometric(rows: pd.DataFrame, name: str) -> float:
    values = floats(rows, name)
    return float(np.exp(np.mean(np.log(values[values > 0])))) if (values > 0).any() else float("nan")

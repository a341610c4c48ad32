"""The tables and the figure of the landscape benchmark, from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from scripts.benchmarks.landscape_peers import TOOLS
from scripts.benchmarks.report import Part, lines_of, provenance_of, write_report
from scripts.benchmarks.rows import Row
from sharpness.plots.axes import log_axis
from sharpness.plots.save import save_figure
from sharpness.plots.style import FULL, LOOKS, STYLE, new_figure

ITERATIONS, GRADIENTS = 50, 15
"""Iterations of L-BFGS-B, and the gradients within which our search is to be as high."""


def lines(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the lines of a part's table, with labels and with notes on the tools and on L-BFGS-B."""
    chosen = lines_of(rows, part)
    for each in chosen:
        tool = TOOLS.get(each["tool"])
        each["label"] = "bare forward passes" if each["tool"] == "bare" else tool.label if tool else each["tool"]
        if part in ("line", "plane") and tool:
            each["note"] = each["note"] or tool.note
        if "trace" in each:
            reached, done = each["gradients_to_reach"], each["published_iterations"]
            each["within"] = reached is not None and reached <= GRADIENTS
            each["note"] = each["note"] or f"L-BFGS-B ended after {done} iterations: {each['published_message']}"
    return chosen


def report(parts: Mapping[str, Part], rows: Sequence[Row], out: Path) -> list[Path]:
    """Write the tables of all rows, and the figure of throughputs and climbs."""
    shown, provenance = {part: lines(rows, part) for part in parts}, provenance_of(rows)
    timed = [each for each in (*shown["line"], *shown["plane"]) if each["tool"] in TOOLS and "throughput" in each]
    climbed = [each for each in shown["keskar"] if "trace" in each]
    files = write_report("Landscape benchmark", parts, shown, provenance, out)
    return files + (_draw(timed, climbed, out, provenance) if timed or climbed else [])


WANTED = 0.9
"""The share of the throughput of bare forward passes that ours is to reach."""
LOOK_OF = dict(zip(TOOLS, LOOKS, strict=False))
CAPTION_OF_TIMES = "Examples per second over those of bare forward passes; dashed: 90 %. "
CAPTION_OF_CLIMBS = (
    "Keskar's metric by the gradients of our search, all starts one after the other, but for the first gradient, which "
    f"is at the weights; marks: {ITERATIONS} iterations of L-BFGS-B; dashed: {GRADIENTS} gradients."
)


def _draw(timed: Sequence[Row], climbed: Sequence[Row], out: Path, provenance: Row) -> list[Path]:
    """Draw throughputs relative to bare forward passes, and what our search for the maximum found by gradients."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(FULL, 2.5, columns=bool(timed) + bool(climbed))
        if timed:
            _draw_throughputs(axes.flat[0], timed)
        if climbed:
            _draw_climbs(axes.flat[-1], climbed)
        caption = CAPTION_OF_TIMES * bool(timed) + CAPTION_OF_CLIMBS * bool(climbed)
        return save_figure(figure, _drawn(timed, climbed), out, "landscape_speed", caption.strip(), provenance)


def _draw_throughputs(ax: Axes, timed: Sequence[Row]) -> None:
    places = list(dict.fromkeys((each["part"], each["network"]) for each in timed))
    for side, (name, look) in enumerate(LOOK_OF.items(), -1):
        here = [each for each in timed if each["tool"] == name]
        if here:
            x = [places.index((each["part"], each["network"])) + 0.2 * side for each in here]
            y = [each["throughput"] for each in here]
            ax.plot(x, y, color=look.color, marker=look.marker, linestyle="", label=TOOLS[name].label)
    ax.axhline(WANTED, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    ax.set_xticks(range(len(places)), [f"{network}\n{part}" for part, network in places])
    highest = max(1.0, *(each["throughput"] for each in timed))
    ax.set(ylabel="Throughput / bare", ylim=(0, 1.1 * highest), xlim=(-0.5, len(places) - 0.5))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(LOOK_OF), columnspacing=1.0)


def _draw_climbs(ax: Axes, climbed: Sequence[Row]) -> None:
    for each, look in zip(climbed, LOOKS, strict=False):
        name, trace = each["network"], each["trace"]
        ours: dict[str, Any] = {"color": look.color, "linestyle": look.linestyle, "label": f"{name}, ours"}
        mark: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": ""}
        ax.plot(range(2, len(trace) + 1), trace[1:], **ours)
        ax.plot(each["published_gradients"], each["published_value"], label=f"{name}, L-BFGS-B", **mark)
    ax.axvline(GRADIENTS, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    ax.set(xlabel="Gradients", ylabel="Metric 2.1 (%)")
    log_axis(ax.xaxis, [2, *(n for each in climbed for n in (len(each["trace"]), each["published_gradients"]))])
    log_axis(ax.yaxis, [v for each in climbed for v in (*each["trace"][1:], each["published_value"])], padding=1.6)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)


def _drawn(timed: Sequence[Row], climbed: Sequence[Row]) -> pd.DataFrame:
    """Return every number drawn, one row for each mark and each gradient."""
    table = [{name: each[name] for name in ("part", "network", "tool", "throughput")} for each in timed]
    for each in climbed:
        same = {"part": "keskar", "network": each["network"]}
        marks = [(i, value, "ours") for i, value in enumerate(each["trace"], 1) if i > 1]  # the first is at the weights
        marks.append((each["published_gradients"], each["published_value"], "L-BFGS-B"))
        table += [same | {"tool": tool, "gradients": i, "percent": value} for i, value, tool in marks]
    return pd.DataFrame(table)

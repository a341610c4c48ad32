"""The tables and the figure of the landscape benchmark from its rows: Markdown, CSV, PDF, PNG and provenance JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from scripts.benchmarks.landscape_parts import GRADIENTS, ITERATIONS
from scripts.benchmarks.landscape_peers import TOOLS
from scripts.benchmarks.tables import Column, Row, cpu, csv_of, markdown, measured_with, plain, table_of
from sharpness.plots.axes import log_axis
from sharpness.plots.save import save_figure
from sharpness.plots.style import FULL, LOOKS, STYLE, new_figure
from sharpness.records import write_atomically

WANTED = 0.9
"""The share of the throughput of bare forward passes that ours is to reach."""
LABELS = {"bare": "bare forward passes"} | {name: tool.label for name, tool in TOOLS.items()}
LOOK_OF = dict(zip(TOOLS, LOOKS, strict=False))


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write ``benchmark.md``, a CSV per part, ``benchmark.json`` and the figure."""
    texts, files = [INTRODUCTION.format(**_facts(rows))], []
    for part, (title, note, columns) in SECTIONS.items():
        table = table_of(unfolded(rows, part), columns)
        if len(table):
            files.append(out / f"{part}.csv")
            write_atomically(files[-1], csv_of(table))
            texts.append(f"## {title}\n\n{note}\n\n{markdown(table)}")
    tools = {entry["tool"]: entry["version"] for row in rows for entry in row.get("entries", []) if "version" in entry}
    provenance = measured_with(rows) | {"tools": tools}
    contents = {
        "benchmark.md": "\n\n".join(texts) + "\n",
        "benchmark.json": json.dumps(provenance, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
    }
    for name, content in contents.items():
        files.append(out / name)
        write_atomically(files[-1], content.encode())
    return files + _figure(rows, out, provenance)


def unfolded(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the rows of a part, one for each tool that a process timed in turns."""
    return [row | entry for row in rows if row["part"] == part for entry in row.get("entries", [{}])]


def _missing(row: Row) -> str | None:
    return "; ".join(row.get("reasons", {}).values()) or None


def _note(row: Row) -> str | None:
    """Return why there are no numbers, or what the tool does otherwise than ours."""
    tool = TOOLS.get(row["tool"])
    return _missing(row) or (tool.note if tool is not None else None)


def _label(row: Row) -> str:
    tool = str(row["tool"])
    return LABELS.get(tool, tool)


def _reached(row: Row) -> str | None:
    """Return whether our search is as high as L-BFGS-B within the gradients that are wanted."""
    reached = row.get("gradients_to_reach")
    return None if "trace" not in row else "yes" if reached is not None and reached <= GRADIENTS else "no"


def _ran(row: Row) -> str | None:
    done, message = row.get("published_iterations"), row.get("published_message")
    return _missing(row) or f"L-BFGS-B ended after {done} iterations: {message}"


TIMED: list[Column] = [
    *(("network", plain("network")), ("tool", _label), ("points", plain("points"))),
    *(("examples", plain("num_examples")), ("seconds", plain("seconds")), ("throughput / bare", plain("throughput"))),
    *(("largest difference", plain("difference")), ("points compared", plain("num_compared")), ("note", _note)),
]
TURNS = (
    "Medians of {repeats}, in turns. Throughput / bare: examples per second over those of bare forward passes "
    "(evaluation mode, no graph, the network's own call and criterion), whose seconds leave out setting the weights; "
    "those of the tools are of their whole call. Largest difference: of the losses from the bare ones, relative, over "
    "the points that both measured."
)
SECTIONS: dict[str, tuple[str, str, list[Column]]] = {
    "line": (
        "A line",
        "25 points on alpha in [-1, 2], for SB and LB through each other. " + TURNS.format(repeats=5) + " Landscaper "
        "cannot go along a given direction: through SB and LB its line is another one, the work the same.",
        TIMED,
    ),
    "plane": (
        "A plane",
        "21 x 21 points around the weights, on one batch in five to keep the run short. " + TURNS.format(repeats=3),
        TIMED,
    ),
    "keskar": (
        "Keskar's maximum",
        f"Metric 2.1 at epsilon 1e-3, in percent: our search to its end and after {GRADIENTS} gradients, and "
        f"{ITERATIONS} iterations of L-BFGS-B from the corner of the gradient's signs. The gradient at the weights "
        "counts, too.",
        [
            *(("network", plain("network")), ("ours", plain("value")), ("gradients", plain("num_gradients"))),
            *(("seconds", plain("seconds")), (f"ours after {GRADIENTS}", plain("value_within"))),
            *(("L-BFGS-B", plain("published_value")), ("its gradients", plain("published_gradients"))),
            *(("its seconds", plain("published_seconds")), ("gradients to pass it", plain("gradients_to_reach"))),
            *((f"within {GRADIENTS}", _reached), ("note", _ran)),
        ],
    ),
    "noise": (
        "Gradients of single examples",
        "Seconds of our gradient noise scale without its Hessian products, intervals included, and of a loop that does "
        "one backward for each example; medians of 3, in turns. tr Sigma: the trace of the covariance of the "
        "gradients. With the batch statistics of SB and LB an example has no gradient of its own.",
        [
            *(("network", plain("network")), ("examples", plain("num_examples")), ("seconds", plain("seconds"))),
            *(("loop (s)", plain("loop_seconds")), ("loop / ours", plain("speedup")), ("way", plain("method"))),
            *(("tr Sigma", plain("noise_trace")), ("difference", plain("difference")), ("note", _missing)),
        ],
    ),
}
CAPTION_OF_TIMES = "Examples per second over those of bare forward passes; dashed: 90 %. "
CAPTION_OF_CLIMBS = (
    "Keskar's metric by the gradients of our search, all starts one after the other, but for the first gradient, which "
    f"is at the weights; marks: {ITERATIONS} iterations of L-BFGS-B; dashed: {GRADIENTS} gradients."
)
INTRODUCTION = """# Landscape benchmark

{cpu}, {threads} threads, {examples} examples, float32; torch {torch}. Rows: results.jsonl; unrounded numbers: the CSV \
files; versions: benchmark.json."""


def _facts(rows: Sequence[Row]) -> Row:
    torch = next((row["versions"]["torch"] for row in rows if "versions" in row), "unknown")
    threads, examples = rows[0]["threads"], max(row["examples"] for row in rows)
    return {"cpu": cpu(), "threads": threads, "examples": f"{examples:,}", "torch": torch}


def _figure(rows: Sequence[Row], out: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Draw throughputs relative to bare forward passes, and what our search for the maximum found by gradients."""
    timed = [row for part in ("line", "plane") for row in unfolded(rows, part) if row.get("tool") in TOOLS]
    timed = [row for row in timed if row.get("throughput") is not None]
    climbed = [row for row in rows if row["part"] == "keskar" and "trace" in row]
    if not timed and not climbed:
        return []
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(FULL, 2.5, columns=bool(timed) + bool(climbed))
        panels = iter(axes.flat)
        if timed:
            _draw_throughputs(next(panels), timed)
        if climbed:
            _draw_climbs(next(panels), climbed)
        caption = CAPTION_OF_TIMES * bool(timed) + CAPTION_OF_CLIMBS * bool(climbed)
        return save_figure(figure, _drawn(timed, climbed), out, "landscape_speed", caption.strip(), provenance)


def _draw_throughputs(ax: Axes, timed: Sequence[Row]) -> None:
    places = list(dict.fromkeys((row["part"], row["network"]) for row in timed))
    for side, (name, look) in enumerate(LOOK_OF.items(), -1):
        here = [
            (places.index((r["part"], r["network"])) + 0.2 * side, r["throughput"]) for r in timed if r["tool"] == name
        ]
        if here:
            x, y = zip(*here, strict=True)
            ax.plot(x, y, color=look.color, marker=look.marker, linestyle="", label=LABELS[name])
    ax.axhline(WANTED, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    ax.set_xticks(range(len(places)), [f"{network}\n{part}" for part, network in places])
    highest = max(1.0, *(row["throughput"] for row in timed))
    ax.set(ylabel="Throughput / bare", ylim=(0, 1.1 * highest), xlim=(-0.5, len(places) - 0.5))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(LOOK_OF), columnspacing=1.0)


def _draw_climbs(ax: Axes, climbed: Sequence[Row]) -> None:
    for row, look in zip(climbed, LOOKS, strict=False):
        trace = row["trace"]
        style: dict[str, Any] = {"color": look.color, "linestyle": look.linestyle}
        ax.plot(range(2, len(trace) + 1), trace[1:], label=f"{row['network']}, ours", **style)
        mark: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": ""}
        ax.plot(row["published_gradients"], row["published_value"], label=f"{row['network']}, L-BFGS-B", **mark)
    ax.axvline(GRADIENTS, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    ax.set(xlabel="Gradients", ylabel="Metric 2.1 (%)")
    log_axis(ax.xaxis, [2, *(len(row["trace"]) for row in climbed), *(row["published_gradients"] for row in climbed)])
    log_axis(ax.yaxis, [v for row in climbed for v in (*row["trace"][1:], row["published_value"])], padding=1.6)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)


def _drawn(timed: Sequence[Row], climbed: Sequence[Row]) -> pd.DataFrame:
    """Return every number drawn, one row for each mark and each gradient."""
    table = [{name: row[name] for name in ("part", "network", "tool", "throughput")} for row in timed]
    for row in climbed:
        same = {"part": "keskar", "network": row["network"]}
        marks = [(i, value, "ours") for i, value in enumerate(row["trace"], 1) if i > 1]  # the first is at the weights
        marks.append((row["published_gradients"], row["published_value"], "L-BFGS-B"))
        table += [same | {"tool": tool, "gradients": i, "percent": value} for i, value, tool in marks]
    return pd.DataFrame(table)

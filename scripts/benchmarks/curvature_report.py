"""The tables and the figure of the curvature benchmark from its rows: Markdown, CSV, PDF, PNG and provenance JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from scripts.benchmarks.curvature_peers import TOOLS
from scripts.benchmarks.tables import Column, Row, cpu, csv_of, markdown, measured_with, plain, table_of
from sharpness.plots.axes import log_axis
from sharpness.plots.save import save_figure
from sharpness.plots.style import FULL, STYLE, Look, new_figure
from sharpness.records import write_atomically

MIB = 1 << 20
COLORS = ("#0173b2", "#de8f05", "#029e73", "#56b4e9", "#d55e00", "#cc78bc", "#ca9161")
MARKERS = ("o", "s", "^", "v", "D", "P", "X")
LOOKS = {name: Look(COLORS[i], MARKERS[i], "", TOOLS[name][0]) for i, name in enumerate(TOOLS)}
FLOOR = 1e-8  # errors below are drawn here


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write ``benchmark.md``, a CSV per part, ``benchmark.json`` and the figure of errors against time."""
    texts, files = [INTRODUCTION.format(**_facts(rows))], []
    for part, (title, note, columns) in SECTIONS.items():
        table = table_of(_of(rows, part), columns)
        if len(table):
            files.append(out / f"{part}.csv")
            write_atomically(files[-1], csv_of(table))
            texts.append(f"## {title}\n\n{note}\n\n{markdown(table)}")
    provenance = _provenance(rows)
    contents = {
        "benchmark.md": "\n\n".join(texts) + "\n",
        "benchmark.json": json.dumps(provenance, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
    }
    for name, content in contents.items():
        files.append(out / name)
        write_atomically(files[-1], content.encode())
    return files + _figure(_of(rows, "eigenvalue"), out, provenance)


def _of(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the rows of a part, with the truth of the network in those of eigenvalues; estimators are unfolded."""
    if part == "estimators":
        return [r | e for r in rows if r["part"] == part for e in r.get("entries", [{"label": r["tool"]}])]
    truths = {r["network"]: r.get("value") for r in rows if r["part"] == "truth"}
    chosen = [r for r in rows if r["part"] == part]
    if part == "starts":
        ours = {r["network"]: _seconds_of_starts(r) for r in chosen if r["tool"] == "ours"}
        chosen = [r | {"ours_seconds": ours.get(r["network"])} for r in chosen]
    return [r | {"truth": truths.get(r["network"])} for r in chosen] if part in ("eigenvalue", "starts") else chosen


def _seconds_of_starts(row: Row) -> float | None:
    """Return the median seconds over the random starts of a tool."""
    return float(np.median([each["seconds"] for each in row["starts"]])) if "starts" in row else None


def _spread(name: str) -> Callable[[Row], Any]:
    """Return the function from a row of several starts to ``median (smallest to largest)``."""

    def read(row: Row) -> str | None:
        if "starts" not in row:
            return None
        each = [error_of(row | start) if name == "error" else start[name] for start in row["starts"]]
        each = [value for value in each if value is not None]
        return f"{np.median(each):.3g} ({min(each):.3g} to {max(each):.3g})" if each else None

    return read


def _times_ours(row: Row) -> float | None:
    seconds, ours = _seconds_of_starts(row), row.get("ours_seconds")
    return None if seconds is None or ours is None else seconds / ours


def error_of(row: Row) -> float | None:
    """Return ``|value - truth| / |truth|``, or ``None`` where one of them is missing."""
    value, truth = row.get("value"), row.get("truth")
    return None if value is None or not truth else abs(value - truth) / abs(truth)


def _interval(row: Row) -> str | None:
    lower, upper = row.get("lower"), row.get("upper")
    return None if lower is None or upper is None else f"[{lower:.6g}, {upper:.6g}]"


def _converged(row: Row) -> str | None:
    return {True: "yes", False: "no", None: None}[row.get("converged")]


def _reasons(row: Row) -> str | None:
    return (
        "; ".join(text for name, text in row.get("reasons", {}).items() if name != "converged")
        or row.get("note")
        or None
    )


def _label(row: Row) -> str:
    return TOOLS[row["tool"]][0]


def _mib(name: str) -> Callable[[Row], Any]:
    return lambda row: None if row.get(name) is None else round(row[name] / MIB, 1)


SOLVED: list[Column] = [("HVPs", plain("num_hvps")), ("seconds", plain("seconds"))]
SECTIONS: dict[str, tuple[str, str, list[Column]]] = {
    "prepare": (
        "What was measured",
        "All tools see these weights, examples and batches in float32.",
        [
            *(("network", plain("network")), ("parameters", plain("num_parameters"))),
            *(("examples", plain("num_examples")), ("batch", plain("batch_size")), ("loss (nats)", plain("loss"))),
        ],
    ),
    "truth": (
        "Reference",
        "Our own solve of the same network in float64, to 1e-8.",
        [("network", plain("network")), ("value", plain("value")), *SOLVED, ("converged", _converged)],
    ),
    "eigenvalue": (
        "Top eigenvalue",
        "True error: against the reference, relative. HVPs: all products with the whole data set that the tool made, "
        "its own checks included. Seconds: of the solve alone, graphs and first products included; imports, loading, a "
        "first touch of the data and a first solve of a 9-parameter problem came before. HVP / gradient: seconds per "
        "HVP over the seconds of one gradient in the same process. Memory: peak resident memory above that before the "
        "solve. Converged: by the tool's own rule. Intervals hold with probability 99 %; only ours are certified.",
        [
            *(("network", plain("network")), ("tool", _label), ("value", plain("value")), ("true error", error_of)),
            *(("interval", _interval), *SOLVED, ("HVP / gradient", plain("hvp_gradients"))),
            *(("memory (MiB)", _mib("peak_bytes")), ("converged", _converged), ("note", _reasons)),
        ],
    ),
    "starts": (
        "Other random starts",
        "The same from five other random starts, one after the other in one process: median (smallest to largest). "
        "Where a power iteration stops is luck in part. Times ours: median seconds over the median of ours.",
        [
            *(("network", plain("network")), ("tool", _label), ("true error", _spread("error"))),
            *(("HVPs", _spread("num_hvps")), ("seconds", _spread("seconds")), ("times ours", _times_ours)),
            ("note", _reasons),
        ],
    ),
    "cost": (
        "Cost of one product",
        "Medians of 7, in turns: one gradient, our product on kept graphs, our product that rebuilds them.",
        [
            *(("network", plain("network")), ("gradient (s)", plain("gradient_seconds"))),
            *(("cached HVP (s)", plain("cached_seconds")), ("cached / gradient", plain("cached_ratio"))),
            *(("uncached HVP (s)", plain("uncached_seconds")), ("uncached / gradient", plain("uncached_ratio"))),
            *(("kept graphs (MiB)", _mib("kept_bytes")), ("note", _reasons)),
        ],
    ),
    "memory": (
        "Memory against its budget",
        "Peak above the start against the cache budget plus (HVPs + 4) vectors. One batch's graph exists whatever is "
        "kept, and is not in the budget.",
        [
            *(("network", plain("network")), ("examples", plain("examples")), ("budget (MiB)", plain("tool"))),
            *(("vectors (MiB)", _mib("vectors_bytes")), ("one graph (MiB)", _mib("graph_bytes"))),
            *(("peak (MiB)", _mib("peak_bytes")), ("peak / (budget + vectors)", plain("peak_over_allowed"))),
            *(("HVPs", plain("num_hvps")), ("note", _reasons)),
        ],
    ),
    "scale": (
        "Scale",
        "GPT-2 from its config, two micro-batches of 1 x 32 made tokens, float32, nothing cached, certified 5 % at "
        "99 %. Vectors: peak memory above the start in vectors of the model's size, with and without the graph of one "
        "micro-batch.",
        [
            *(("GPT-2", plain("network")), ("parameters", plain("num_parameters")), ("way", plain("tool"))),
            *(("value", plain("value")), ("interval", _interval), ("HVPs", plain("num_hvps"))),
            ("vectors", plain("peak_vectors")),
            *(("vectors without the graph", plain("peak_vectors_without_graph")), ("converged", _converged)),
            ("note", _reasons),
        ],
    ),
    "estimators": (
        "Trace and spectral density",
        "MLP, against its whole Hessian in float64; means over 20 seeds. Error of the trace: root mean square, "
        "relative. Error of the density: Wasserstein-1 distance to the true spectrum over its norm.",
        [
            *(("quantity", plain("tool")), ("estimator", plain("label")), ("HVPs", plain("num_hvps"))),
            *(("true error", plain("error")), ("note", _reasons)),
        ],
    ),
}
INTRODUCTION = """# Curvature benchmark

{cpu}, {threads} threads, {examples} examples, float32; torch {torch}. Rows: results.jsonl; unrounded numbers: the CSV \
files; versions and hashes: benchmark.json."""


def _figure(rows: Sequence[Row], out: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Draw the true error against the seconds of the solve, one panel per network and one mark per tool."""
    fields = ("network", "tool", "seconds", "num_hvps")
    drawn: list[Row] = [{name: r.get(name) for name in fields} | {"error": error_of(r)} for r in rows]
    drawn = [row for row in drawn if row["error"] is not None]
    networks = list(dict.fromkeys(row["network"] for row in drawn))
    if not networks:
        return []
    tools = [name for name in LOOKS if any(row["tool"] == name for row in drawn)]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(FULL, 2.7, columns=len(networks))
        for ax, network in zip(axes.flat, networks, strict=True):
            here = [row for row in drawn if row["network"] == network]
            for row in here:
                look = LOOKS[row["tool"]]
                ax.plot(row["seconds"], max(row["error"], FLOOR), color=look.color, marker=look.marker, linestyle="")
            ax.axhline(1e-2, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
            ax.set(title=network, xlabel="Solve (s)")
            log_axis(ax.xaxis, [row["seconds"] for row in here], padding=1.6)
            log_axis(ax.yaxis, [max(row["error"], FLOOR) for row in drawn] + [1e-2], padding=2.0)
        axes.flat[0].set_ylabel("True relative error")
        handles = [
            Line2D([], [], color=LOOKS[n].color, marker=LOOKS[n].marker, linestyle="", label=LOOKS[n].label)
            for n in tools
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        caption = (
            "Error of the top Hessian eigenvalue, against a float64 solve, and seconds that each tool took. "
            "Dashed: the 1 % that ours certifies."
        )
        return save_figure(figure, pd.DataFrame(drawn), out, "error_vs_seconds", caption, provenance)


def _facts(rows: Sequence[Row]) -> Row:
    torch = next((row["versions"]["torch"] for row in rows if "versions" in row), "unknown")
    threads, examples = rows[0]["threads"], max(row["examples"] for row in rows)
    return {"cpu": cpu(), "threads": threads, "examples": f"{examples:,}", "torch": torch}


def _provenance(rows: Sequence[Row]) -> Row:
    """Return what the numbers were measured on and with."""
    prepared = {r["network"]: {k: r.get(k) for k in ("data_sha256", "weights_sha256")} for r in _of(rows, "prepare")}
    return measured_with(rows) | {
        "tools": {row["tool"]: row["version"] for row in rows if "version" in row},
        "networks": prepared,
    }

"""The tables and the figure of the curvature benchmark, from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.lines import Line2D

from scripts.benchmarks.curvature_peers import TOOLS
from scripts.benchmarks.report import Part, lines_of, median_of, provenance_of, write_report
from scripts.benchmarks.rows import Row
from sharpness.plots.axes import log_axis
from sharpness.plots.save import save_figure
from sharpness.plots.style import FULL, STYLE, Look, new_figure


def lines(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the lines of a part's table; those of top eigenvalues with their true error, and time in units of ours."""
    if part == "ratios":
        return ratios(lines(rows, "starts"))
    chosen = lines_of(rows, part)
    truths = {row["network"]: row.get("value") for row in rows if row["part"] == "truth"}
    for line in chosen if part in ("eigenvalue", "starts") else ():
        line["label"] = TOOLS[line["tool"]].label
        line["error"] = error_of(line.get("value"), truths.get(line["network"]))
    return chosen


def ratios(of_starts: Sequence[Row]) -> list[Row]:
    """Return for each tool its times and errors over all networks and starts, and its medians on each network."""
    found = []
    for tool in dict.fromkeys(line["tool"] for line in of_starts):
        here = [line for line in of_starts if line["tool"] == tool and line.get("error")]
        here = [line for line in here if line["times_ours"] != [None] * len(line["times_ours"])]
        found.append(
            {
                "label": TOOLS[tool].label,
                "networks": len(here),
                "times_ours": [ratio for line in here for ratio in line["times_ours"]],
                "medians": [median_of(line["times_ours"]) for line in here],
                "error": [error for line in here for error in line["error"]],
            }
        )
    return found


def error_of(value: Any, exact: float | None) -> Any:
    """Return ``|value - exact| / |exact|``, one for each of several values, ``None`` where a number is missing."""
    if value is None or not exact:
        return None
    return [error_of(each, exact) for each in value] if isinstance(value, list) else abs(value - exact) / abs(exact)


def report(parts: Mapping[str, Part], rows: Sequence[Row], out: Path) -> list[Path]:
    """Write the tables of all rows, and the figure of errors against time."""
    hashes = ("data_sha256", "weights_sha256")
    networks = {row["network"]: {name: row.get(name) for name in hashes} for row in lines_of(rows, "prepare")}
    provenance = provenance_of(rows, networks=networks)
    files = write_report("Curvature benchmark", parts, {part: lines(rows, part) for part in parts}, provenance, out)
    return files + _draw(solves(lines(rows, "eigenvalue") + lines(rows, "starts")), out, provenance)


def solves(chosen: Sequence[Row]) -> list[Row]:
    """Return network, tool, seconds, products and error of each solve, also of several in one line."""
    fields = ("network", "tool", "seconds", "num_hvps", "error")
    found = []
    for line in chosen:
        if (error := line["error"]) is not None:
            count = len(error) if isinstance(error, list) else 1
            each = (line[name] if isinstance(line[name], list) else [line[name]] * count for name in fields)
            found += [dict(zip(fields, one, strict=True)) for one in zip(*each, strict=True)]
    return found


COLORS = ("#0173b2", "#949494", "#de8f05", "#029e73", "#56b4e9", "#d55e00", "#cc78bc", "#ca9161")
MARKERS = ("o", "p", "s", "^", "v", "D", "P", "X")
LOOKS = {name: Look(COLORS[i], MARKERS[i], "", tool.label) for i, (name, tool) in enumerate(TOOLS.items())}
FLOOR = 1e-8
"""Errors below are drawn here."""
CAPTION = (
    "Error of the top Hessian eigenvalue, against a float64 solve, and seconds that each tool took, a mark for each "
    "random start. Dashed: the 1 % that ours certifies."
)


def _draw(drawn: Sequence[Row], out: Path, provenance: Row) -> list[Path]:
    """Draw the true error against the seconds of the solve, one panel per network and one kind of mark per tool."""
    networks = list(dict.fromkeys(line["network"] for line in drawn))
    if not networks:
        return []
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(FULL, 2.7, columns=len(networks))
        for ax, network in zip(axes.flat, networks, strict=True):
            here = [line for line in drawn if line["network"] == network]
            for line in here:
                look = LOOKS[line["tool"]]
                ax.plot(line["seconds"], max(line["error"], FLOOR), color=look.color, marker=look.marker, linestyle="")
            ax.axhline(1e-2, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
            ax.set(title=network, xlabel="Solve (s)")
            log_axis(ax.xaxis, [line["seconds"] for line in here], padding=1.6)
            log_axis(ax.yaxis, [max(line["error"], FLOOR) for line in drawn] + [1e-2], padding=2.0)
        axes.flat[0].set_ylabel("True relative error")
        looks = [look for name, look in LOOKS.items() if any(line["tool"] == name for line in drawn)]
        handles = [
            Line2D([], [], color=look.color, marker=look.marker, linestyle="", label=look.label) for look in looks
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return save_figure(figure, pd.DataFrame(drawn), out, "error_vs_seconds", CAPTION, provenance)

"""The report of a benchmark from its rows: a Markdown page of tables, a CSV for each, and where they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from scripts.benchmarks.rows import Row
from sharpness.plots.save import write_all

MIB = 1 << 20
SETTING = (
    "{cpu}, {threads} threads, {examples:,} examples, float32; torch {torch}. Rows: results.jsonl; unrounded numbers: "
    "the CSV files; versions and hashes: benchmark.json. A number measured several times is its median, with the "
    "smallest and the largest in brackets."
)


@dataclass(frozen=True)
class Part:
    """A part of a benchmark: the function that measures a job, and the title, note and columns of its table.

    ``columns`` is the table's header, ``title: field of a line | ...``, where the field may be left out if the title is
    its name. Fields that end in ``_bytes`` are shown in MiB.
    """

    measure: Callable[..., Row]
    title: str
    note: str
    columns: str

    def table(self, lines: Sequence[Row]) -> list[Row]:
        """Return the cells of each line by their columns; the last says why numbers are missing, where any are.

        >>> Part(dict, "Cost", "", "network | HVPs: num_hvps | converged").table(
        ...     [{"network": "SB", "num_hvps": 9, "converged": True, "reasons": {}}]
        ... )
        [{'network': 'SB', 'HVPs': 9, 'converged': 'yes'}]
        """
        columns = [column.partition(": ")[::2] for column in self.columns.split(" | ")]
        columns += [("note", "note")] if any(line.get("note") for line in lines) else []
        return [{title: _shown(field or title, line.get(field or title)) for title, field in columns} for line in lines]


def _shown(field: str, value: Any) -> Any:
    """Return a field's value as a table shows it."""
    if value is not None and field.endswith("_bytes"):
        return round(value / MIB, 1)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def lines_of(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the lines of a part's table: one for each row, or for each of its entries.

    ``note`` says why numbers are missing; whether a tool converged has a column of its own.
    """
    lines = [row | entry for row in rows if row["part"] == part for entry in row.get("entries", [{}])]
    for line in lines:
        reasons = [text for name, text in line.get("reasons", {}).items() if name != "converged"]
        line["note"] = "; ".join(reasons) or line.get("note")
        if line.get("lower") is not None:
            line["interval"] = f"[{line['lower']:.6g}, {line['upper']:.6g}]"
    return lines


def provenance_of(rows: Sequence[Row], **more: Any) -> Row:
    """Return machine, threads, versions and tools with which the rows were measured."""
    lines = [line for part in dict.fromkeys(row["part"] for row in rows) for line in lines_of(rows, part)]
    return {
        "schema": 1,
        "machine": next((row["machine"] for row in rows if "machine" in row), {}),
        "threads": sorted({row["threads"] for row in rows}),
        "examples": sorted({row["examples"] for row in rows}),
        "git_commits": sorted({row["git_commit"] for row in rows if row.get("git_commit")}),
        "versions": next((row["versions"] for row in rows if "versions" in row), {}),
        "tools": {line["tool"]: line["version"] for line in lines if "version" in line},
        **more,
    }


def write_report(
    title: str, parts: Mapping[str, Part], lines: Mapping[str, Sequence[Row]], provenance: Row, out: Path
) -> list[Path]:
    """Write ``benchmark.md``, a CSV for each part that has lines, and ``benchmark.json``."""
    setting = SETTING.format(
        cpu=provenance["machine"].get("cpu", "unknown processor"),
        threads=provenance["threads"][0],
        examples=provenance["examples"][-1],
        torch=provenance["versions"].get("torch", "unknown"),
    )
    texts, contents = [f"# {title}", setting], dict[str, bytes]()
    for name, part in parts.items():
        if lines[name]:
            cells = part.table(lines[name])
            texts.append(f"## {part.title}\n\n{part.note}\n\n{markdown(cells)}")
            contents[f"{name}.csv"] = frame_of(cells).to_csv(index=False, lineterminator="\n").encode()
    text = json.dumps(provenance, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    contents |= {"benchmark.md": ("\n\n".join(texts) + "\n").encode(), "benchmark.json": f"{text}\n".encode()}
    return write_all(out, contents)


def frame_of(cells: Sequence[Row]) -> pd.DataFrame:
    """Return a table with three columns, median, smallest and largest, for a number that was measured several times.

    >>> frame_of([{"network": "f1", "seconds": [3.0, 1.0, 9.0]}]).to_dict("records")
    [{'network': 'f1', 'seconds': 3.0, 'seconds, smallest': 1.0, 'seconds, largest': 9.0}]
    """
    flat = []
    for line in cells:
        flat.append({})
        for name, value in line.items():
            flat[-1][name] = median_of(value)
            if isinstance(value, list):
                flat[-1] |= {f"{name}, smallest": min(value), f"{name}, largest": max(value)}
    return pd.DataFrame(flat)


def median_of(value: Any) -> Any:
    """Return the median of a list, and anything else as it is."""
    return median(value) if isinstance(value, list) else value


def markdown(cells: Sequence[Row]) -> str:
    """Return a table with numbers of four digits on the right, and text on the left.

    >>> print(markdown([{"network": "f1", "products": 9, "seconds": [3.0, 1.0, 9.5], "value": None}]))
    | network | products | seconds | value |
    | --- | ---: | --- | --- |
    | f1 | 9 | 3 (1 to 9.5) | – |
    """
    numeric = [any(isinstance(line[name], int | float) for line in cells) for name in cells[0]]
    lines = [list(cells[0]), ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(value) for value in line.values()] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, list):
        return f"{median(value):.3g} ({min(value):.3g} to {max(value):.3g})"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")

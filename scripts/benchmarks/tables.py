"""Tables and provenance of a benchmark's rows: columns, Markdown, CSV, and the machine that measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Any]]


def plain(name: str) -> Callable[[Row], Any]:
    """Return the function from a row to one of its fields."""
    return lambda row: row.get(name)


def table_of(rows: Sequence[Row], columns: Sequence[Column]) -> pd.DataFrame:
    """Return the table with these columns, a row for each row."""
    return pd.DataFrame([{name: read(row) for name, read in columns} for row in rows])


def csv_of(table: pd.DataFrame) -> bytes:
    """Return a table as CSV with unrounded numbers."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def markdown(table: pd.DataFrame) -> str:
    """Return a table with numbers of four digits and a dash for what is missing; text on the left, numbers right."""
    header = [str(name) for name in table]
    numeric = [any(isinstance(value, int | float) and value == value for value in table[name]) for name in table]
    lines = [header, ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(value) for value in row] for row in table.astype(object).itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def cpu() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def measured_with(rows: Sequence[Row]) -> Row:
    """Return what the rows were measured on and with: machine, threads, examples, commits and versions."""
    return {
        "schema": 1,
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "threads": sorted({row["threads"] for row in rows}),
        "examples": sorted({row["examples"] for row in rows}),
        "git_commits": sorted({row["git_commit"] for row in rows if row.get("git_commit")}),
        "versions": next((row["versions"] for row in rows if "versions" in row), {}),
    }

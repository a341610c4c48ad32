"""Write the tables of a study, and say where its numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import Study
from analysis.tables import to_csv, to_latex, to_markdown
from sharpness.plots.frames import records
from sharpness.plots.save import provenance_json, rendered_with, write_all


def save_table(table: pd.DataFrame, out: Path, caption: str, provenance: Mapping[str, Any]) -> list[Path]:
    """Write ``table.md``, ``table.tex``, ``table.csv`` (unrounded) and ``table.json``; return their paths."""
    csv = to_csv(table).encode()
    contents = {
        "table.md": to_markdown(table, caption).encode(),
        "table.tex": to_latex(table, caption).encode(),
        "table.csv": csv,
        "table.json": provenance_json({**provenance, "caption": caption}, csv),
    }
    return write_all(out, contents)


def provenance(study: Study) -> dict[str, Any]:
    """Return where the numbers of a study come from: every run with its status and hashes, and what rendered them."""
    fields = ("role", "seed", "run_id", "batch_size", "status", "reason", "git_commit", "device", "threads")
    fields += ("data_sha256", "config_sha256", "checkpoint_sha256", "versions")
    runs = [{key: _whole(row[key]) for key in fields} for row in records(study.runs)]
    return {
        "schema": 1,
        "n": {role: sum(r["role"] == role and r["status"] == "finished" for r in runs) for role in ("SB", "LB")},
        "seeds": sorted({run["seed"] for run in runs}),
        "runs": runs,
        "rendered_with": rendered_with("scipy"),
    }


def _whole(value: Any) -> Any:
    """Return a count as an int again: a column with empty places holds floats."""
    return int(value) if isinstance(value, float) else value
